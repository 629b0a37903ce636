"""Who says which of two answers is better: each evaluator turns pairs into scores of the first side."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfjudge.data.eval_prompts import EvalPrompt
from selfjudge.evaluation.checkers import Check
from selfjudge.judge import Judge
from selfjudge.records import Comparison, LabelProbabilities
from selfjudge.world.truth import utility


@dataclass(frozen=True)
class Scored:
    """``score``: 1 where a is better, 0 where b is, 0.5 for a tie; of a judge the mean over both orders.

    ``agree``: both orders say the same; None of equal answers, and of an evaluator that does not see an order.
    ``values``: what each side is worth by itself, where the evaluator knows: utility or reward. ``passed``: of a
    checker, whether each side passed.
    """

    score: float
    agree: bool | None = None
    values: tuple[float, float] | None = None
    passed: tuple[bool, bool] | None = None


Evaluator = Callable[[Sequence[Comparison]], list[Scored]]
"""Scores the first side of each pair, in their order."""


def by_judge(judge: Judge) -> Evaluator:
    """Returns an evaluator that asks a judge in both orders: where they disagree, each order counts one half."""

    def score(pairs: Sequence[Comparison]) -> list[Scored]:
        orders = [verdict.p for verdict in judge.judge(pairs)]
        # In the order BA the label B means the first side.
        both = [(_share(p.AB, "A"), _share(p.BA, "B")) for p in orders]
        # Equal answers leave nothing to agree on.
        return [
            Scored((first + second) / 2, first == second if c.response_a != c.response_b else None)
            for c, (first, second) in zip(pairs, both, strict=True)
        ]

    return score


def by_value(value: Callable[[Sequence[Comparison], Sequence[str]], Sequence[float]]) -> Evaluator:
    """Returns an evaluator that values each side by itself, such as by a reward, and compares the two values."""

    def score(pairs: Sequence[Comparison]) -> list[Scored]:
        # Each answer once, however many others it meets.
        both = [((c.id, c.prompt, c.response_a), (c.id, c.prompt, c.response_b)) for c in pairs]
        asked = {key: c for c, keys in zip(pairs, both, strict=True) for key in keys}
        values = dict(zip(asked, value(list(asked.values()), [text for *_, text in asked]), strict=True))
        return [_higher(values[a], values[b]) for a, b in both]

    return score


def by_check(prompts: Sequence[EvalPrompt], check: Check) -> Evaluator:
    """Returns an evaluator that lets each side of a pair pass or fail; the pairs have the ids of the prompts."""
    known = {(p.id, p.prompt): p for p in prompts}

    def value(pairs: Sequence[Comparison], texts: Sequence[str]) -> list[float]:
        return [float(check(known[c.id, c.prompt], text)) for c, text in zip(pairs, texts, strict=True)]

    def score(pairs: Sequence[Comparison]) -> list[Scored]:
        found = by_value(value)(pairs)
        return [Scored(s.score, passed=(bool(s.values[0]), bool(s.values[1]))) for s in found if s.values]

    return score


def true_utility(pairs: Sequence[Comparison], texts: Sequence[str]) -> list[float]:
    """Returns the true utility of one answer to each pair's prompt.

    Raises:
        DataError: for a prompt that is not of the small world.
    """
    return [utility(c.prompt[-1].content, text) for c, text in zip(pairs, texts, strict=True)]


def own_judges(model: str) -> set[Path]:
    """Returns the folders of the judges that a model was trained with or is: itself, and the start of its run."""
    path = Path(model)
    folders = {path.resolve()} if path.exists() else {path}
    run = path / "run.json"
    if run.is_file():
        start = json.loads(run.read_text(encoding="utf-8")).get("start")
        if start:
            folders.add(Path(start).resolve())
    return folders


def _higher(a: float, b: float) -> Scored:
    return Scored(0.5 if a == b else float(a > b), values=(a, b))


def _share(p: LabelProbabilities, label: str) -> float:
    return 0.5 if p.A == p.B else float(("A" if p.A > p.B else "B") == label)
