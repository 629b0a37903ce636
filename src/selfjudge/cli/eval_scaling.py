"""`selfjudge eval scaling`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from selfjudge.cli.common import (
    JsonOption,
    ModelOption,
    OverwriteOption,
    ReportOption,
    ThinkingOption,
    check_outputs,
    print_table,
    progress_bar,
    write_json,
)
from selfjudge.cli.engines import EngineOptions, OpenedEngine, with_engine_options
from selfjudge.cli.eval_winrate import WORLD, LimitOption

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from selfjudge.data.candidates import Candidates
    from selfjudge.data.eval_prompts import EvalPrompt
    from selfjudge.engines.base import SamplingParams
    from selfjudge.evaluation.scaling import Rule, Scaling
    from selfjudge.judge import Judge

RepeatsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Also a tournament of K comparisons a match, drawn from the judge's probabilities."),
]
GoodQuantileOption = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Quantile of all scores from which an answer counts as good.")
]


@with_engine_options
def scaling(
    *,
    model: ModelOption,
    input: Annotated[str, typer.Option(help="Scored candidates; or builtin:world, to sample and score by the truth.")],
    n: Annotated[str, typer.Option(help="Numbers of candidates.")] = "1,2,4,8",
    reward_model: Annotated[str | None, typer.Option(help="Also choose by this reward model (best-of-N).")] = None,
    repeats: RepeatsOption = None,
    league: Annotated[bool, typer.Option("--league", help="Also a league: N (N - 1) / 2 matches.")] = False,
    good_quantile: GoodQuantileOption = 0.5,
    limit: LimitOption = None,
    seed: Annotated[int, typer.Option(help="Seed of samples, subsets, brackets and drawn verdicts.")] = 0,
    temperature: Annotated[float, typer.Option(min=0.0)] = 1.0,
    top_p: Annotated[float, typer.Option(min=0.001, max=1.0)] = 0.9,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a candidate at most.")] = 64,
    thinking: ThinkingOption = "off",
    json_: JsonOption = None,
    report: ReportOption = None,
    overwrite: OverwriteOption = False,
    options: EngineOptions,
) -> None:
    """Measure how the tournament's answer improves with the number of candidates, beside simpler rules.

    The sampling options are for builtin:world only. With --adapter the adapted model is sampled and the model without
    it judges.
    """
    check_outputs(json_, report, overwrite=overwrite, inputs=[input, *options.files(model)])
    ns = _numbers(n)

    from selfjudge.data.candidates import load_candidates
    from selfjudge.engines.base import SamplingParams
    from selfjudge.evaluation.match_judges import RememberingJudge
    from selfjudge.evaluation.prediction import predict
    from selfjudge.evaluation.prompts import fresh_or_read
    from selfjudge.evaluation.scaling import choose, scale

    params = SamplingParams(n=ns[-1], temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed)
    rows = None if input == WORLD else load_candidates(input, limit)
    opened = replace(options, thinking=thinking).open(model)
    rows = rows or _sampled(opened, fresh_or_read(WORLD, limit, seed), params)
    judge = RememberingJudge(opened.judge(opened.base))
    drawn = [row.shuffled(seed) for row in _usable(rows, judge, ns[-1])]
    tournaments = {"tournament": None} | ({f"tournament, K = {repeats}": repeats} if repeats else {})
    scores = choose(drawn, ns, _rules(drawn, judge, tournaments, seed, league, reward_model))
    prediction = predict(judge, drawn, ns, scores, tournaments, good_quantile, seed, every=league)
    found = scale(scores, ns, len(rows) - len(drawn), prediction)
    what = {"model": model, "input": input, "reward_model": reward_model, "seed": seed, "repeats": repeats}
    _show(found, what | {"good_quantile": good_quantile, "thinking": thinking}, json_, report)


def _numbers(text: str) -> tuple[int, ...]:
    """Returns the numbers of --n, which must rise."""
    parts = text.split(",")
    ns = tuple(int(part) for part in parts if part.strip().isdecimal())
    if len(ns) != len(parts) or ns[0] < 1 or ns[-1] > 1000 or list(ns) != sorted(set(ns)):
        raise typer.BadParameter(f"{text!r} are no rising numbers from 1 to 1000, such as 1,2,4,8.", param_hint="--n")
    return ns


def _sampled(opened: OpenedEngine, prompts: Sequence[EvalPrompt], params: SamplingParams) -> list[Candidates]:
    """Returns fresh candidates to prompts of the small world with their true utilities."""
    from selfjudge.data.candidates import Candidates
    from selfjudge.evaluation.answering import check_lengths
    from selfjudge.world.truth import utility

    check_lengths(opened.engine, opened.chat, opened.judge(opened.base), [(p.id, p.prompt) for p in prompts], params)
    with progress_bar("Sampling", len(prompts)) as advance:
        samples = opened.engine.sample([opened.chat.prompt_ids(p.prompt) for p in prompts], params, advance)
    rows = []
    for prompt, found in zip(prompts, samples, strict=True):
        texts = tuple(completion.text for completion in found)
        known = all(completion.logprobs is not None for completion in found)
        logprobs = tuple(sum(completion.logprobs or ()) for completion in found) if known else None
        scores = tuple(utility(prompt.prompt[-1].content, text) for text in texts)
        rows.append(Candidates(prompt.id, prompt.prompt, texts, scores, logprobs))
    return rows


def _usable(rows: Sequence[Candidates], judge: Judge, n: int) -> list[Candidates]:
    """Returns the prompts with enough candidates, none of them too long to judge."""
    from selfjudge.errors import DataError
    from selfjudge.evaluation.scaling import fits

    kept = [row for row in rows if len(row.texts) >= n and fits(judge, row)]
    if not kept:
        raise DataError(
            f"No prompt has {n} scored candidates that fit the context: give --n smaller numbers, or more candidates."
        )
    return kept


def _rules(
    rows: Sequence[Candidates],
    judge: Judge,
    tournaments: Mapping[str, int | None],
    seed: int,
    league: bool,
    reward_model: str | None,
) -> dict[str, Rule]:
    from selfjudge.evaluation.match_judges import SampledJudge
    from selfjudge.evaluation.scaling import by_league, by_score, by_tournament, longest, most_probable

    rules = {
        name: by_tournament(SampledJudge(judge, repeats, seed) if repeats else judge, seed)
        for name, repeats in tournaments.items()
    }
    if league:
        rules["league"] = by_league(judge)
    rules["longest"] = longest
    if all(row.logprobs is not None for row in rows):
        rules["highest log-prob"] = most_probable
    if reward_model:
        from selfjudge.baselines.scorer import load_scorer, score_candidates

        scorer = load_scorer(reward_model)
        rules["best-of-N by reward"] = by_score(
            lambda some: score_candidates(scorer, [r.prompt for r in some], [r.texts for r in some])
        )
    return rules


def _show(found: Scaling, what: dict[str, object], json_: Path | None, report: Path | None) -> None:
    from selfjudge.evaluation.page import write_page
    from selfjudge.evaluation.prediction import prediction_table
    from selfjudge.evaluation.scaling import sections, table

    if json_:
        write_json(json_, what, found)
    if report:
        facts = [*what.items(), ("prompts", found.prompts), ("left out", found.left_out)]
        write_page(report, f"Tournaments of {what['model']}", facts, sections(found), overwrite=True)
    print(f"{found.prompts} prompts; left out, too few candidates or too long: {found.left_out}")
    for row in table(found.quality, found.n)[1:]:
        print_table([(f"N = {k}", value) for k, value in zip(found.n, row[1:], strict=True)], title=str(row[0]))
    if not found.prediction:
        print("Too few prompts with good and with bad candidates to predict from.")
        return
    p = found.prediction
    print(f"Good: a score of {p.good_from:.4g} or more. p_gen {p.p_gen} of {p.p_gen.n} prompts.")
    for name, tournament in p.knockouts.items():
        print(f"p_comp of {name}: {tournament.p_comp}")
    for row in prediction_table(p, found.n)[1:]:
        print_table([(f"N = {k}", value) for k, value in zip(found.n, row[1:], strict=True)], title=str(row[0]))
