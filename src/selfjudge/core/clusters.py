"""Cases that share a group, such as pairs of one prompt: they are not independent, and intervals have to know it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np

_Z95 = NormalDist().inv_cdf(0.975)


def effective_number(scores: Sequence[float], groups: Sequence[Hashable]) -> float:
    """Returns how many independent cases would leave the mean score as uncertain as these do; at most their number.

    With the residuals r = score - mean, of n cases in m groups:

        variance of the mean = m/(m-1) sum_g (sum_{i in g} r_i)^2 / n^2    (the sandwich over groups)
        effective number     = (sum_i r_i^2 / n) / variance x (z / t)^2

    t is Student's .975 quantile with m - 1 degrees of freedom and z the normal one: few groups tell little of how they
    vary. Equal scores say nothing of it at all: they count as one case for each group. One group is one case.
    """
    from scipy.stats import t as student  # here, as what only times a judge does without SciPy

    x = np.asarray(scores, dtype=float)
    residuals = x - x.mean()
    sums = np.bincount(places(groups), weights=residuals)
    n, m = len(x), len(sums)
    if m == 1:
        return 1.0
    square, between = float((residuals**2).sum()), float((sums**2).sum())
    if np.ptp(x) == 0:
        return float(m)
    shrunk = (_Z95 / float(student.ppf(0.975, m - 1))) ** 2
    return min(float(n), n * square * (m - 1) / (m * between) * shrunk) if between else float(n)


def has_repeats(groups: Sequence[Hashable], cases: int) -> bool:
    """Returns whether any two cases share a group.

    Raises:
        ValueError: if there are not as many groups named as cases.
    """
    if len(groups) != cases:
        raise ValueError(f"{len(groups)} groups of {cases} cases: each case needs its own")
    return len(set(groups)) < cases


def places(groups: Sequence[Hashable]) -> list[int]:
    """Returns the number of each case's group, from 0 in the order of their first cases."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(group, len(numbers)) for group in groups]
