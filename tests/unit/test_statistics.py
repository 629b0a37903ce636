"""Intervals against scipy, calibration by hand."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binomtest

from selfjudge.core.statistics import expected_calibration_error, mean_rate, proportion, reliability


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (1, 7), (13, 40), (352, 500), (9999, 9999)])
def test_wilson_equals_scipy(hits: int, n: int) -> None:
    found = proportion(hits, n)
    expected = binomtest(hits, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert (found.rate, found.n) == (hits / n, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_an_interval_ends_at_0_and_at_1() -> None:
    # Rounding alone would put these ends a little beyond.
    assert proportion(9, 9).high == proportion(26, 26).high == 1.0
    assert proportion(0, 21).low == proportion(0, 36).low == 0.0


def test_no_case_says_nothing() -> None:
    found = proportion(0, 0)
    assert math.isnan(found.rate)
    assert (found.low, found.high, found.n) == (0.0, 1.0, 0)
    assert math.isnan(mean_rate([]).rate)
    assert str(found) == "no cases"


def test_ties_count_one_half() -> None:
    # 1 + 1/2 + 0 + 1/2 of 4 = .5; Wilson: centre (.5 + z2/8) / (1 + z2/4) = .5, z2 = 3.8414588,
    # half = 1.9599640 * sqrt(.25/4 + 3.8414588/64) / (1 + 3.8414588/4) = 1.9599640 * .3500326 / 1.9603647 = .3499610
    found = mean_rate([1, 0.5, 0, 0.5])
    assert (found.rate, found.low, found.high, found.n) == pytest.approx((0.5, 0.1500390, 0.8499610, 4), abs=1e-6)


def test_a_rate_reads_as_percentages() -> None:
    assert str(proportion(352, 500)) == "70.4 % [66.3, 74.2]"


def test_reliability_by_hand() -> None:
    # Five bins of width .1 from .5: [.5, .6) holds .5 and .55; [.6, .7) holds .62; [.9, 1] holds .95 and 1.0.
    bins = reliability([0.55, 0.95, 1.0, 0.5, 0.62], [1, 1, 0, 0, 1])
    assert [b.confidence for b in bins] == pytest.approx([0.525, 0.62, 0.975])
    assert [b.accuracy.rate for b in bins] == [0.5, 1.0, 0.5]
    assert [b.accuracy.n for b in bins] == [2, 1, 2]
    # (2 |.525 - .5| + 1 |.62 - 1| + 2 |.975 - .5|) / 5 = (.05 + .38 + .95) / 5 = .276
    assert expected_calibration_error(bins) == pytest.approx(0.276)


def test_a_tie_is_one_half_right_in_the_diagram_as_in_accuracy() -> None:
    # [.5, .6) holds .5 (a tie), .5 (a tie), .52 (right) and .58 (wrong): 2 of 4. [.8, .9) holds .85: right.
    confidences, scores = [0.5, 0.5, 0.52, 0.58, 0.85], [0.5, 0.5, 1, 0, 1]
    bins = reliability(confidences, scores)
    assert [(b.accuracy.rate, b.accuracy.n) for b in bins] == [(0.5, 4), (1.0, 1)]
    assert bins[0].accuracy == mean_rate([0.5, 0.5, 1, 0])
    assert sum(b.accuracy.rate * b.accuracy.n for b in bins) / 5 == mean_rate(scores).rate
    # (4 |.525 - .5| + 1 |.85 - 1|) / 5 = (.1 + .15) / 5
    assert expected_calibration_error(bins) == pytest.approx(0.05)
    # A judge that only ever ties is right half the time, and says so.
    assert expected_calibration_error(reliability([0.5] * 7, [0.5] * 7)) == 0
    # A winner whose strength is below one half is in the lowest bin.
    assert [b.accuracy.n for b in reliability([0.3, 0.55], [0, 1])] == [2]


def test_the_number_of_bins() -> None:
    # Two bins: [.5, .75) and [.75, 1].
    bins = reliability([0.7, 0.74, 0.75], [1, 0, 1], bins=2)
    assert [b.accuracy.n for b in bins] == [2, 1]


def test_five_bins_unless_told_otherwise() -> None:
    assert [b.accuracy.n for b in reliability([0.59, 0.61, 0.69, 0.79, 0.89, 0.91], [True] * 6)] == [1, 2, 1, 1, 1]


def test_what_lies_below_one_half_is_in_the_first_bin() -> None:
    (found,) = reliability([0.1, 0.5], [False, True])
    assert (found.confidence, found.accuracy.rate, found.accuracy.n) == (pytest.approx(0.3), 0.5, 2)


def test_perfect_calibration_has_no_error_and_nothing_has_none() -> None:
    # Confidence .75 and three of four right.
    bins = reliability([0.75] * 4, [1, 1, 1, 0])
    assert expected_calibration_error(bins) == pytest.approx(0)
    assert math.isnan(expected_calibration_error(reliability([], [])))
