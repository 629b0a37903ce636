"""Intervals of cases that share a prompt: by hand, and by simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t as student

from selfjudge.core.agreement import cohen_kappa
from selfjudge.core.clusters import effective_number, has_repeats, places
from selfjudge.core.paired import compare_paired
from selfjudge.core.statistics import Estimate, Rate, clustered_rate, mean_rate, reliability

RUNS = 1000
Z = 1.959963984540054


def covered(intervals: list[Rate] | list[Estimate], truth: float) -> float:
    return float(np.mean([i.low <= truth <= i.high for i in intervals]))


def clustered(rng: np.random.Generator, prompts: int = 60, most: int = 8) -> tuple[list[float], list[int]]:
    """Outcomes of 1 to ``most`` pairs a prompt, mean 0.7: of half the prompts all pairs have one outcome."""
    sizes = rng.integers(1, most + 1, prompts)
    scores, groups = [], []
    for group, size in enumerate(sizes):
        alike = rng.random() < 0.5
        drawn = rng.random(size) < 0.7
        scores += (np.full(size, drawn[0]) if alike else drawn).astype(float).tolist()
        groups += [group] * size
    return scores, groups


def test_places_and_repeats() -> None:
    assert places(["b", "a", "b", "c"]) == [0, 1, 0, 2]
    assert has_repeats(["b", "a", "b"], 3)
    assert not has_repeats([], 0)
    with pytest.raises(ValueError, match="2 groups of 3 cases"):
        has_repeats(["a", "b"], 3)


def test_the_effective_number_by_hand() -> None:
    # Two prompts of two pairs and two of one: mean 0.5, residuals ±0.5, sums of groups 1, -1, 0.5, -0.5.
    scores, groups = [1, 1, 0, 0, 1, 0], ["a", "a", "b", "b", "c", "d"]
    variance = 4 / 3 * (1 + 1 + 0.25 + 0.25) / 36
    shrunk = (Z / student.ppf(0.975, 3)) ** 2
    assert effective_number(scores, groups) == pytest.approx(0.25 / variance * shrunk)
    # Each case written ten times over is no more than it was: the number of prompts, but for the few of them.
    many = np.random.default_rng(0).integers(0, 2, 2000).astype(float)
    assert effective_number(np.repeat(many, 10).tolist(), np.repeat(range(2000), 10).tolist()) == pytest.approx(
        2000, rel=0.005
    )
    # Pairs of a prompt that cancel are worth no more than as many cases; one prompt is one case, equal scores too.
    assert effective_number([1, 0, 1, 0], "aabb") == 4
    assert effective_number([1, 0, 1], "aaa") == 1
    assert effective_number([1, 1, 1, 1], "aabc") == 3


def test_with_one_pair_a_prompt_every_interval_is_as_it_was() -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.choice([0.0, 0.5, 1.0], 40).tolist() for _ in range(2))
    names = [f"p{i}" for i in range(40)]
    assert clustered_rate(a, names) == mean_rate(a)
    assert clustered_rate([], []).n == 0
    assert compare_paired(a, b, names) == compare_paired(a, b)
    first, second = (rng.choice(["A", "B", "tie"], 40).tolist() for _ in range(2))
    assert cohen_kappa(first, second, names) == cohen_kappa(first, second)
    assert reliability(a, b, names) == reliability(a, b)


def test_a_pair_written_twice_tells_no_more() -> None:
    scores, groups = [1.0, 0.0, 1.0, 1.0] * 50, list(range(200))
    once, twice = mean_rate(scores), clustered_rate(scores * 2, groups * 2)
    assert (twice.rate, twice.n) == (once.rate, 400)
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high), abs=0.002)
    assert mean_rate(scores * 2).low > once.low + 0.01
    bins = reliability([0.9] * 400, scores * 2, groups * 2)
    assert bins[0].accuracy == twice


def test_the_rate_covers_where_wilsons_does_not() -> None:
    rng = np.random.default_rng(2)
    runs = [clustered(rng) for _ in range(RUNS)]
    assert 0.93 <= covered([clustered_rate(*run) for run in runs], 0.7) <= 0.975
    assert covered([mean_rate(scores) for scores, _ in runs], 0.7) < 0.87


def test_the_rate_of_few_prompts_covers() -> None:
    rng = np.random.default_rng(3)
    for prompts in (5, 10, 20):
        share = covered([clustered_rate(*clustered(rng, prompts)) for _ in range(RUNS)], 0.7)
        assert share >= 0.92, prompts


def test_the_paired_difference_covers_and_its_test_keeps_its_level() -> None:
    rng = np.random.default_rng(4)
    found, naive = [], []
    for _ in range(RUNS):
        # No difference on the whole; on each prompt one judge is better on all of its pairs.
        sizes = rng.integers(1, 9, 40)
        d = np.repeat(rng.choice([-1, 0, 1], 40, p=[0.3, 0.4, 0.3]), sizes)
        first, second = (d == 1).astype(float).tolist(), (d == -1).astype(float).tolist()
        groups = np.repeat(range(40), sizes).tolist()
        found.append(compare_paired(first, second, groups))
        naive.append(compare_paired(first, second))
    assert 0.93 <= covered([f.difference for f in found], 0) <= 0.98
    assert covered([f.difference for f in naive], 0) < 0.75
    assert np.mean([f.p_value < 0.05 for f in found]) <= 0.05
    assert np.mean([f.p_value < 0.05 for f in naive]) > 0.25
    assert {f.groups for f in found} == {40}
    assert naive[0].groups == naive[0].difference.n == found[0].difference.n


def test_the_sign_test_of_prompts_by_hand() -> None:
    # Prompt a: the first is better on two pairs and worse on one; b and c: better; d: no difference.
    first, second = [1, 1, 0, 1, 1, 0], [0, 0, 1, 0, 0, 0]
    found = compare_paired(first, second, "aaabcd")
    assert (found.first_better, found.second_better, found.groups) == (4, 1, 4)
    assert found.p_value == pytest.approx(2 * 0.5**3)


def test_kappa_covers_where_the_large_sample_interval_does_not() -> None:
    rng = np.random.default_rng(5)
    p = np.array([[0.40, 0.10], [0.15, 0.35]])
    observed, chance = np.trace(p), p.sum(1) @ p.sum(0)
    truth = float((observed - chance) / (1 - chance))
    found, naive = [], []
    for _ in range(RUNS):
        sizes = rng.integers(1, 9, 60)
        cells = np.repeat(rng.choice(4, 60, p=p.ravel()), sizes)
        first, second = ["AB"[c // 2] for c in cells], ["AB"[c % 2] for c in cells]
        found.append(cohen_kappa(first, second, np.repeat(range(60), sizes).tolist()))
        naive.append(cohen_kappa(first, second))
    assert 0.93 <= covered(found, truth) <= 0.98
    assert covered(naive, truth) < 0.8


@pytest.mark.parametrize("groups", ["aaaa", "aabb"])
def test_kappa_of_few_prompts_has_an_interval(groups: str) -> None:
    found = cohen_kappa(list("AABB"), list("ABAB"), groups)
    assert found.low < found.value < found.high
    assert not math.isnan(found.low)
