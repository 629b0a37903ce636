"""Measuring a finished cell: its answers, and its model as a judge. What measures took no part in training."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from selfjudge.baselines.scorer import RewardScorer, load_scorer, score_candidates
from selfjudge.core.verdict import agreement_score
from selfjudge.data.candidates import Candidates
from selfjudge.data.eval_prompts import EvalPrompt
from selfjudge.data.identity import prompt_key
from selfjudge.data.io import atomic_writer, read_jsonl
from selfjudge.data.load import prepare_data
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import load_model, resolve_model
from selfjudge.errors import RunError
from selfjudge.evaluation.evaluators import Evaluator, by_judge, by_value, true_utility
from selfjudge.evaluation.judging import summarise
from selfjudge.evaluation.prompts import fresh_or_read, task_of_prompt
from selfjudge.evaluation.scaling import Rule, by_score, by_tournament, longest, most_probable
from selfjudge.evaluation.winrate import pairs_of
from selfjudge.judge import Judge
from selfjudge.recipes.schema import Recipe
from selfjudge.recipes.section import BUILTIN_WORLD
from selfjudge.recipes.study import StudySection
from selfjudge.records import OVERALL, Comparison, Completion
from selfjudge.study.cells import Cell, study_of
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import context_text, load_templates
from selfjudge.templates.thinking import Thinking
from selfjudge.training.held_out import as_comparisons
from selfjudge.training.stage import batching

ANSWERS = "answers.jsonl"


class Answer(BaseModel):
    """One prompt's answer. ``task``: what the prompt shares with others, the unit of intervals beside the seed.

    ``second``: another sample, of the reference alone, to make pairs for the judges.

    ``score``: 1 where it beats the reference's answer, 0.5 for a tie. ``value``: what it is worth by itself, where the
    evaluator knows.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    task: str
    prompt: str
    text: str
    second: str | None = None
    value: float | None = None
    score: float = 0.5


@dataclass(frozen=True)
class Judged:
    """How a judge did on labelled pairs: the task of each, and 1, 0 or one half for right, wrong or a tie."""

    right: list[tuple[str, float]]
    summary: dict[str, Any]


def prompts_of(study: StudySection, cell: Cell) -> tuple[EvalPrompt, ...]:
    """Returns the prompts that all cells of a seed are compared on; cells of a tuning have others than results."""
    source = study.prompts if cell.split == "results" else study.tuning.prompts or study.prompts
    return fresh_or_read(source, study.limit, cell.seed, cell.split)


def check_study(recipe: Recipe, cells: Sequence[Cell]) -> None:
    """Finds out, before any long work, whether the prompts are there and the evaluator can be asked about them.

    Raises:
        DataError: if the prompts cannot be read, or the world is to judge others than its own.
        ModelError: if the evaluator's model is not there.
        RunError: if a tuning has no prompts of its own.
    """
    study = study_of(recipe)
    _, _, model = study.evaluator.partition(":")
    if model:
        resolve_model(model)
    for cell in {(cell.seed, cell.split): cell for cell in cells}.values():
        prompts = prompts_of(study, cell)
        if not model:
            true_utility(pairs_of(prompts, *[[""] * len(prompts)] * 2), [""] * len(prompts))
        if cell.split == "tuning" and study.prompts != BUILTIN_WORLD:
            shared = {p.prompt for p in prompts} & {p.prompt for p in fresh_or_read(study.prompts, study.limit, 0)}
            if shared:
                raise RunError(
                    f"{len(shared)} of the prompts that learning rates are chosen by are those of the results: set "
                    "study.tuning.prompts to a file of other prompts."
                )


def sampling(recipe: Recipe, cell: Cell, n: int = 1) -> SamplingParams:
    """Returns how a cell's answers are drawn: as in self-training's rollouts, with random numbers of its own."""
    rollout = recipe.self_training.rollout
    params = SamplingParams(
        n=n, temperature=rollout.temperature, top_p=rollout.top_p, max_new_tokens=rollout.max_new_tokens, seed=cell.seed
    )
    return params.seeded_for(cell.name)


def engine_of(model: Path, recipe: Recipe, thinking: Thinking = "off") -> TransformersEngine:
    """Returns the engine of a model; ``thinking``: whether it thinks before it answers, where it is sampled from."""
    loaded = load_model(model, thinking=thinking)
    return TransformersEngine(loaded.model, loaded.chat, **batching(recipe))


def judge_of(engine: TransformersEngine, recipe: Recipe) -> Judge:
    """Returns an engine's model as a judge, by the recipe's templates."""
    return Judge(engine, JudgmentEncoder(load_templates(recipe.templates.set), engine.chat))


def answer_prompts(cell: Cell, recipe: Recipe) -> None:
    """Samples the cell's answers, compares them with the reference's, and writes ``answers.jsonl``.

    Every cell has random numbers of its own, so that the two sides of each comparison are independent.
    """
    study = study_of(recipe)
    prompts = prompts_of(study, cell)
    engine = engine_of(cell.folder / "run", recipe, recipe.model.thinking)
    is_reference = cell.name == study.reference
    params = sampling(recipe, cell, n=2 if is_reference else 1)
    drawn = engine.sample([engine.chat.prompt_ids(p.prompt) for p in prompts], params)
    texts = [samples[0].text for samples in drawn]
    others = texts if is_reference else [a.text for a in read_answers(cell.other(study.reference) / ANSWERS)]
    seconds = [samples[1].text for samples in drawn] if is_reference else None
    compared = _compared(study, prompts, texts, others, evaluator(study, recipe), seconds)
    _write_answers(cell.folder / ANSWERS, compared)


def read_answers(file: Path) -> list[Answer]:
    """Returns a finished cell's answers."""
    return [Answer.model_validate(row) for _, row in read_jsonl(file)]


def _write_answers(file: Path, answers: Sequence[Answer]) -> None:
    with atomic_writer(file, overwrite=True) as handle:
        handle.writelines(answer.model_dump_json() + "\n" for answer in answers)


def _compared(
    study: StudySection,
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
            task=task_of_prompt(study.prompts, prompts[i]),
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
    prompts = prompts_of(study, cell)
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
    tasks = _tasks(cell, recipe)
    if cell.method == "reward-model":
        scorer = load_scorer(cell.folder / "run", **batching(recipe))
        right = _rewarded_right(scorer, pairs)
        return Judged([(_task(tasks, c), r) for c, r in zip(pairs, right, strict=True)], {})
    judge = judge_of(engine_of(cell.folder / "run", recipe), recipe)
    pairs = [c for c in pairs if judge.fits(c)]
    verdicts = judge.judge(pairs)
    right = [agreement_score(v.preferred, c.label) for c, v in zip(pairs, verdicts, strict=True)]
    judged = [(_task(tasks, c), r) for c, r in zip(pairs, right, strict=True)]
    return Judged(judged, summarise(pairs, verdicts).model_dump(mode="json"))


def _task(tasks: Mapping[bytes, str], pair: Comparison) -> str:
    key = prompt_key(pair.prompt)
    return tasks.get(key, key.hex())


def _tasks(cell: Cell, recipe: Recipe) -> dict[bytes, str]:
    """Returns the task of each prompt by its key; of held-out pairs each prompt is a task of its own."""
    study = study_of(recipe)
    if recipe.data.held_out > 0:
        return {}
    return {prompt_key(prompt.prompt): task_of_prompt(study.prompts, prompt) for prompt in prompts_of(study, cell)}


def _rewarded_right(scorer: RewardScorer, pairs: Sequence[Comparison]) -> list[float]:
    scored = by_value(lambda asked, texts: scorer.score([c.prompt for c in asked], texts))(pairs)
    return [s.score if c.label == "A" else 1 - s.score for c, s in zip(pairs, scored, strict=True)]


class PerAnswer(BaseModel):
    """What a system that chooses among candidates spends on one answer; ``seconds`` of a processor, on this machine."""

    model_config = ConfigDict(frozen=True)

    samples: int
    judgments: int
    seconds: float


def choose_among(cell: Cell, recipe: Recipe) -> dict[str, PerAnswer]:
    """Chooses answers among N of the start's candidates by its tournament, and by rules to compare it with.

    Of each rule and N the answers are written as those of a policy, ``answers/RULE of N.jsonl``; what each spends is
    returned by that name. The candidates of a smaller N are the first of those of a larger one. A tournament of N makes
    2 (N - 1) judgments, so best by reward also gets as many candidates: once equal samples, once equal judgments.
    """
    study = study_of(recipe)
    assert cell.section is not None
    start, reward = (cell.other(name) / "run" for name in cell.section.needs())
    engine = engine_of(start, recipe, recipe.model.thinking)
    scorer = load_scorer(reward, **batching(recipe))
    prompts = prompts_of(study, cell)
    equal = sorted({*study.candidates, *(2 * (n - 1) for n in study.candidates if n > 1)})
    begin = time.process_time()
    drawn = engine.sample([engine.chat.prompt_ids(p.prompt) for p in prompts], sampling(recipe, cell, n=equal[-1]))
    one_sample = (time.process_time() - begin) / (len(prompts) * equal[-1])
    everything = [_candidates(p, samples) for p, samples in zip(prompts, drawn, strict=True)]
    by_reward = by_score(lambda rows: score_candidates(scorer, [r.prompt for r in rows], [r.texts for r in rows]))
    rules: dict[str, tuple[Rule, Sequence[int]]] = {
        "tournament": (by_tournament(judge_of(engine, recipe), cell.seed), study.candidates),
        "best by reward": (by_reward, equal),
        "longest": (longest, study.candidates),
        "most probable": (most_probable, study.candidates),
    }
    others = [a.text for a in read_answers(cell.other(study.reference) / ANSWERS)]
    evaluate = evaluator(study, recipe)
    (cell.folder / "answers").mkdir(exist_ok=True)
    spent: dict[str, PerAnswer] = {}
    for name, (rule, ns) in rules.items():
        for n in ns:
            rows = [row.first(n) for row in everything]
            begin = time.process_time()
            texts = [row.texts[i] for row, i in zip(rows, rule(rows), strict=True)]
            seconds = n * one_sample + (time.process_time() - begin) / len(prompts)
            judgments = {"tournament": 2 * (n - 1), "best by reward": n}.get(name, 0)
            spent[f"{name} of {n}"] = PerAnswer(samples=n, judgments=judgments, seconds=seconds)
            compared = _compared(study, prompts, texts, others, evaluate)
            _write_answers(cell.folder / "answers" / f"{name} of {n}.jsonl", compared)
    return spent


def _candidates(prompt: EvalPrompt, samples: Sequence[Completion]) -> Candidates:
    texts = tuple(s.text for s in samples)
    return Candidates(prompt.id, prompt.prompt, texts, (0.0,) * len(texts), tuple(sum(s.logprobs) for s in samples))
