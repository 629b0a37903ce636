"""The verdict rule, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfjudge.core.verdict import (
    combine,
    first_shown_rate,
    first_shown_scores,
    mirrored,
    principle_verdict,
    scores,
    winner_strength,
)
from selfjudge.records import LabelProbabilities, OrderProbabilities, PrincipleVerdict


def p(ab_a: float, ab_b: float, ba_a: float, ba_b: float) -> OrderProbabilities:
    return OrderProbabilities(AB=LabelProbabilities(A=ab_a, B=ab_b), BA=LabelProbabilities(A=ba_a, B=ba_b))


def verdict(ab_a: float, ab_b: float, ba_a: float, ba_b: float, name: str = "overall") -> PrincipleVerdict:
    return principle_verdict(name, p(ab_a, ab_b, ba_a, ba_b))


def test_both_orders_for_a() -> None:
    # s_a = (.6 + .7) / 2 = .65, s_b = (.3 + .2) / 2 = .25; strength .65 / .9; mass .65 + .25
    found = verdict(0.6, 0.3, 0.2, 0.7)
    assert scores(found.p) == pytest.approx((0.65, 0.25))
    assert (found.preferred, found.agree) == ("A", True)
    assert found.strength == pytest.approx(0.65 / 0.9)
    assert found.label_mass == pytest.approx(0.9)


def test_the_orders_disagree_and_the_sum_decides() -> None:
    # "A" in both orders: for a, then for b. s_a = (.7 + .1) / 2 = .4, s_b = (.3 + .9) / 2 = .6
    found = verdict(0.7, 0.3, 0.9, 0.1)
    assert (found.preferred, found.agree) == ("B", False)
    assert found.strength == pytest.approx(0.4)


def test_an_exact_tie_is_nobodys() -> None:
    # A pure position bias: s_a = (.75 + .25) / 2 = s_b
    found = verdict(0.75, 0.25, 0.75, 0.25)
    assert (found.preferred, found.strength, found.agree) == ("tie", 0.5, False)


def test_an_order_without_preference_agrees_with_nothing() -> None:
    found = verdict(0.5, 0.5, 0.2, 0.8)  # s_a = .65, s_b = .35
    assert (found.preferred, found.agree) == ("A", False)


def test_no_mass_on_the_labels_is_a_tie() -> None:
    found = verdict(0.0, 0.0, 0.0, 0.0)
    assert (found.preferred, found.strength, found.label_mass) == ("tie", 0.5, 0.0)


def test_rounding_never_lifts_the_mass_above_one() -> None:
    assert verdict(1.0, 1e-9, 0.5, 0.5 + 1e-9).label_mass == 1.0


def test_the_majority_of_principles_wins_against_the_mean() -> None:
    # Two narrow votes for a (s_a .51 against .49), one clear vote for b (.05 against .95): the mean is for b.
    narrow, clear = (0.51, 0.49, 0.49, 0.51), (0.05, 0.95, 0.95, 0.05)
    found = combine([verdict(*narrow, "x"), verdict(*narrow, "y"), verdict(*clear, "z")])
    assert found.preferred == "A"
    # The strength stays that of the mean: (.51 + .51 + .05) / 3
    assert found.strength == pytest.approx(1.07 / 3)
    assert [v.principle for v in found.principles] == ["x", "y", "z"]


def test_equal_votes_go_to_the_larger_mean() -> None:
    narrow, clear = (0.51, 0.49, 0.49, 0.51), (0.05, 0.95, 0.95, 0.05)
    assert combine([verdict(*narrow), verdict(*clear)]).preferred == "B"
    assert combine([verdict(*clear), verdict(*narrow)]).preferred == "B"


def test_ties_do_not_vote() -> None:
    tie, narrow = (0.5, 0.5, 0.5, 0.5), (0.49, 0.51, 0.51, 0.49)
    assert combine([verdict(*tie), verdict(*tie), verdict(*narrow)]).preferred == "B"
    assert combine([verdict(*tie), verdict(*tie)]).preferred == "tie"


def test_mean_probabilities_over_principles() -> None:
    found = combine([verdict(0.6, 0.2, 0.1, 0.8), verdict(0.2, 0.4, 0.5, 0.3)])
    # Means: AB (.4, .3), BA (.3, .55); s_a = (.4 + .55) / 2 = .475, s_b = (.3 + .3) / 2 = .3
    assert pytest.approx((0.4, 0.3, 0.3, 0.55)) == (found.p.AB.A, found.p.AB.B, found.p.BA.A, found.p.BA.B)
    assert found.strength == pytest.approx(0.475 / 0.775)
    assert found.label_mass == pytest.approx(0.775)
    assert found.agree  # .4 > .3 in AB and .55 > .3 in BA


def test_no_principle_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one principle"):
        combine([])


eighths = st.integers(0, 8).map(lambda i: i / 16)  # exact in binary, and a pair of them sums to at most 1


@settings(deadline=None)
@given(st.lists(st.tuples(eighths, eighths, eighths, eighths), min_size=1, max_size=4))
def test_swapping_the_responses_mirrors_the_verdict(quadruples: list[tuple[float, float, float, float]]) -> None:
    # Shown (b, a) instead of (a, b), what was the order AB is now the order BA.
    found = combine([verdict(*q) for q in quadruples])
    mirror = combine([verdict(ba_a, ba_b, ab_a, ab_b) for ab_a, ab_b, ba_a, ba_b in quadruples])
    assert mirror.preferred == {"A": "B", "B": "A", "tie": "tie"}[found.preferred]
    assert mirror.strength == pytest.approx(1 - found.strength)
    assert mirror.label_mass == pytest.approx(found.label_mass)
    assert mirror.agree == found.agree
    assert 0 <= found.strength <= 1


def test_the_other_order_of_the_same_judgment():
    one, two = verdict(0.7, 0.1, 0.4, 0.5, "one"), verdict(0.2, 0.3, 0.3, 0.1, "two")
    found = combine([one, two])
    other = mirrored(found)
    assert (found.preferred, other.preferred) == ("A", "B")
    assert other.strength == pytest.approx(1 - found.strength)
    assert (other.agree, other.label_mass) == (found.agree, found.label_mass)
    # What was said of (a, b) is now said of (b, a): the second order of the one is the first of the other.
    assert other.principles[0].p == OrderProbabilities(AB=one.p.BA, BA=one.p.AB)
    assert mirrored(other) == found


@pytest.mark.parametrize(
    ("probabilities", "won"),
    [
        ((0.9, 0.1, 0.8, 0.2), [1, 1]),  # the first shown in both orders: a, then b
        ((0.1, 0.9, 0.2, 0.8), [0, 0]),  # the second shown in both orders
        ((0.9, 0.1, 0.2, 0.8), [1, 0]),  # a in both orders
        ((0.1, 0.9, 0.8, 0.2), [0, 1]),  # b in both orders
        ((0.5, 0.5, 0.8, 0.2), [0.5, 1]),  # no preference, then b, which is shown first
        ((0.0, 0.0, 0.0, 0.0), [0.5, 0.5]),
    ],
)
def test_judgments_won_by_the_first_shown(probabilities: tuple[float, ...], won: list[float]) -> None:
    found = combine([verdict(*probabilities)])
    assert first_shown_scores(found) == won
    assert first_shown_rate(found) == sum(won) / 2
    assert first_shown_rate(mirrored(found)) == sum(won) / 2  # whoever is called a


def test_the_judgments_of_each_principle_count_not_their_mean() -> None:
    # x takes the first shown twice, narrowly; y prefers a in both orders, clearly: 1, 1, 1, 0.
    # The mean probabilities are for a in both orders, (.75, .25) and (.35, .65), which would be 1, 0.
    found = combine([verdict(0.6, 0.4, 0.6, 0.4, "x"), verdict(0.9, 0.1, 0.1, 0.9, "y")])
    assert first_shown_rate(found) == 3 / 4
    assert first_shown_rate(found.model_copy(update={"principles": ()})) == 1 / 2


def test_the_strength_of_the_winner() -> None:
    assert winner_strength("A", 0.8) == 0.8
    assert winner_strength("B", 0.3) == 0.7
    assert winner_strength("tie", 0.4) == 0.5
    # Two narrow votes for a, one clear vote for b: s_a is (.51 + .51 + .05) / 3, and a wins.
    narrow, clear = (0.51, 0.49, 0.49, 0.51), (0.05, 0.95, 0.95, 0.05)
    found = combine([verdict(*narrow, "x"), verdict(*narrow, "y"), verdict(*clear, "z")])
    assert winner_strength(found.preferred, found.strength) == pytest.approx(1.07 / 3)
