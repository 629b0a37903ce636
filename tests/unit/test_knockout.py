"""How often a knockout ends with a good answer: by hand, by simulation, and against the bracket itself."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.stats import binom

from selfjudge.core.bracket import BracketState
from selfjudge.core.knockout import failure_bound, good_counts, good_winner, majority

Q = 0.7


def test_by_hand():
    assert good_winner(1, Q) == pytest.approx([0, 1])
    assert good_winner(2, Q) == pytest.approx([0, Q, 1])
    # Three: the last of the draw has a bye, then is in the final with the winner of the others.
    # One good: it has the bye (1/3) and wins once, or plays twice. Two good: the bad one has the bye (1/3) and loses
    # the final, or a good one has the bye: the other meets the bad one, who must win both.
    assert good_winner(3, Q) == pytest.approx([0, Q / 3 + 2 * Q**2 / 3, Q / 3 + (1 - (1 - Q) ** 2) * 2 / 3, 1])
    # Four: one good wins twice. Two good: in one half (1/3) they are sure of the final, and win it with Q; apart (2/3)
    # both win (Q^2), or one of them does (2 Q (1-Q)) and then wins the final. Three good: the bad one must win twice.
    two = Q / 3 + (Q**2 + 2 * Q * (1 - Q) * Q) * 2 / 3
    assert good_winner(4, Q) == pytest.approx([0, Q**2, two, 1 - (1 - Q) ** 2, 1])


def test_nobody_sits_out_twice():
    # Five, one of them good: the fifth of the draw sits out the first round, the winner of the third and fourth the
    # second. So three of the five play two matches, the first two of the draw play three.
    assert good_winner(5, Q)[1] == pytest.approx((3 * Q**2 + 2 * Q**3) / 5)


@pytest.mark.parametrize("n", [2, 5, 6, 8, 13, 100])
def test_a_coin_keeps_the_share_and_a_sure_judge_needs_one(n):
    assert good_winner(n, 0.5) == pytest.approx(np.arange(n + 1) / n)
    assert good_winner(n, 1.0) == pytest.approx([0] + [1] * n)
    assert good_winner(n, 0.3) == pytest.approx(1 - good_winner(n, 0.7)[::-1])  # good and bad exchanged


@pytest.mark.parametrize("n", [2, 3, 5, 7, 11, 13, 14, 29])
def test_two_good_ones_in_the_bracket_as_it_is_played(n):
    state = BracketState(n, 0)
    below, played, met = {c: [c] for c in state.alive}, dict.fromkeys(state.alive, 0), {}
    while not state.finished:
        pairings = state.pairings()
        for a, b in pairings:
            met |= {(x, y): (played[x], played[y]) for x in below[a] for y in below[b]}
            below[a] += below[b]
            played |= {c: played[c] + 1 for c in below[a]}
        state.advance([a for a, _ in pairings])
    assert good_winner(n, Q)[1] == pytest.approx(np.mean([Q ** played[c] for c in played]))
    wins = []
    for (x, _), (before_x, before_y) in met.items():
        # Each gets to their match alone. If both do, a good one goes on; if one does, it meets a bad one there.
        gets_x, gets_y, after = Q**before_x, Q**before_y, Q ** (played[x] - before_x - 1)
        wins.append((gets_x * gets_y + (gets_x * (1 - gets_y) + gets_y * (1 - gets_x)) * Q) * after)
    assert len(wins) == n * (n - 1) / 2
    assert good_winner(n, Q)[2] == pytest.approx(np.mean(wins))


def test_independent_candidates_follow_the_recursion_of_one_round():
    # In a bracket without byes: p' = p^2 + 2 p (1 - p) q, once a round.
    p = 0.3
    after = p
    for n in (2, 4, 8, 16):
        after = after**2 + 2 * after * (1 - after) * Q
        assert binom.pmf(range(n + 1), n, p) @ good_winner(n, Q) == pytest.approx(after)


@pytest.mark.parametrize(("n", "good"), [(5, 2), (6, 1), (7, 3), (8, 4)])
def test_simulated_brackets(n, good):
    rng = random.Random(n)
    wins = 0
    for seed in range(4000):
        state = BracketState(n, seed)
        while not state.finished:
            state.advance([_winner(a, b, good, rng) for a, b in state.pairings()])
        wins += state.alive[0] < good
    # Four standard errors of 4,000 runs.
    assert wins / 4000 == pytest.approx(good_winner(n, Q)[good], abs=4 * 0.5 / 4000**0.5)


def _winner(a: int, b: int, good: int, rng: random.Random) -> int:
    """The candidates below ``good`` are the good ones."""
    first = Q if a < good <= b else 1 - Q if b < good <= a else 0.5
    return a if rng.random() < first else b


def test_numbers_out_of_range():
    assert np.isfinite(good_winner(1000, Q)).all()
    for n in (0, 1001):
        with pytest.raises(ValueError, match="1 to 1000"):
            good_winner(n, Q)


def test_counts_by_hand():
    # Two of four, one of them good: it is among them in 3 of 6 pairs.
    assert good_counts(2, 4, 1) == pytest.approx([0.5, 0.5, 0])
    assert good_counts(4, 4, 3) == pytest.approx([0, 0, 0, 1, 0])


def test_drawing_from_drawn_candidates_is_drawing():
    p, candidates, n = 0.3, 9, 4
    drawn = sum(
        binom.pmf(good, candidates, p) * good_counts(n, candidates, good) for good in range(candidates + 1)
    )  # fmt: skip
    assert drawn == pytest.approx(binom.pmf(range(n + 1), n, p))


def test_majority_by_hand():
    assert majority(Q, 1) == pytest.approx(Q)
    assert majority(Q, 2) == pytest.approx(Q)  # both right, or one and then the coin
    assert majority(Q, 3) == pytest.approx(Q**3 + 3 * Q**2 * (1 - Q))
    assert majority(0.5, 7) == majority(0.5, 8) == pytest.approx(0.5)
    assert majority(0.6, 2001) > 0.999  # with ever more repeats, the side of the larger probability


def test_bound_by_hand():
    # .5^4 + 2 exp(-2 * 50 * .04) = .0625 + 2 * .018316
    assert failure_bound(4, 50, 0.5, 0.7) == pytest.approx(0.0991313, abs=1e-6)
    # Five candidates need three rounds: .5^5 + 3 * .018316
    assert failure_bound(5, 50, 0.5, 0.7) == pytest.approx(0.0861969, abs=1e-6)
    assert failure_bound(1, 1, 0.3, 0.7) == pytest.approx(0.7)  # no match, only the draw
    assert failure_bound(1, 1, 0.3, 0.4) == pytest.approx(0.7)
    assert failure_bound(8, 1, 0.5, 0.7) == 1  # one comparison: nothing is guaranteed
    assert failure_bound(8, 1000, 0.5, 0.4) == failure_bound(2, 1000, 0.5, 0.4) == 1


@pytest.mark.parametrize("n", [2, 3, 4, 7, 16])
@pytest.mark.parametrize("repeats", [1, 5, 51])
def test_the_bound_holds(n, repeats):
    fails = 1 - binom.pmf(range(n + 1), n, 0.4) @ good_winner(n, majority(0.65, repeats))
    assert fails <= failure_bound(n, repeats, 0.4, 0.65)
