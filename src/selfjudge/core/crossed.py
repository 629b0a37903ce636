"""Means over seeds and tasks together: intervals for a claim about other seeds and other tasks than those measured.

Every seed trains a model of its own, and all seeds answer prompts of the same tasks. Prompts of a seed share that
seed's luck, prompts of a task share the task's difficulty, so neither are independent cases. What varies is found by
resampling seeds and tasks together (the pigeonhole bootstrap, Owen 2007, arXiv 0712.1111), whose variance is known in
closed form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from selfjudge.core.statistics import Estimate, Rate

Scores = Mapping[int, Sequence[tuple[str, float]]]
"""Seed → task and score of each of its prompts."""
_Sums = npt.NDArray[np.float64]


def crossed_mean(scores: Scores) -> Estimate:
    """Returns the mean score of all prompts with its 95 % interval over seeds and tasks.

    With r_st the sum over the prompts of seed s and task t of (score - mean), of N prompts, S seeds and T tasks:

        variance = (S/(S-1) sum_s (sum_t r_st)^2 + T/(T-1) sum_t (sum_s r_st)^2 + sum_st r_st^2) / N^2

    The first two parts are those of resampling seeds alone and tasks alone, each corrected for its few units; the third
    is what resampling both adds. The interval is Student's, with Satterthwaite's (1946) degrees of freedom of the first
    two parts: where only seeds vary it is the t interval of the seeds' means. Of one seed the tasks alone are
    resampled, of one task the seeds alone; of one of each there is no interval (NaN).
    """
    sums, counts = _table(scores)
    n = float(counts.sum())
    if not n:
        return Estimate(value=math.nan, low=math.nan, high=math.nan, n=0)
    mean = float(sums.sum()) / n
    residuals = sums - mean * counts
    (of_seeds, seeds), (of_tasks, tasks) = _part(residuals.sum(1)), _part(residuals.sum(0))
    both = float((residuals**2).sum()) if seeds and tasks else 0.0
    half = math.nan
    if seeds or tasks:
        half = _quantile([(of_seeds, seeds), (of_tasks, tasks)]) * math.sqrt(of_seeds + of_tasks + both) / n
    return Estimate(value=mean, low=mean - half, high=mean + half, n=int(n))


def crossed_rate(scores: Scores) -> Rate:
    """Returns the mean of scores in 0..1 as :func:`crossed_mean` does; the interval ends at 0 and 1.

    Of one seed and one task nothing is known of others: the interval is the whole range.
    """
    found = crossed_mean(scores)
    if math.isnan(found.low):
        return Rate(rate=found.value, low=0.0, high=1.0, n=found.n)
    return Rate(rate=found.value, low=max(0.0, found.low), high=min(1.0, found.high), n=found.n)


def paired(first: Scores, second: Scores) -> Scores:
    """Returns first less second, prompt by prompt, of the seeds that both have.

    Raises:
        ValueError: if the two were not measured on the same tasks in the same order.
    """
    found = {}
    for seed in sorted(first.keys() & second.keys()):
        tasks = [task for task, _ in first[seed]]
        if tasks != [task for task, _ in second[seed]]:
            raise ValueError(f"seed {seed}: the two were not measured on the same prompts")
        found[seed] = [(task, x - y) for (task, x), (_, y) in zip(first[seed], second[seed], strict=True)]
    return found


def _table(scores: Scores) -> tuple[_Sums, _Sums]:
    """Returns the sums of the scores and the numbers of prompts, both [seeds, tasks]."""
    place = {task: i for i, task in enumerate(dict.fromkeys(task for rows in scores.values() for task, _ in rows))}
    sums, counts = np.zeros((2, len(scores), len(place)))
    for row, of_seed in enumerate(scores.values()):
        for task, score in of_seed:
            sums[row, place[task]] += score
            counts[row, place[task]] += 1
    return sums, counts


def _part(residuals: _Sums) -> tuple[float, int]:
    """Returns the corrected sum of squares of the units' residuals, and its degrees of freedom; nothing of one unit."""
    units = len(residuals)
    return (float((residuals**2).sum()) * units / (units - 1) if units > 1 else 0.0), units - 1


def _quantile(parts: Sequence[tuple[float, int]]) -> float:
    """Returns Student's .975 quantile for a sum of variances, each with its degrees of freedom.

    Where neither part varies by itself, it takes the smaller number of degrees of freedom.
    """
    total = sum(variance for variance, _ in parts)
    known = [(variance, df) for variance, df in parts if df]
    freedom = total**2 / sum(v * v / df for v, df in known) if total else min(df for _, df in known)
    return float(student.ppf(0.975, freedom))
