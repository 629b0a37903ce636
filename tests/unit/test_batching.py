"""Batches by token budget."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from selfjudge.engines.batching import same_length_batches, token_budget_batches, total_budget_batches


def test_by_hand() -> None:
    # Longest first: 9 alone (2 x 9 > 12); 4, 4, 3 make 3 x 4 = 12; then 2.
    assert token_budget_batches([4, 9, 2, 3, 4], budget=12) == [[1], [0, 4, 3], [2]]
    assert token_budget_batches([4, 9, 2, 3, 4], budget=12, max_rows=2) == [[1], [0, 4], [3, 2]]
    assert token_budget_batches([5, 20], budget=10) == [[1], [0]]  # longer than the budget: alone
    assert token_budget_batches([], budget=10) == []


def test_equal_lengths_by_hand() -> None:
    assert same_length_batches([4, 9, 4, 3, 9, 4], budget=12) == [[1], [4], [0, 2, 5], [3]]
    assert same_length_batches([4, 9, 4, 3, 9, 4], budget=100, max_rows=2) == [[1, 4], [0, 2], [5], [3]]
    assert same_length_batches([], budget=10) == []


def test_a_busy_batch_is_not_padded_for_much_shorter_rows() -> None:
    lengths = [100, 95, 90, 89, 50, 20]
    assert token_budget_batches(lengths, budget=1000) == [[0, 1, 2, 3, 4, 5]]
    # Two rows of 100 are busy: 90 is alike, 89 is not; then 89 + 50 (of 89) are not busy yet.
    assert token_budget_batches(lengths, budget=1000, busy=200) == [[0, 1, 2], [3, 4, 5]]
    assert token_budget_batches(lengths, budget=1000, busy=150) == [[0, 1, 2], [3, 4], [5]]


def test_neighbours_up_to_a_total() -> None:
    assert total_budget_batches([3, 4, 5, 2, 20, 1], budget=9) == [[0, 1], [2, 3], [4], [5]]
    assert total_budget_batches([1, 1, 1, 9, 1], budget=9, max_rows=2) == [[0, 1], [2], [3], [4]]
    assert total_budget_batches([], budget=9) == []


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200), st.one_of(st.none(), st.integers(1, 8)))
def test_every_row_once_within_budget_longest_first(lengths: list[int], budget: int, max_rows: int | None) -> None:
    batches = token_budget_batches(lengths, budget, max_rows)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
        assert max_rows is None or len(batch) <= max_rows
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(flat, reverse=True)
    for this, following in pairwise(batches):  # no batch is cut short without need
        full = (len(this) + 1) * lengths[this[0]] > budget or len(this) == max_rows
        assert full, (this, following)
