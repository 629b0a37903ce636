"""Agreement of two raters beyond what chance would give."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import norm
from scipy.stats import t as student

from selfjudge.core.clusters import has_repeats, places
from selfjudge.core.statistics import Estimate

_Z95 = float(norm.ppf(0.975))


def cohen_kappa(first: Sequence[str], second: Sequence[str], groups: Sequence[Hashable] | None = None) -> Estimate:
    """Returns Cohen's kappa (1960) of two raters' categories of the same cases, -1..1.

        kappa = (p_o - p_e) / (1 - p_e),  p_o: share of equal ratings,  p_e: that share if the raters were independent

    The interval is the large-sample one of Fleiss, Cohen and Everitt (1969, Psychological Bulletin 72:323).
    At kappa = 1 it has no width. Where cases share a group (pairs of one prompt) it is the larger of that and the
    jackknife's over groups (Efron and Stein 1981, Annals of Statistics 9:586), with Student's quantile. NaN where both
    raters only ever give the same one category, or there are no cases.

    Raises:
        ValueError: if the two differ in length.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} ratings of one rater and {len(second)} of the other")
    names = sorted({*first, *second})
    table = np.zeros((len(names), len(names)))
    for a, b in zip(first, second, strict=True):
        table[names.index(a), names.index(b)] += 1
    n = len(first)
    p = table / max(n, 1)
    rows, columns = p.sum(1), p.sum(0)
    observed, chance = float(np.trace(p)), float(rows @ columns)
    if n == 0 or chance == 1:
        return Estimate(value=float("nan"), low=float("nan"), high=float("nan"), n=n)
    kappa = (observed - chance) / (1 - chance)
    diagonal = np.diag(p) * ((1 - chance) - (rows + columns) * (1 - observed)) ** 2
    # Off the diagonal the weight of cell (i, j) is column total i + row total j.
    off = p * (columns[:, None] + rows[None, :]) ** 2
    np.fill_diagonal(off, 0)
    spread = diagonal.sum() + (1 - observed) ** 2 * off.sum() - (observed * chance - 2 * chance + observed) ** 2
    half = _Z95 * math.sqrt(max(float(spread), 0.0) / n) / (1 - chance) ** 2
    if groups is not None and has_repeats(groups, n):
        cells = [(names.index(a), names.index(b)) for a, b in zip(first, second, strict=True)]
        half = max(half, _jackknife(table, cells, groups))
    return Estimate(value=kappa, low=max(-1.0, kappa - half), high=min(1.0, kappa + half), n=n)


def _jackknife(table: npt.NDArray[np.float64], cells: Sequence[tuple[int, int]], groups: Sequence[Hashable]) -> float:
    """Returns half the width of the interval, from kappa without each group in turn; the whole range of one group."""
    numbers = places(groups)
    m = max(numbers) + 1
    if m == 1:
        return 2.0
    of_groups = np.zeros((m, *table.shape))
    for number, cell in zip(numbers, cells, strict=True):
        of_groups[(number, *cell)] += 1
    without = table - of_groups
    p = without / without.sum((1, 2), keepdims=True)
    observed, chance = np.trace(p, axis1=1, axis2=2), (p.sum(2) * p.sum(1)).sum(1)
    # Without a group only one category may be left, whose kappa is not defined: such a group tells nothing.
    known = chance < 1
    if known.sum() < 2:
        return 2.0
    kappas = (observed[known] - chance[known]) / (1 - chance[known])
    variance = (m - 1) / m * float(((kappas - kappas.mean()) ** 2).sum())
    return float(student.ppf(0.975, m - 1)) * math.sqrt(variance)
