"""Measuring a finished cell: its answers, and its model as a judge. What measures took no part in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from selfjudge.baselines.scorer import RewardScorer, load_scorer, score_candidates
from selfjudge.core.verdict import agreement_score
from selfjudge.data.candidates import Candidates
from selfjudge.data.eval_prompts import EvalPrompt
from selfjudge.data.io import atomic_writer, read_jsonl
from selfjudge.data.load import prepare_data
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import load_model, resolve_model
from selfjudge.evaluation.evaluators import Evaluator, by_judge, by_value, true_utility
from selfjudge.evaluation.judging import summarise
from selfjudge.evaluation.prompts import fresh_or_read
from selfjudge.evaluation.scaling import Rule, by_score, by_tournament, longest, most_probable
from selfjudge.evaluation.winrate import pairs_of
from selfjudge.judge import Judge
from selfjudge.recipes.comparison import StudySection
from selfjudge.recipes.schema import Recipe
from selfjudge.records import OVERALL, Comparison, Completion
from selfjudge.study.cells import Cell, study_of
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import context_text, load_templates
from selfjudge.training.held_out import as_comparisons
from selfjudge.training.stage import batching

ANSWERS = "answers.jsonl"
FRESH = 2
"""Added to a seed for its fresh prompts, so that they are not those of a demo's curve."""


class Answer(BaseModel):
    """One prompt's answer. ``second``: another sample, of the reference alone, to make pairs for the judges.

    ``score``: 1 where it beats the reference's answer, 0.5 for a tie. ``value``: what it is worth by itself, where the
    evaluator knows.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    prompt: str
    text: str
    second: str | None = None
    value: float | None = None
    score: float = 0.5


@dataclass(frozen=True)
class Judged:
    """How a judge did on labelled pairs: ``right`` for each, 1, 0 or one half, and the figures of a summary."""

    right: list[float]
    summary: dict[str, Any]


def study_prompts(study: StudySection, seed: int) -> tuple[EvalPrompt, ...]:
    """Returns the prompts that all cells of a seed are compared on."""
    return fresh_or_read(study.prompts, study.limit, seed + FRESH)


def check_study(study: StudySection, seeds: Sequence[int]) -> None:
    """Finds out, before any long work, whether the prompts are there and the evaluator can be asked about them.

    Raises:
        DataError: if the prompts cannot be read, or the world is to judge others than its own.
        ModelError: if the evaluator's model is not there.
    """
    _, _, model = study.evaluator.partition(":")
    if model:
        resolve_model(model)
    for seed in seeds:
        prompts = study_prompts(study, seed)
        if not model:
            true_utility(pairs_of(prompts, *[[""] * len(prompts)] * 2), [""] * len(prompts))


def sampling(recipe: Recipe, seed: int, n: int = 1) -> SamplingParams:
    """Returns how answers are drawn: as in self-training's rollouts."""
    rollout = recipe.self_training.rollout
    return SamplingParams(
        n=n, temperature=rollout.temperature, top_p=rollout.top_p, max_new_tokens=rollout.max_new_tokens, seed=seed
    )


def engine_of(model: Path, recipe: Recipe) -> TransformersEngine:
    """Returns the engine of a model."""
    loaded = load_model(model)
    return TransformersEngine(loaded.model, loaded.chat, **batching(recipe))


def judge_of(engine: TransformersEngine, recipe: Recipe) -> Judge:
    """Returns an engine's model as a judge, by the recipe's templates."""
    return Judge(engine, JudgmentEncoder(load_templates(recipe.templates.set), engine.chat))


def answer_prompts(cell: Cell, recipe: Recipe) -> None:
    """Samples the cell's answers, compares them with the reference's, and writes ``answers.jsonl``."""
    study = study_of(recipe)
    prompts = study_prompts(study, cell.seed)
    engine = engine_of(cell.folder / "run", recipe)
    is_reference = cell.name == study.reference
    params = sampling(recipe, cell.seed, n=2 if is_reference else 1)
    drawn = engine.sample([engine.chat.prompt_ids(p.prompt) for p in prompts], params)
    texts = [samples[0].text for samples in drawn]
    others = texts if is_reference else [a.text for a in read_answers(cell.other(study.reference) / ANSWERS)]
    seconds = [samples[1].text for samples in drawn] if is_reference else None
    _write_answers(cell.folder / ANSWERS, _compared(prompts, texts, others, evaluator(study, recipe), seconds))


def read_answers(file: Path) -> list[Answer]:
    """Returns a finished cell's answers."""
    return [Answer.model_validate(row) for _, row in read_jsonl(file)]


def _write_answers(file: Path, answers: Sequence[Answer]) -> None:
    with atomic_writer(file, overwrite=True) as handle:
        handle.writelines(answer.model_dump_json() + "\n" for answer in answers)


def _compared(
    prompts: Sequence[EvalPrompt],
    texts: Sequence[str],
    others: Sequence[str],
    evaluate: Evaluator,
    seconds: Sequence[str] | None = None,
) -> list[Answer]:
    pairs = pairs_of(prompts, texts, others)
    return [
        Answer(
            id=pair.id,
            prompt=context_text(pair.prompt),
            text=pair.response_a,
            second=seconds[i] if seconds else None,
            value=scored.values[0] if scored.values else None,
            score=scored.score,
        )
        for i, (pair, scored) in enumerate(zip(pairs, evaluate(pairs), strict=True))
    ]


def evaluator(study: StudySection, recipe: Recipe) -> Evaluator:
    """Returns who says which of two answers is better."""
    kind, _, model = study.evaluator.partition(":")
    if kind == "judge":
        return by_judge(judge_of(engine_of(Path(model), recipe), recipe))
    if kind == "reward":
        scorer = load_scorer(model, **batching(recipe))
        return by_value(lambda pairs, texts: scorer.score([c.prompt for c in pairs], texts))
    return by_value(true_utility)


def pairs_for_judges(cell: Cell, recipe: Recipe) -> list[Comparison]:
    """Returns the labelled pairs on which the judges of a seed are compared.

    Pairs that the data holds out; or, where nothing is held out, two samples of the reference to each prompt, labelled
    by the evaluator.
    """
    study = study_of(recipe)
    if recipe.data.held_out > 0:
        held_out = prepare_data(recipe.data, recipe.seed).held_out
        return as_comparisons([r for r in held_out if r.principle == OVERALL])
    prompts = study_prompts(study, cell.seed)
    pairs = [
        Comparison(id=p.id, prompt=p.prompt, response_a=a.text, response_b=str(a.second))
        for p, a in zip(prompts, read_answers(cell.other(study.reference) / ANSWERS), strict=True)
    ]
    scored = evaluator(study, recipe)(pairs)
    return [
        pair.model_copy(update={"label": "A" if s.score > 0.5 else "B"})
        for pair, s in zip(pairs, scored, strict=True)
        if s.score != 0.5
    ]


def judge_pairs(cell: Cell, recipe: Recipe) -> Judged:
    """Returns how the cell's model does as a judge, or as a reward model."""
    pairs = pairs_for_judges(cell, recipe)
    if cell.section.method == "reward-model":
        return _scored(load_scorer(cell.folder / "run", **batching(recipe)), pairs)
    judge = judge_of(engine_of(cell.folder / "run", recipe), recipe)
    pairs = [c for c in pairs if judge.fits(c)]
    verdicts = judge.judge(pairs)
    right = [agreement_score(v.preferred, c.label) for c, v in zip(pairs, verdicts, strict=True)]
    return Judged(right, summarise(pairs, verdicts).model_dump(mode="json"))


def _scored(scorer: RewardScorer, pairs: Sequence[Comparison]) -> Judged:
    scored = by_value(lambda asked, texts: scorer.score([c.prompt for c in asked], texts))(pairs)
    return Judged([s.score if c.label == "A" else 1 - s.score for c, s in zip(pairs, scored, strict=True)], {})


def choose_among(cell: Cell, recipe: Recipe) -> None:
    """Chooses answers among N of the start's candidates by its tournament, and by rules to compare it with.

    Of each rule and N the answers are written as those of a policy, ``answers/RULE of N.jsonl``. The candidates of a
    smaller N are the first of those of a larger one.
    """
    study = study_of(recipe)
    start, reward = (cell.other(name) / "run" for name in cell.section.needs())
    engine, scorer = engine_of(start, recipe), load_scorer(reward, **batching(recipe))
    prompts = study_prompts(study, cell.seed)
    params = sampling(recipe, cell.seed, n=max(study.candidates))
    drawn = engine.sample([engine.chat.prompt_ids(p.prompt) for p in prompts], params)
    everything = [_candidates(p, samples) for p, samples in zip(prompts, drawn, strict=True)]
    rules: dict[str, Rule] = {
        "tournament": by_tournament(judge_of(engine, recipe), cell.seed),
        "best by reward": by_score(
            lambda rows: score_candidates(scorer, [r.prompt for r in rows], [r.texts for r in rows])
        ),
        "longest": longest,
        "most probable": most_probable,
    }
    others = [a.text for a in read_answers(cell.other(study.reference) / ANSWERS)]
    evaluate = evaluator(study, recipe)
    (cell.folder / "answers").mkdir(exist_ok=True)
    for n in study.candidates:
        rows = [row.first(n) for row in everything]
        for name, rule in rules.items():
            texts = [row.texts[i] for row, i in zip(rows, rule(rows), strict=True)]
            _write_answers(
                cell.folder / "answers" / f"{name} of {n}.jsonl", _compared(prompts, texts, others, evaluate)
            )


def _candidates(prompt: EvalPrompt, samples: Sequence[Completion]) -> Candidates:
    texts = tuple(s.text for s in samples)
    return Candidates(prompt.id, prompt.prompt, texts, (0.0,) * len(texts), tuple(sum(s.logprobs) for s in samples))
