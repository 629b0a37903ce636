"""Intervals over seeds and tasks together."""

from __future__ import annotations

import math
from statistics import fmean, stdev

import numpy as np
import pytest
from scipy.stats import t as student

from selfjudge.core.crossed import crossed_mean, crossed_rate, paired

T_1 = 12.706205
T_2 = 4.302653  # Student's .975 quantile of 2 degrees of freedom, from a table
T_3 = 3.182446


def test_where_only_seeds_vary_it_is_the_t_interval_of_their_means() -> None:
    means = [0.016, 0.075, 0.056]
    found = crossed_mean({seed: [(f"task {i}", mean) for i in range(200)] for seed, mean in enumerate(means)})
    half = T_2 * stdev(means) / math.sqrt(3)
    assert found.value == pytest.approx(0.049)
    # What resampling both adds to it is small: a two-hundredth of the variance, shared out over all tasks.
    assert found.high - found.value == pytest.approx(half, rel=0.01)
    assert (found.low, found.high) == pytest.approx((-0.0259, 0.1239), abs=0.002)
    one_task = crossed_mean({seed: [("task", mean)] for seed, mean in enumerate(means)})
    assert one_task.high - one_task.value == pytest.approx(half, rel=1e-6)


def test_of_one_seed_the_tasks_are_the_units() -> None:
    # Two prompts of each task; the task's mean is what counts, however alike its prompts are.
    tasks = {"a": (1.0, 1.0), "b": (0.0, 0.0), "c": (1.0, 0.0), "d": (1.0, 1.0)}
    scores = {7: [(task, score) for task, both in tasks.items() for score in both]}
    means = [fmean(both) for both in tasks.values()]
    found = crossed_mean(scores)
    assert found.value == pytest.approx(fmean(means))
    assert found.n == 8
    half = T_3 * stdev(means) / math.sqrt(4)
    assert found.high - found.value == pytest.approx(half, rel=1e-5)
    assert found.value - found.low == pytest.approx(half, rel=1e-5)
    rate = crossed_rate(scores)
    assert (rate.rate, rate.low, rate.high, rate.n) == (found.value, 0.0, 1.0, 8)  # a share ends at 0 and 1


def test_by_hand_of_two_seeds_and_two_tasks() -> None:
    # mean 1/2; residuals: seed 1 has (1/2, -1/2), seed 2 (1/2, -1/2); sums: seeds 0 and 0, tasks 1 and -1.
    found = crossed_mean({1: [("x", 1.0), ("y", 0.0)], 2: [("x", 1.0), ("y", 0.0)]})
    # variance: seeds 0, tasks 2/1 x (1 + 1) = 4, both 4 x 1/4 = 1; over 4^2. One degree of freedom: t = 12.7062.
    assert found.high - found.value == pytest.approx(12.7062 * math.sqrt(5 / 16), rel=1e-4)
    same = crossed_mean({1: [("x", 0.5), ("y", 0.5)], 2: [("x", 0.5)]})
    assert (same.low, same.high) == (0.5, 0.5)
    assert math.isnan(crossed_mean({1: [("x", 1.0), ("x", 0.0)]}).low)
    nothing = crossed_mean({})
    assert all(map(math.isnan, (nothing.value, nothing.low, nothing.high)))
    assert nothing.n == 0
    alone = crossed_rate({1: [("x", 1.0), ("x", 0.0)]})
    assert (alone.rate, alone.low, alone.high) == (0.5, 0.0, 1.0)


def test_without_its_corrections_the_variance_is_that_of_resampling_seeds_and_tasks_together() -> None:
    rng = np.random.default_rng(0)
    seeds, tasks = 6, 30
    table = rng.normal(size=(seeds, 1)) + rng.normal(size=(1, tasks)) + rng.normal(size=(seeds, tasks))
    drawn = [table[rng.integers(seeds, size=seeds)][:, rng.integers(tasks, size=tasks)].mean() for _ in range(20_000)]
    residuals = table - table.mean()
    by_seed, by_task, both = (residuals.sum(1) ** 2).sum(), (residuals.sum(0) ** 2).sum(), (residuals**2).sum()
    exact = ((1 - 1 / tasks) * by_seed + (1 - 1 / seeds) * by_task + both) / (seeds * tasks) ** 2
    assert np.var(drawn) == pytest.approx(exact, rel=0.05)
    found = crossed_mean({s: [(str(t), table[s, t]) for t in range(tasks)] for s in range(seeds)})
    corrected = (by_seed * seeds / (seeds - 1) + by_task * tasks / (tasks - 1) + both) / (seeds * tasks) ** 2
    v_s, v_t = by_seed * seeds / (seeds - 1), by_task * tasks / (tasks - 1)
    df = (v_s + v_t) ** 2 / (v_s**2 / (seeds - 1) + v_t**2 / (tasks - 1))
    assert 5 < df < 29
    assert found.high - found.value == pytest.approx(student.ppf(0.975, df) * math.sqrt(corrected))


@pytest.mark.parametrize(("of_seeds", "of_tasks"), [(0.08, 0.0), (0.05, 0.08), (0.03, 0.05), (0.0, 0.08)])
def test_five_seeds_are_enough_for_it_to_hold_the_truth(of_seeds: float, of_tasks: float) -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        p = 0.6 + of_seeds * rng.normal(size=(5, 1)) + of_tasks * rng.normal(size=(1, 20))
        wins = rng.random((5, 20, 10)) < p[..., None]
        found = crossed_rate({s: [(str(t), float(x)) for t in range(20) for x in wins[s, t]] for s in range(5)})
        held += found.low <= 0.6 <= found.high
    assert held / 400 > 0.93  # two standard errors below 95 %


def test_where_seeds_and_tasks_vary_only_together_there_is_a_width() -> None:
    # Residuals of one half: variance 4 * .25 / 4^2, of the fewer degrees of freedom, 1 of the seeds against 2.
    found = crossed_mean({1: [("x", 1.0), ("y", 0.0)], 2: [("x", 0.0), ("y", 1.0)]})
    assert (found.value, found.high) == (0.5, pytest.approx(0.5 + T_1 * 0.25, rel=1e-5))
    three = crossed_mean({1: [("x", 1.0), ("y", 0.0), ("z", 0.5)], 2: [("x", 0.0), ("y", 1.0), ("z", 0.5)]})
    assert three.high == pytest.approx(0.5 + T_1 / 6, rel=1e-5)


def test_pairs_are_of_the_same_prompts() -> None:
    first = {1: [("x", 1.0), ("y", 0.0)], 2: [("x", 1.0)]}
    assert paired(first, {1: [("x", 0.5), ("y", 0.5)], 3: [("x", 0.0)]}) == {1: [("x", 0.5), ("y", -0.5)]}
    with pytest.raises(ValueError, match="same prompts"):
        paired(first, {1: [("y", 0.5), ("x", 0.5)]})
