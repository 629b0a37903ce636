"""The bracket as bookkeeping; test_tournament.py plays it with a judge."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfjudge.core.bracket import BracketState, draw, placing, tie_winner
from selfjudge.records import LabelProbabilities, Match, OrderProbabilities, Verdict


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 1000))
def test_n_minus_one_matches_in_log2_n_rounds(n: int, seed: int) -> None:
    state, matches, lost = BracketState(n, seed), 0, set()
    while not state.finished:
        pairs = state.pairings()
        assert not {c for pair in pairs for c in pair} & lost
        assert all(a != b for a, b in pairs)
        matches += len(pairs)
        lost |= {min(pair) for pair in pairs}
        state.advance([max(pair) for pair in pairs])
    assert matches == n - 1
    assert state.round == math.ceil(math.log2(n))
    assert state.alive == [n - 1]  # the largest number wins every match it plays
    assert lost == set(range(n - 1))  # everybody else lost exactly once
    assert sorted(state.order) == list(range(n))


def test_one_candidate_wins_without_a_match() -> None:
    state = BracketState(1, 0)
    assert state.finished
    assert (state.pairings(), state.alive, state.byes) == ([], [0], [])


@pytest.mark.parametrize("n", [0, -1])
def test_no_candidate_is_an_error(n: int) -> None:
    with pytest.raises(ValueError, match="at least one candidate"):
        BracketState(n, 0)


def test_the_draw_is_seeded() -> None:
    assert draw(20, 3) == draw(20, 3)
    assert len({draw(20, seed) for seed in range(50)}) == 50
    # Nobody is favoured: each of 5 candidates opens about a fifth of 2000 draws (sd of the share .009).
    first = Counter(draw(5, seed)[0] for seed in range(2000))
    assert all(abs(first[c] / 2000 - 0.2) < 0.04 for c in range(5))


def test_a_bye_is_recorded_and_passes_on() -> None:
    state = BracketState(5, 1)
    a, b, c, d, e = state.order
    assert state.pairings() == [(a, b), (c, d)]
    state.advance([a, d])
    assert state.byes == [(0, e)]
    assert state.alive == [e, a, d]
    assert state.pairings() == [(e, a)]  # who sat out plays now, and somebody else sits out
    state.advance([e])
    assert state.byes == [(0, e), (1, d)]
    state.advance([d])
    assert (state.finished, state.alive) == (True, [d])


def test_winners_must_come_from_their_matches() -> None:
    state = BracketState(4, 0)
    (a, b), (c, d) = state.pairings()
    for wrong in ([a], [a, b], [c, a], [a, c, d], []):
        with pytest.raises(ValueError, match="round 0 needs one winner"):
            state.advance(wrong)
    assert (state.alive, state.round) == ([a, b, c, d], 0)


def test_the_coin_is_fair_seeded_and_blind_to_sides() -> None:
    tosses = [tie_winner(3, 7, seed, 1) for seed in range(1000)]
    assert tosses == [tie_winner(3, 7, seed, 1) for seed in range(1000)]
    assert set(tosses) == {3, 7}
    assert abs(tosses.count(3) / 1000 - 0.5) < 0.06  # about 4 standard deviations of .016
    assert tosses == [tie_winner(7, 3, seed, 1) for seed in range(1000)]  # which one is shown as A plays no part
    assert tosses != [tie_winner(3, 7, seed, 2) for seed in range(1000)]


def match(round_: int, a: int, b: int, winner: int) -> Match:
    even = LabelProbabilities(A=0.5, B=0.5)
    p = OrderProbabilities(AB=even, BA=even)
    verdict = Verdict(preferred="tie", strength=0.5, agree=True, label_mass=1.0, p=p, principles=())
    return Match(round=round_, a=a, b=b, winner=winner, verdict=verdict)


def test_candidates_that_are_left_out_change_nothing_for_the_others() -> None:
    first, *rest, last = BracketState(7, 3).order
    state = BracketState(7, 3, frozenset({first, last}))
    assert state.order == tuple(rest)
    played: set[int] = set()
    while not state.finished:
        played.update(side for pair in state.pairings() for side in pair)
        state.advance([a for a, _ in state.pairings()])
    assert played == set(state.order)
    assert BracketState(3, 0, frozenset({0, 2})).finished
    with pytest.raises(ValueError, match="every candidate is left out"):
        BracketState(2, 0, frozenset({0, 1}))


def test_who_took_no_part_is_placed_last() -> None:
    first = [match(0, 1, 2, 2)]
    assert placing([2], first, {4, 0, 3}) == (2, 1, 0, 3, 4)
    assert placing([4], [], [0, 1]) == (4, 0, 1)


def test_placing_goes_by_the_round_lost_in_and_then_by_who_it_was_lost_to() -> None:
    # 0 beats 1, 2 beats 3, 4 beats 5; 6 has a bye and beats 0; 2 beats 4; 2 beats 6.
    first = [match(0, 0, 1, 0), match(0, 3, 2, 2), match(0, 4, 5, 4)]
    second = [match(1, 6, 0, 6), match(1, 2, 4, 2)]
    assert placing([2], [*first, *second, match(2, 6, 2, 2)]) == (2, 6, 4, 0, 3, 5, 1)
    # Broken off before the final: 2 has won twice, 6 once.
    assert placing([6, 2], [*first, *second]) == (2, 6, 4, 0, 3, 5, 1)
    assert placing([6, 0, 2, 4], first) == (0, 2, 4, 6, 1, 3, 5)
    assert placing([3, 1, 2, 0], []) == (3, 1, 2, 0)
