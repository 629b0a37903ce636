"""What is kept of a run that is looked at: its curves in a bounded number of points, its latest pairs, its tallies."""

from __future__ import annotations

from array import array
from collections import deque
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from selfjudge.core.statistics import proportion
from selfjudge.core.verdict import winner_strength
from selfjudge.recipes.schema import StopSection
from selfjudge.records import Preferred
from selfjudge.serving.run_replies import JudgedPair, Series, VerdictStatistics
from selfjudge.serving.tail import whole
from selfjudge.training.alarms import Alarm, alarms, watched

POINTS = 400
"""Points of a curve at most; an even number."""
METRICS = 100
"""Metrics of a run at most."""
PAIRS = 20
"""The latest judged pairs that are shown."""
TEXT = 10_000
"""Characters of a text at most."""
WINDOW = 1000
"""Lines at either end of a log that alarms are told of at most."""


class Thinned:
    """A curve of at most ``POINTS`` points, whatever its length: each is the mean of equally many values, the last
    of fewer.
    """

    def __init__(self) -> None:
        """Begins with no point."""
        self._steps = array("d")
        self._values = array("d")
        self._each = 1
        self._sum = self._step = 0.0
        self._n = 0

    def add(self, step: float, value: float) -> None:
        """Adds a value; a point stands at the step of its last one."""
        self._sum, self._step, self._n = self._sum + value, step, self._n + 1
        if self._n < self._each:
            return
        self._steps.append(step)
        self._values.append(self._sum / self._n)
        self._sum, self._n = 0.0, 0
        if len(self._steps) == POINTS:
            self._steps = self._steps[1::2]
            pairs = zip(self._values[::2], self._values[1::2], strict=True)
            self._values = array("d", ((a + b) / 2 for a, b in pairs))
            self._each *= 2

    def series(self, name: str) -> Series:
        """Returns the curve."""
        steps, values = self._steps.tolist(), self._values.tolist()
        if self._n:
            steps.append(self._step)
            values.append(self._sum / self._n)
        return Series(name=whole(name), steps=steps, values=values, each=self._each)


class Metrics:
    """The lines of metrics.jsonl."""

    def __init__(self, limits: StopSection) -> None:
        """Takes the limits that alarms go by."""
        self._limits = limits
        self.curves: dict[str, Thinned] = {}
        self.last: dict[str, float] = {}
        self.step: float | None = None
        window = min(limits.window, WINDOW)
        self._first: list[dict[str, Any]] = []
        self._latest: deque[dict[str, Any]] = deque(maxlen=window)
        self._window = window

    def add(self, row: dict[str, Any]) -> None:
        """Takes a line; what is no number in it is left out, and so is all without a step."""
        numbers = {name: number for name, value in row.items() if (number := _number(value)) is not None}
        step = numbers.pop("step", None)
        if step is None:
            return
        self.step = step
        for name, value in numbers.items():
            if name not in self.curves and len(self.curves) == METRICS:
                continue
            self.curves.setdefault(name, Thinned()).add(step, value)
            self.last[name] = value
        if watched(numbers):
            kept = self._first if len(self._first) < self._window else self._latest
            kept.append({"step": step, **numbers})

    def alarms(self) -> list[Alarm]:
        """Returns the signs of the log so far."""
        return alarms([*self._first, *self._latest], self._limits)


class _Verdict(BaseModel):
    preferred: Preferred
    strength: Annotated[float, Field(ge=0, le=1)]
    agree: bool


class _Pair(BaseModel):
    """A line of rollouts.jsonl."""

    step: float
    prompt: str
    response_a: str
    response_b: str
    verdict: _Verdict | None


class Verdicts:
    """The lines of rollouts.jsonl."""

    def __init__(self) -> None:
        """Begins with no pair."""
        self.latest: deque[JudgedPair] = deque(maxlen=PAIRS)
        self._preferred: dict[Preferred, int] = {"A": 0, "B": 0, "tie": 0}
        self._pairs = self._agree = self._unequal = self._longer = 0
        self._strength = 0.0

    def add(self, row: dict[str, Any]) -> None:
        """Takes a line; one that no run writes is left out."""
        try:
            pair = _Pair.model_validate(row)
        except ValidationError:
            return
        self._pairs += 1
        if pair.verdict:
            self._count(pair.verdict, len(pair.response_a), len(pair.response_b))
        texts = {name: _cut(getattr(pair, name)) for name in ("prompt", "response_a", "response_b")}
        verdict = pair.verdict.model_dump() if pair.verdict else dict.fromkeys(_Verdict.model_fields)
        self.latest.append(JudgedPair(step=pair.step, **texts, **verdict))

    def _count(self, verdict: _Verdict, a: int, b: int) -> None:
        self._preferred[verdict.preferred] += 1
        self._agree += verdict.agree
        self._strength += winner_strength(verdict.preferred, verdict.strength)
        if verdict.preferred != "tie" and a != b:
            self._unequal += 1
            self._longer += (verdict.preferred == "A") == (a > b)

    def statistics(self) -> VerdictStatistics | None:
        """Returns the tallies; None before the first judged pair."""
        judged = sum(self._preferred.values())
        if not judged:
            return None
        return VerdictStatistics(
            pairs=self._pairs, judged=judged, ties=proportion(self._preferred["tie"], judged),
            agreement=proportion(self._agree, judged),
            longer_preferred=proportion(self._longer, self._unequal) if self._unequal else None,
            strength=self._strength / judged,
        )  # fmt: skip


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # JSON has whole numbers of any length
        return None


def _cut(text: str) -> str:
    return whole(text if len(text) <= TEXT else f"{text[:TEXT]} …")
