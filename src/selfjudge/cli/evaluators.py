"""From the option --evaluator to who says which answer is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from selfjudge.cli.engines import OpenedEngine
    from selfjudge.data.eval_prompts import EvalPrompt
    from selfjudge.evaluation.evaluators import Evaluator

KINDS = "world, judge:MODEL, reward:MODEL, gsm8k, math or ifeval"


def checked_prompts(
    source: str, limit: int | None, seed: int, evaluator: str, server: str | None
) -> tuple[EvalPrompt, ...]:
    """Returns the prompts of ``source``; errors as :func:`check_evaluator`, which is asked about them."""
    from selfjudge.evaluation.prompts import fresh_or_read

    prompts = fresh_or_read(source, limit, seed)
    check_evaluator(evaluator, server, prompts)
    return prompts


def check_evaluator(evaluator: str, server: str | None, prompts: Sequence[EvalPrompt]) -> None:
    """Finds out, before any long work, whether the evaluator can be asked about the prompts.

    Raises:
        typer.BadParameter: for an unknown evaluator, or a server for one that has none.
        DataError: if a prompt is not of its kind, or lacks what is to be checked.
        MissingExtraError: if the evaluator needs a package that is not installed.
        ModelError: if its model is not there.
    """
    from selfjudge.engines.load import resolve_model
    from selfjudge.evaluation.checkers import CHECKERS
    from selfjudge.world.truth import utility

    kind, _, model = evaluator.partition(":")
    if (kind not in ("judge", "reward") or not model) and evaluator not in ("world", *CHECKERS):
        raise typer.BadParameter(f"{evaluator!r} is not one of {KINDS}.", param_hint="--evaluator")
    if server is not None and kind != "judge":
        raise typer.BadParameter("only with --evaluator judge:MODEL.", param_hint="--evaluator-server")
    if model and model != "builtin:world":
        resolve_model(model)
    for prompt in prompts:
        if kind == "world":
            utility(prompt.prompt[-1].content, "")
        if kind in CHECKERS:
            CHECKERS[kind](prompt, "")


def open_evaluator(evaluator: str, prompts: Sequence[EvalPrompt], opened: Callable[[str], OpenedEngine]) -> Evaluator:
    """Returns the evaluator that the option names, for pairs of answers to the prompts."""
    from selfjudge.evaluation.checkers import CHECKERS
    from selfjudge.evaluation.evaluators import by_check, by_judge, by_value, true_utility

    kind, _, model = evaluator.partition(":")
    if kind == "judge":
        found = opened(model)
        return by_judge(found.judge(found.engine))
    if kind == "world":
        return by_value(true_utility)
    if kind == "reward":
        from selfjudge.baselines.scorer import load_scorer

        scorer = load_scorer(model)
        return by_value(lambda pairs, texts: scorer.score([c.prompt for c in pairs], texts))

    return by_check(prompts, CHECKERS[kind])


def uses_own_judge(evaluator: str, *systems: str) -> bool:
    """Returns whether the evaluator is a judge that one of the systems is, or was trained with."""
    from selfjudge.evaluation.evaluators import own_judges

    kind, _, model = evaluator.partition(":")
    return kind == "judge" and any(own_judges(model) & own_judges(system) for system in systems)
