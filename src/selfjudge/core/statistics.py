"""Intervals and calibration. Every rate this project prints comes with one of these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from pydantic import BaseModel, ConfigDict

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
    z2, p = _Z95 * _Z95, hits / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Rate(rate=p, low=max(0.0, centre - half), high=min(1.0, centre + half), n=n)


def mean_rate(scores: Sequence[float]) -> Rate:
    """Returns the mean of per-case scores in 0..1 (a tie counts one half) with its interval over cases."""
    return proportion(math.fsum(scores), len(scores))


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


def reliability(confidences: Sequence[float], scores: Sequence[float], bins: int = 5) -> list[ReliabilityBin]:
    """Returns the non-empty equal-width bins of confidence in [0.5, 1] (DeGroot and Fienberg 1983).

    Args:
        confidences: one for each case; below 0.5 counts to the lowest bin.
        scores: 1 for a case that is right, 0 for one that is wrong, 0.5 for a tie, as in accuracy. So the mean of the
            bins' accuracies, weighted by their cases, is the accuracy over all cases.
        bins: how many.
    """
    c, right = np.asarray(confidences, dtype=float), np.asarray(scores, dtype=float)
    which = np.clip(((c - 0.5) * 2 * bins).astype(int), 0, bins - 1)
    return [
        ReliabilityBin(
            confidence=float(c[which == b].mean()),
            accuracy=mean_rate(right[which == b].tolist()),
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
