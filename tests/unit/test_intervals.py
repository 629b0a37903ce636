"""Paired tests, kappa and bootstrap: closed forms, hand-derived values and simulated coverage."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from selfjudge.core.agreement import cohen_kappa
from selfjudge.core.bootstrap import bootstrap_mean, bootstrap_rate
from selfjudge.core.paired import compare_paired
from selfjudge.core.statistics import Estimate, Rate, brier_score, proportion, rate_difference

RUNS = 1000


def covered(intervals, truth: float) -> float:
    """The share of intervals that hold the truth."""
    return float(np.mean([i.low <= truth <= i.high for i in intervals]))


def test_wilson_covers():
    rng = np.random.default_rng(1)
    assert 0.93 <= covered((proportion(int(h), 150) for h in rng.binomial(150, 0.7, RUNS)), 0.7) <= 0.97


def test_the_difference_of_two_rates_covers():
    rng = np.random.default_rng(8)
    drawn = zip(rng.binomial(60, 0.8, RUNS), rng.binomial(25, 0.6, RUNS), strict=True)
    found = [rate_difference(proportion(int(a), 60), proportion(int(b), 25)) for a, b in drawn]
    assert 0.93 <= covered(found, 0.2) <= 0.97


def test_the_bootstrap_mean_covers():
    # Scores of a win rate: win, tie, loss.
    rng = np.random.default_rng(2)
    runs = rng.choice([1.0, 0.5, 0.0], size=(RUNS, 100), p=[0.5, 0.2, 0.3])
    assert 0.93 <= covered((bootstrap_rate(scores.tolist(), i) for i, scores in enumerate(runs)), 0.6) <= 0.97


def test_the_paired_difference_covers():
    rng = np.random.default_rng(3)
    # Right by both .6, by the first alone .2, by the second alone .1, by neither .1: the difference is .1.
    cells = rng.choice(4, size=(RUNS, 150), p=[0.6, 0.2, 0.1, 0.1])
    found = [compare_paired((c < 2).astype(float).tolist(), np.isin(c, (0, 2)).astype(float).tolist()) for c in cells]
    assert 0.93 <= covered((f.difference for f in found), 0.1) <= 0.97


def test_kappa_covers():
    rng = np.random.default_rng(4)
    # Cells of (first, second) over A, B, tie.
    p = np.array([[0.35, 0.08, 0.02], [0.07, 0.30, 0.03], [0.05, 0.04, 0.06]])
    observed, chance = np.trace(p), p.sum(1) @ p.sum(0)
    cells = rng.choice(9, size=(RUNS, 200), p=p.ravel())
    found = [cohen_kappa(["ABt"[c // 3] for c in run], ["ABt"[c % 3] for c in run]) for run in cells]
    assert 0.93 <= covered(found, (observed - chance) / (1 - chance)) <= 0.97


def test_the_bootstrap_mean_by_the_normal_limit():
    # 2,000 symmetric scores: the interval is mean +- 1.96 sd / sqrt(n) up to the resampling noise of its ends.
    x = np.random.default_rng(5).normal(3, 2, 2000)
    found = bootstrap_mean(x.tolist())
    half = 1.96 * x.std() / math.sqrt(2000)
    assert found.value == pytest.approx(x.mean())
    assert (found.low, found.high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.012)
    assert bootstrap_mean(x.tolist()) == found  # seeded


@pytest.mark.parametrize("x", [[0.2, 0.9], [1.0, 0.0, 0.0, 1.0, 1.0], [0.5, 1.0, 0.0, 0.5, 0.7, 1.0]])
def test_the_bootstrap_mean_is_scipys_bca_interval_of_2000_resamples(x):
    for seed in (0, 3):
        expected = bootstrap((np.array(x),), np.mean, n_resamples=2000, method="BCa", rng=np.random.default_rng(seed))
        low, high = expected.confidence_interval
        assert low < high
        given = [seed] * (seed > 0)  # 0 unless told otherwise
        assert bootstrap_mean(x, *given) == Estimate(value=np.mean(x), low=low, high=high, n=len(x))
        assert bootstrap_rate(x, *given) == Rate(rate=np.mean(x), low=low, high=high, n=len(x))


def test_wins_alone_keep_a_width():
    assert bootstrap_rate([1.0] * 40) == proportion(40, 40)
    assert bootstrap_mean([0.7] * 4) == Estimate(value=0.7, low=0.7, high=0.7, n=4)
    assert math.isnan(bootstrap_mean([0.7]).low)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as numpy's, of the mean of nothing
        assert math.isnan(bootstrap_mean([]).value)


def test_mcnemar_by_hand():
    # Eight rows by the first alone, two by the second alone: 2 * P(X <= 2 of 10) = 2 * 56 / 1024.
    first, second = [1.0] * 8 + [0.0] * 2 + [1.0] * 10, [0.0] * 8 + [1.0] * 2 + [1.0] * 10
    found = compare_paired(first, second)
    assert (found.first_better, found.second_better) == (8, 2)
    assert found.p_value == pytest.approx(112 / 1024)
    # Agresti and Min: b = 8.5, c = 2.5, n = 22: centre 6/22 = .27273, var = 11/22 - .27273^2 = .425620,
    # half = 1.959964 * sqrt(.425620 / 22) = .272612
    d = found.difference
    assert (d.value, d.low, d.high, d.n) == pytest.approx((0.3, 0.000115, 0.545339, 20), abs=2e-6)


def test_two_rates_by_newcombes_example():
    # Newcombe (1998), table II, 56/70 against 48/80: .2, and .0524 to .3339 by method 10.
    found = rate_difference(proportion(56, 70), proportion(48, 80))
    assert (found.value, found.low, found.high, found.n) == pytest.approx((0.2, 0.0524, 0.3339, 150), abs=5e-5)
    assert math.isnan(rate_difference(proportion(1, 2), proportion(0, 0)).value)


def test_a_difference_ends_at_1():
    # One row by the first alone: centre 1/3, half 1.96 sqrt((1 + 1) / 3 - 1/9) / sqrt(3) = .8434; together 1.177.
    first, second = compare_paired([1.0], [0.0]).difference, compare_paired([0.0], [1.0]).difference
    assert (first.value, first.low, first.high) == (1.0, pytest.approx(1 / 3 - 0.8434, abs=1e-4), 1.0)
    assert (second.value, second.low, second.high) == (-1.0, -1.0, pytest.approx(0.8434 - 1 / 3, abs=1e-4))


def test_half_scores_make_it_a_sign_test():
    found = compare_paired([1, 0.5, 0.5, 0], [0.5, 0, 0.5, 0.5])
    assert (found.first_better, found.second_better) == (2, 1)
    assert found.p_value == pytest.approx(binomtest(2, 3).pvalue)
    assert found.difference.value == pytest.approx(0.125)


def test_two_that_never_differ():
    found = compare_paired([1, 0, 1], [1, 0, 1])
    assert found.p_value == 1
    assert found.difference.low < 0 < found.difference.high


@pytest.mark.parametrize(("first", "second"), [([], []), ([1.0], [1.0, 0.0])])
def test_paired_rows_are_needed(first, second):
    with pytest.raises(ValueError, match="the same rows"):
        compare_paired(first, second)


def test_kappa_by_hand():
    # Table [[20, 5], [10, 15]]: p_o = .7, p_e = .5 * .6 + .5 * .4 = .5, kappa = .4. For the interval, p = table / 50:
    # diagonal .4 (.5 - 1.1 * .3)^2 + .3 (.5 - .9 * .3)^2 = .01156 + .01587 = .02743;
    # off the diagonal .09 (.1 (.6 + .5)^2 + .2 (.4 + .5)^2) = .09 * .283 = .02547; the square (.35 - 1 + .7)^2 = .0025;
    # error = sqrt(.0504 / 50) / .25 = .126996
    first = ["A"] * 25 + ["B"] * 25
    second = ["A"] * 20 + ["B"] * 5 + ["A"] * 10 + ["B"] * 15
    found = cohen_kappa(first, second)
    assert (found.value, found.n) == (pytest.approx(0.4), 50)
    assert (found.low, found.high) == pytest.approx((0.4 - 1.959964 * 0.126996, 0.4 + 1.959964 * 0.126996), abs=1e-5)


def test_kappa_at_its_ends():
    assert cohen_kappa(["A", "B"], ["A", "B"]).value == 1
    assert cohen_kappa(["A", "B"], ["B", "A"]).value == -1
    assert math.isnan(cohen_kappa(["A", "A"], ["A", "A"]).value)
    assert math.isnan(cohen_kappa([], []).value)
    assert math.isnan(cohen_kappa(["A"], ["A"]).value)
    assert cohen_kappa(["A"], ["B"]).value == 0
    # Three cases are few. p_o = 2/3, p_e = 2/3 * 1/3 + 1/3 * 2/3 = 4/9: kappa = 2/5; and p_o = 0, p_e = 4/9: -4/5.
    for second, kappa in (("ABB", 0.4), ("BBA", -0.8)):
        found = cohen_kappa("AAB", second)
        assert found.value == pytest.approx(kappa)
        assert (found.high == 1) if kappa > 0 else (found.low == -1)
    with pytest.raises(ValueError, match="1 ratings"):
        cohen_kappa(["A"], [])


def test_brier_by_hand():
    assert brier_score([0.9, 0.4], [True, True]) == pytest.approx((0.01 + 0.36) / 2)
    assert brier_score([0.5] * 3, [True, False, True]) == 0.25
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as numpy's, of the mean of nothing
        assert math.isnan(brier_score([], []))
