"""Two judges, or two policies, on the same rows: the paired test and the difference with its interval."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.stats import binomtest, norm

from selfjudge.core.clusters import effective_number, has_repeats, places
from selfjudge.core.statistics import Estimate

_Z95 = float(norm.ppf(0.975))


class PairedComparison(BaseModel):
    """The first against the second on the same rows.

    ``difference``: mean score of the first minus that of the second. ``first_better``, ``second_better``: rows on
    which the one scored higher. ``p_value``: of the exact two-sided test that both are equally likely. ``groups``: how
    many groups (prompts) the rows are of, which interval and test are over.
    """

    model_config = ConfigDict(frozen=True)

    difference: Estimate
    first_better: int
    second_better: int
    p_value: float
    groups: int


def compare_paired(
    first: Sequence[float], second: Sequence[float], groups: Sequence[Hashable] | None = None
) -> PairedComparison:
    """Compares scores in 0..1 of the same rows, one of each side per row.

    The test is McNemar's (1947) in its exact form: among the rows on which the two differ, either is as often the
    better one. With scores of one half (ties) it is the sign test. The interval is the adjusted Wald interval of
    Agresti and Min (2005, Statistics in Medicine 24:729): half a row is added to each cell of the 2 x 2 table, so
    that it keeps a width where the two never differ.

    Where rows share a group (pairs of one prompt), the test is the sign test of the groups' sums, and the interval is
    that of as many rows as :func:`selfjudge.core.clusters.effective_number` says of the differences.

    Raises:
        ValueError: if there are no rows, or the two differ in length.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} and {len(second)} scores: the same rows are needed, at least one")
    d = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    rows = float(len(d))
    sums = d
    if groups is not None and has_repeats(groups, len(d)):
        rows, sums = effective_number(d.tolist(), groups), np.bincount(places(groups), weights=d)
    better, worse = int((sums > 0).sum()), int((sums < 0).sum())
    # Half a row in each of four cells: two rows more, of which one half has d = 1 and one half d = -1.
    n = rows + 2
    centre = float(d.mean()) * rows / n
    half = _Z95 * math.sqrt((float((d * d).mean()) * rows + 1) / n - centre * centre) / math.sqrt(n)
    return PairedComparison(
        difference=Estimate(
            value=float(d.mean()), low=max(-1.0, centre - half), high=min(1.0, centre + half), n=len(d)
        ),
        first_better=int((d > 0).sum()),
        second_better=int((d < 0).sum()),
        p_value=float(binomtest(better, better + worse).pvalue) if better + worse else 1.0,
        groups=len(sums),
    )
