"""Intervals and calibration. Every rate this project prints comes with one of these."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np
from pydantic import BaseModel, ConfigDict

from selfjudge.core.clusters import effective_number, has_repeats, places

_Z95 = NormalDist().inv_cdf(0.975)


class Rate(BaseModel):
    """A share with its 95 % interval; ``n`` is the number of cases it was measured on."""

    model_config = ConfigDict(frozen=True)

    rate: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """Formats as ``71.3 % [68.9, 73.6]``, or as ``no cases``."""
        return f"{100 * self.rate:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]" if self.n else "no cases"


class Estimate(BaseModel):
    """A figure with its 95 % interval; ``n`` is the number of cases (prompts, rows) it was measured on."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """Formats as ``0.421 [0.383, 0.459]``."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def proportion(hits: float, n: int) -> Rate:
    """Returns ``hits / n`` with its Wilson score interval (Wilson 1927). ``n`` = 0 gives the whole range.

    ``hits`` may count halves (ties): scores in 0..1 vary less than 0/1 outcomes of the same mean, so the interval
    is then on the wide side, and unlike a normal one it keeps a width at 0 and at 1.
    """
    if n == 0:
        return Rate(rate=float("nan"), low=0.0, high=1.0, n=0)
    low, high = wilson(hits / n, n)
    return Rate(rate=hits / n, low=low, high=high, n=n)


def wilson(p: float, n: float) -> tuple[float, float]:
    """Returns the ends of Wilson's 95 % interval of a share ``p`` of ``n`` > 0 cases, or of an effective number."""
    z2 = _Z95 * _Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_rate(scores: Sequence[float]) -> Rate:
    """Returns the mean of per-case scores in 0..1 (a tie counts one half) with its interval over cases."""
    return proportion(math.fsum(scores), len(scores))


def clustered_rate(scores: Sequence[float], groups: Sequence[Hashable]) -> Rate:
    """Returns the mean of scores in 0..1 with its interval over groups; ``n`` is the number of cases.

    The interval is Wilson's of :func:`selfjudge.core.clusters.effective_number` cases: the proposal of Korn and
    Graubard (1998, Survey Methodology 24:193) for clustered surveys, with Wilson's formula in place of Clopper and
    Pearson's. Of 10 prompts and more it holds the truth in 94 % or 95 % of cases. Where each case has a
    group of its own it is that of :func:`mean_rate`.

    Raises:
        ValueError: if the two differ in length.
    """
    if not has_repeats(groups, len(scores)):
        return mean_rate(scores)
    rate = math.fsum(scores) / len(scores)
    low, high = wilson(rate, effective_number(scores, groups))
    return Rate(rate=rate, low=low, high=high, n=len(scores))


def rate_difference(first: Rate, second: Rate) -> Estimate:
    """Returns the first rate less the second, of different cases, with Newcombe's interval (1998, method 10).

    It is put together from the Wilson intervals of the two, and holds for small numbers too. NaN where a rate has no
    cases.
    """
    d = first.rate - second.rate
    low = d - math.hypot(first.rate - first.low, second.high - second.rate)
    high = d + math.hypot(first.high - first.rate, second.rate - second.low)
    return Estimate(value=d, low=low, high=high, n=first.n + second.n)


class ReliabilityBin(BaseModel):
    """One bin of a reliability diagram: mean stated confidence against the observed accuracy."""

    model_config = ConfigDict(frozen=True)

    confidence: float
    accuracy: Rate


def reliability(
    confidences: Sequence[float], scores: Sequence[float], groups: Sequence[Hashable] | None = None, bins: int = 5
) -> list[ReliabilityBin]:
    """Returns the non-empty equal-width bins of confidence in [0.5, 1] (DeGroot and Fienberg 1983).

    Args:
        confidences: one for each case; below 0.5 counts to the lowest bin.
        scores: 1 for a case that is right, 0 for one that is wrong, 0.5 for a tie, as in accuracy. So the mean of the
            bins' accuracies, weighted by their cases, is the accuracy over all cases.
        groups: what each case shares with others, such as its prompt; the intervals are over groups. None: nothing.
        bins: how many.
    """
    c, right = np.asarray(confidences, dtype=float), np.asarray(scores, dtype=float)
    shared = np.asarray(range(len(right)) if groups is None else places(groups))
    which = np.clip(((c - 0.5) * 2 * bins).astype(int), 0, bins - 1)
    return [
        ReliabilityBin(
            confidence=float(c[which == b].mean()),
            accuracy=clustered_rate(right[which == b].tolist(), shared[which == b].tolist()),
        )
        for b in range(bins)
        if (which == b).any()
    ]


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Returns the case-weighted mean gap between confidence and accuracy (Naeini et al. 2015), 0..1."""
    n = sum(b.accuracy.n for b in bins)
    return sum(abs(b.confidence - b.accuracy.rate) * b.accuracy.n for b in bins) / n if n else float("nan")


def brier_score(probabilities: Sequence[float], outcomes: Sequence[bool]) -> float:
    """Returns the mean squared gap between stated probability and outcome (Brier 1950), 0..1; lower is better.

    Always saying 0.5 gets 0.25. NaN without cases.
    """
    p, y = np.asarray(probabilities, dtype=float), np.asarray(outcomes, dtype=float)
    return float(((p - y) ** 2).mean()) if len(p) else float("nan")
