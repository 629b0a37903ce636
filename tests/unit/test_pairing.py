"""From judged samples to pairs, derived by hand."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from selfjudge.core.verdict import combine, mirrored, principle_verdict
from selfjudge.records import Completion, LabelProbabilities, OrderProbabilities, Verdict
from selfjudge.training.pairing import (
    JudgedSamples,
    Match,
    PairRules,
    RolloutPrompt,
    best_worst,
    disagreement,
    to_pairs,
)
from selfjudge.training.pairs import Pair

PROMPT = RolloutPrompt("p", (), (1, 2))


def verdict(ab: float, ba: float | None = None) -> Verdict:
    """``ab`` and ``ba``: probability that the first sample is better, asked in each order; labels have all mass."""
    ba = ab if ba is None else ba
    p = OrderProbabilities(AB=LabelProbabilities(A=ab, B=1 - ab), BA=LabelProbabilities(A=1 - ba, B=ba))
    return combine([principle_verdict("p", p)])


def judged(verdicts: dict[Match, Verdict], lengths: tuple[int, ...] = (3, 3, 3, 3)) -> JudgedSamples:
    """Sample i is the token 10 + i, as often as its length says."""
    samples = tuple(Completion(ids=(10 + i,) * n, text=str(i), finish_reason="stop") for i, n in enumerate(lengths))
    return JudgedSamples(PROMPT, samples, verdicts)


def places(pairs: list[Pair]) -> list[Match]:
    return [(p.chosen_ids[0] - 10, p.rejected_ids[0] - 10) for p in pairs]


def test_two_samples() -> None:
    first, second, tie = (judged({(0, 1): verdict(p)}, (3, 3)) for p in (0.8, 0.3, 0.5))
    for choice in ("best_worst", "all"):
        assert places(to_pairs(first, PairRules(choice=choice))) == [(0, 1)]
        assert places(to_pairs(second, PairRules(choice=choice))) == [(1, 0)]
        assert to_pairs(tie, PairRules(choice=choice)) == []
        assert to_pairs(judged({}, (3, 3)), PairRules(choice=choice)) == []
    assert [p.strength for p in to_pairs(second, PairRules("hard"))] == [1.0]
    assert [p.strength for p in to_pairs(second, PairRules("soft"))] == pytest.approx([0.7])


# Sample 2 beats all, 0 beats 1 and 3, 1 and 3 tie.
FOUR = {
    (0, 1): verdict(0.9),
    (0, 2): verdict(0.4),
    (0, 3): verdict(0.6),
    (1, 2): verdict(0.2),
    (1, 3): verdict(0.5),
    (2, 3): verdict(0.7),
}


def test_the_best_against_the_worst() -> None:
    # 1 and 3 win half a match each; mean strengths .1 + .2 + .5 against .4 + .5 + .3 over three: 1 is the worst.
    assert best_worst(judged(FOUR)) == [(1, 2)]
    pairs = to_pairs(judged(FOUR), PairRules("soft"))
    assert places(pairs) == [(2, 1)]
    assert pairs[0].strength == pytest.approx(0.8)
    # Wins count before strengths: 0 wins two matches closely and 1 one by far.
    three = {(0, 1): verdict(0.51), (0, 2): verdict(0.51), (1, 2): verdict(0.99)}
    assert best_worst(judged(three, (3, 3, 3))) == [(0, 2)]
    # A circle without a best has no worst either.
    circle = {(0, 1): verdict(0.6), (1, 2): verdict(0.6), (0, 2): verdict(0.4)}
    assert best_worst(judged(circle, (3, 3, 3))) == []
    # Best and worst may be a match that did not fit the judge.
    gap = judged({(0, 1): verdict(0.9), (1, 2): verdict(0.6)}, (3, 3, 3))
    assert best_worst(gap) == []
    assert to_pairs(gap, PairRules()) == []


# 0 beats 1, 2 and 3, but not 4. 4 beats 0 alone. 1 beats 2 and 4, 2 beats 3 and 4, 3 beats 1 and 4.
# Matches won: 3, 2, 2, 2, 1: 0 is the best and 4 the worst, and 4 has won their match.
FIVE = {
    (0, 1): verdict(0.9), (0, 2): verdict(0.9), (0, 3): verdict(0.9), (0, 4): verdict(0.2),
    (1, 2): verdict(0.6), (1, 3): verdict(0.4), (1, 4): verdict(0.7),
    (2, 3): verdict(0.6), (2, 4): verdict(0.7),
    (3, 4): verdict(0.7),
}  # fmt: skip


def renamed(verdicts: dict[Match, Verdict], order: tuple[int, ...]) -> dict[Match, Verdict]:
    """The same verdicts when sample i is put at place order[i]."""
    moved = {(order[i], order[j]): v for (i, j), v in verdicts.items()}
    return {(i, j) if i < j else (j, i): v if i < j else mirrored(v) for (i, j), v in moved.items()}


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 1, 2, 3, 0), (3, 4, 0, 1, 2)])
def test_the_worst_is_never_chosen_because_it_won_against_the_best(order: tuple[int, ...]) -> None:
    best, worst = order[0], order[4]
    for direct, pairs in [(verdict(0.2), []), (verdict(0.5), []), (verdict(0.7), [(best, worst)])]:
        # A tie gives 3.5 wins and half a win, a win of 0's gives 4 and none: the ranking stays.
        five = judged(renamed(FIVE | {(0, 4): direct}, order), (3,) * 5)
        for labels in ("hard", "soft"):
            assert places(to_pairs(five, PairRules(labels))) == pairs


def test_the_best_is_chosen_by_the_ranking_or_nobody_is() -> None:
    """Over many sets of verdicts: who is chosen has at least the wins of who is rejected."""
    draw, left_out = random.Random(0), 0
    for _ in range(300):
        found = judged({match: verdict(draw.random()) for match in combinations(range(4), 2)})
        wins = [sum((v.preferred == "A") == (i == place) for (i, j), v in found.verdicts.items() if place in (i, j))
                for place in range(4)]  # fmt: skip
        pairs = places(to_pairs(found, PairRules()))
        left_out += not pairs
        for chosen, rejected in pairs:
            assert wins[chosen] == max(wins)
            assert wins[rejected] == min(wins)
    assert 0 < left_out < 100


def test_a_tie_is_half_a_win_for_either_side() -> None:
    # 0 and 1 tie and beat 2: equal shares, and 0 beats it by more. As a win of 1, or a loss of 0, 1 would be the best.
    level = {(0, 1): verdict(0.5), (0, 2): verdict(0.9), (1, 2): verdict(0.6)}
    assert best_worst(judged(level, (3, 3, 3))) == [(0, 2)]
    turned = {(0, 1): verdict(0.5), (0, 2): verdict(0.6), (1, 2): verdict(0.9)}
    assert best_worst(judged(turned, (3, 3, 3))) == [(1, 2)]
    # 1 ties twice, which is less than a win and a tie of 0.
    assert best_worst(judged({(0, 1): verdict(0.5), (0, 2): verdict(0.8), (1, 2): verdict(0.5)}, (3, 3, 3))) == [(0, 2)]


def test_of_two_that_win_as_little_the_worst_is_the_one_that_lost_by_more() -> None:
    assert best_worst(judged({(0, 1): verdict(0.9), (0, 2): verdict(0.6), (1, 2): verdict(0.5)}, (3, 3, 3))) == [(0, 1)]
    assert best_worst(judged({(0, 1): verdict(0.6), (0, 2): verdict(0.9), (1, 2): verdict(0.5)}, (3, 3, 3))) == [(0, 2)]


def test_all_pairs() -> None:
    assert places(to_pairs(judged(FOUR), PairRules(choice="all"))) == [(0, 1), (2, 0), (0, 3), (2, 1), (2, 3)]


def test_disagreement_smooths_or_leaves_out() -> None:
    assert disagreement(verdict(0.8)) == pytest.approx(0)
    assert disagreement(verdict(0.9, 0.3)) == pytest.approx(0.6)
    unsure, sure = judged({(0, 1): verdict(0.9, 0.3)}, (3, 3)), judged({(0, 1): verdict(0.9, 0.7)}, (3, 3))
    # Wrong with probability .6 / 2 = .3: hard 1 -> .7; soft .6 -> .7 * .6 + .3 * .4 = .54.
    assert to_pairs(unsure, PairRules("hard", smoothing=True))[0].strength == pytest.approx(0.7)
    assert to_pairs(unsure, PairRules("soft", smoothing=True))[0].strength == pytest.approx(0.54)
    assert to_pairs(sure, PairRules("hard", smoothing=True))[0].strength == pytest.approx(0.9)
    assert to_pairs(unsure, PairRules(abstain=True)) == []
    assert len(to_pairs(sure, PairRules(abstain=True))) == 1


def test_disagreement_is_about_the_labels_alone() -> None:
    # Half the mass is off the labels in one order: p(A | A or B) is .8 in both.
    p = OrderProbabilities(AB=LabelProbabilities(A=0.8, B=0.2), BA=LabelProbabilities(A=0.1, B=0.4))
    assert disagreement(combine([principle_verdict("p", p)])) == pytest.approx(0)


def test_without_mass_on_the_labels_an_order_says_nothing() -> None:
    nothing, sure = LabelProbabilities(A=0.0, B=0.0), LabelProbabilities(A=0.0, B=0.4)
    assert disagreement(combine([principle_verdict("p", OrderProbabilities(AB=nothing, BA=nothing))])) == 0
    # The other order is sure of the first sample: 1 against .5.
    assert disagreement(combine([principle_verdict("p", OrderProbabilities(AB=nothing, BA=sure))])) == 0.5


def votes(*ab: float) -> Verdict:
    """The verdict of several principles, each of which says the same in both orders."""
    return combine([p for v in map(verdict, ab) for p in v.principles])


@pytest.mark.parametrize("smoothing", [False, True])  # the orders agree, so it changes nothing
def test_a_vote_against_the_mean_asks_for_no_preference(smoothing: bool) -> None:
    # Two of three principles are for the first sample, the mean is .4: the winner's target is not the loser's.
    for found, pair in ((votes(0.55, 0.55, 0.1), (0, 1)), (votes(0.45, 0.45, 0.9), (1, 0))):
        row = judged({(0, 1): found}, (3, 3))
        soft, sure = (to_pairs(row, PairRules(labels, smoothing)) for labels in ("soft", "hard"))
        assert places(soft) == places(sure) == [pair]
        assert [p.strength for p in soft + sure] == pytest.approx([0.5, 1.0])
    # A vote with the mean keeps the mean, (.9 + .6 + .4) / 3.
    (soft,) = to_pairs(judged({(0, 1): votes(0.9, 0.6, 0.4)}, (3, 3)), PairRules("soft", smoothing))
    assert soft.strength == pytest.approx(19 / 30)


@pytest.mark.parametrize(("lengths", "kept"), [((4, 5), True), ((5, 4), True), ((3, 5), False), ((5, 3), False)])
def test_lengths_that_differ_too_much(lengths: tuple[int, int], kept: bool) -> None:
    rules = PairRules(max_length_difference=0.2)
    assert bool(to_pairs(judged({(0, 1): verdict(0.8)}, lengths), rules)) is kept
    assert to_pairs(judged({(0, 1): verdict(0.8)}, lengths), PairRules())
