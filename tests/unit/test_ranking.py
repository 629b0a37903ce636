"""The ranking of many systems: Bradley-Terry in closed form and against another fit, intervals by simulation."""

from __future__ import annotations

import sys
from itertools import combinations, permutations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import beta

from selfjudge.core.bootstrap import bootstrap_rate
from selfjudge.core.ranking import Outcome, rank_systems
from selfjudge.core.statistics import mean_rate, proportion
from selfjudge.errors import MissingExtraError

pytest.importorskip("evalica", reason="evalica is not installed: pip install 'selfjudge[eval]'")


def outcomes(a: str, b: str, wins: int, losses: int, ties: int = 0) -> list[Outcome]:
    """Outcomes on prompts 0, 1, …: the wins of a first, then its losses, then ties."""
    scores = [1.0] * wins + [0.0] * losses + [0.5] * ties
    return [Outcome(str(i), a, b, score) for i, score in enumerate(scores)]


def scores(found) -> dict[str, float]:
    return {system.name: system.score for system in found.systems}


def test_two_systems_are_the_log_odds():
    # 23 wins and 7 losses, half a win added to each: log(23.5 / 7.5) = log(3.13333) = 1.142097, half to each side.
    found = rank_systems(outcomes("a", "b", 23, 7))
    assert scores(found) == pytest.approx({"a": 0.5710486, "b": -0.5710486}, abs=1e-6)
    assert [(s.name, s.rank) for s in found.systems] == [("a", 1), ("b", 2)]
    assert found.n == 30


def test_a_tie_is_half_a_win():
    # 20 wins, 6 ties, 4 losses are 23 and 7.
    assert scores(rank_systems(outcomes("a", "b", 20, 4, ties=6)))["a"] == pytest.approx(0.5710486, abs=1e-6)
    assert scores(rank_systems(outcomes("a", "b", 0, 0, ties=9))) == pytest.approx({"a": 0, "b": 0})


def test_three_systems_in_closed_form():
    # Strengths 4 : 2 : 1 beat each other 2/3, 4/5 and 2/3 of 15: 10 : 5, 12 : 3, 10 : 5. Less the half win added to
    # each side, 14 prompts remain: 9.5, 11.5 and 9.5 wins. log(4, 2, 1), centred, is (log 2, 0, -log 2).
    data = [
        *outcomes("low", "high", 2, 11, ties=1),
        *outcomes("middle", "low", 9, 4, ties=1),
        *outcomes("high", "middle", 9, 4, ties=1),
    ]
    found = rank_systems(data)
    assert scores(found) == pytest.approx({"high": np.log(2), "middle": 0, "low": -np.log(2)}, abs=1e-8)
    assert [s.name for s in found.systems] == ["high", "middle", "low"]


def test_a_long_chain_is_fitted_to_its_end(monkeypatch):
    # Along a chain each lead is that of its own pair, log(40.5 / 0.5). The fit takes more than a hundred steps.
    monkeypatch.setattr("selfjudge.core.ranking.RESAMPLES", 2)
    found = scores(rank_systems(o for a, b in zip("abcdefg", "bcdefgh", strict=True) for o in outcomes(a, b, 40, 0)))
    expected = {name: np.log(81) * (3.5 - place) for place, name in enumerate("abcdefgh")}
    assert found == pytest.approx(expected, abs=1e-10)


def test_an_uneven_design_is_the_maximum_of_the_likelihood():
    # Pairs that were compared unequally often, and one not at all, against a general optimiser.
    wins = {("a", "b"): (12, 5), ("b", "c"): (3, 20), ("c", "d"): (8, 8), ("a", "c"): (1, 6), ("b", "d"): (9, 2)}
    names = "abcd"

    def loss(x):
        return sum(
            -(w + 0.5) * np.log(expit(x[names.index(a)] - x[names.index(b)]))
            - (n + 0.5) * np.log(expit(x[names.index(b)] - x[names.index(a)]))
            for (a, b), (w, n) in wins.items()
        ) + x.sum() ** 2  # fmt: skip

    best = minimize(loss, np.zeros(4), tol=1e-10).x
    found = rank_systems(o for (a, b), (w, n) in wins.items() for o in outcomes(a, b, w, n))
    assert scores(found) == pytest.approx(dict(zip(names, best, strict=True)), abs=1e-4)
    assert rate(found, "a", "d") is None
    assert found.n == 23


def rate(found, a: str, b: str):
    names = [system.name for system in found.systems]
    return found.rates[names.index(a)][names.index(b)]


def test_the_matrix_has_every_pairs_win_rate_from_both_sides():
    data = [*outcomes("a", "b", 6, 2, ties=2), *outcomes("c", "a", 9, 1), *outcomes("b", "c", 0, 10)]
    found = rank_systems(data)
    assert [s.name for s in found.systems] == ["c", "a", "b"]
    assert rate(found, "a", "b") == bootstrap_rate([1] * 6 + [0] * 2 + [0.5] * 2)
    assert rate(found, "a", "b").rate == pytest.approx(0.7)
    assert rate(found, "a", "c").rate == pytest.approx(0.1)
    assert all(rate(found, x, x) is None for x in "abc")
    for x, y in permutations("abc", 2):
        one, other = rate(found, x, y), rate(found, y, x)
        assert (one.rate, one.low, one.high) == pytest.approx((1 - other.rate, 1 - other.high, 1 - other.low))
        assert one.low < one.rate < one.high or one.rate in (0, 1)


def test_the_order_of_names_and_sides_changes_nothing():
    data = [*outcomes("a", "b", 6, 2), *outcomes("b", "c", 5, 3), *outcomes("a", "c", 7, 1)]
    turned = [Outcome(o.prompt, o.b, o.a, 1 - o.score) for o in reversed(data)]
    assert scores(rank_systems(turned)) == pytest.approx(scores(rank_systems(data)), abs=1e-7)
    assert rank_systems(data) == rank_systems(data)  # seeded
    assert rank_systems(data, seed=1).systems != rank_systems(data).systems


def test_the_seed_is_that_of_the_rates_too():
    scored = np.random.default_rng(0).random(30).tolist()
    found = [rate(rank_systems((Outcome(str(i), "a", "b", s) for i, s in enumerate(scored)), seed), "a", "b")
             for seed in (0, 1)]  # fmt: skip
    assert found == [bootstrap_rate(scored, 0), bootstrap_rate(scored, 1)]
    assert found[0] != found[1]


def test_outcomes_of_one_prompt_and_pair_count_once():
    once = [Outcome("0", "a", "b", 0.75), Outcome("1", "a", "b", 0.0)]
    often = [Outcome("0", "a", "b", 0.6), Outcome("0", "b", "a", 0.1), *once[1:]]
    assert rank_systems(often) == rank_systems(once)


def test_nothing_is_added_to_a_pair_that_was_not_compared():
    # Along the chain a, b, c leads add up, so that a is (2 x + y) / 3 above the mean with x = y = log(40.5 / 0.5). In
    # the draws x and y are log((n + u) / v) with n from gamma(40), common to both, and u, v from gamma(1/2) for each.
    found = {s.name: s for s in rank_systems([*outcomes("a", "b", 40, 0), *outcomes("b", "c", 40, 0)]).systems}
    assert found["a"].score == pytest.approx(np.log(81), abs=1e-5)
    rng = np.random.default_rng(0)
    n, (u, v) = rng.gamma(40, size=100_000), rng.gamma(0.5, size=(2, 2, 100_000))
    x, y = np.log((n + u) / v)
    low, high = np.quantile((2 * x + y) / 3, (0.025, 0.975))
    assert found["a"].low == pytest.approx(low, abs=0.2)
    assert found["a"].high == pytest.approx(high, abs=1)  # an added tie of a and c would take 3 off


def test_equal_systems_share_a_rank():
    data = [*outcomes("a", "b", 5, 5), *outcomes("a", "c", 8, 2), *outcomes("b", "c", 8, 2)]
    assert [(s.name, s.rank) for s in rank_systems(data).systems] == [("a", 1), ("b", 1), ("c", 3)]


def test_a_system_that_always_wins_has_a_finite_score_and_a_width():
    data = [*outcomes("best", "b", 40, 0), *outcomes("best", "c", 40, 0), *outcomes("b", "c", 40, 0)]
    found = rank_systems(data)
    assert [s.name for s in found.systems] == ["best", "b", "c"]
    assert all(np.isfinite([s.score, s.low, s.high]).all() and s.low < s.score < s.high for s in found.systems)
    assert found.rates[0][1] == proportion(40, 40)


@pytest.mark.parametrize(("wins", "losses"), [(40, 0), (23, 7), (5, 25)])
def test_the_interval_of_two_systems_is_that_of_jeffreys(wins, losses):
    # The difference of the two scores is twice that of a, and its odds have the distribution Beta(w + 1/2, l + 1/2).
    found = {s.name: s for s in rank_systems(outcomes("a", "b", wins, losses)).systems}["a"]
    low = beta.ppf(0.025, wins + 0.5, losses + 0.5)
    assert expit(2 * found.low) == pytest.approx(low, abs=0.015)
    high = beta.ppf(0.975, wins + 0.5, losses + 0.5)
    assert expit(2 * found.high) == pytest.approx(high, abs=0.015)


@pytest.mark.parametrize("shared", [0.0, 1.5])
def test_the_intervals_cover(shared):
    # With `shared`, prompts are unlike each other and one prompt's outcomes are drawn together; the truth is then the
    # fit to a large sample. 300 runs have an error of .013, here of four systems each.
    rng = np.random.default_rng(1)
    strengths = dict(zip("abcd", (0.8, 0.2, -0.3, -0.7), strict=True))

    def sample(n: int) -> list[Outcome]:
        # What a prompt does to each system.
        tastes = dict(zip("abcd", rng.normal(0, shared, (4, n)), strict=True))
        draws = []
        for x, y in combinations("abcd", 2):
            p = expit(strengths[x] + tastes[x] - strengths[y] - tastes[y])
            draws += [Outcome(str(i), x, y, float(win)) for i, win in enumerate(rng.random(n) < p)]
        return draws

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selfjudge.core.ranking.bootstrap_rate", lambda scores, seed: mean_rate(scores))
        patch.setattr("selfjudge.core.ranking.RESAMPLES", 2)
        truth = scores(rank_systems(sample(40_000)))
        patch.setattr("selfjudge.core.ranking.RESAMPLES", 200)
        runs = [rank_systems(sample(80), seed).systems for seed in range(300)]
    if not shared:
        assert truth == pytest.approx(strengths, abs=0.03)
    covered = np.mean([s.low <= truth[s.name] <= s.high for run in runs for s in run])
    assert 0.92 <= covered <= 0.97


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([Outcome("0", "a", "b", 1.5)], "in 0..1"),
        ([Outcome("0", "a", "b", float("nan"))], "in 0..1"),
        ([Outcome("0", "a", "a", 1.0)], "different systems"),
        ([], "nothing to rank"),
        ([Outcome("0", "a", "b", 1.0), Outcome("0", "c", "d", 1.0)], "no chain"),
    ],
)
def test_what_cannot_be_ranked(data, words):
    with pytest.raises(ValueError, match=words):
        rank_systems(data)


def test_without_evalica(monkeypatch):
    monkeypatch.setitem(sys.modules, "evalica", None)
    with pytest.raises(MissingExtraError, match=r"^A ranking .*selfjudge\[eval\]"):
        rank_systems(outcomes("a", "b", 1, 1))
