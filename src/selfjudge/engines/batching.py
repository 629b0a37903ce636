"""Batches by token budget: sorted by length, so that little is padding, and no larger than the memory they need."""

from __future__ import annotations

from collections.abc import Sequence

_ALIKE = 0.9
"""Rows at least this long, against the longest, are not worth a batch of their own."""


def token_budget_batches(
    lengths: Sequence[int], budget: int, max_rows: int | None = None, busy: int | None = None
) -> list[list[int]]:
    """Groups indices so that rows x longest row <= ``budget`` tokens; the longest come first.

    A row longer than the budget gets a batch of its own. Longest first, so that memory runs out at once or never.

    Args:
        lengths: tokens of each row.
        budget: padded tokens of a batch.
        max_rows: rows of a batch at most.
        busy: tokens that keep the hardware busy; a batch of as many is not padded further for much shorter rows.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        batch = batches[-1] if batches else []
        longest = lengths[batch[0]] if batch else 0
        fits = batch and (len(batch) + 1) * longest <= budget
        alike = busy is None or len(batch) * longest < busy or lengths[i] >= _ALIKE * longest
        if fits and alike and (max_rows is None or len(batch) < max_rows):
            batch.append(i)
        else:
            batches.append([i])
    return batches


def same_length_batches(lengths: Sequence[int], budget: int, max_rows: int | None = None) -> list[list[int]]:
    """Groups indices of equal lengths; other than that as :func:`token_budget_batches`."""
    places: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        places.setdefault(length, []).append(i)
    return [
        [same[i] for i in batch]
        for length, same in sorted(places.items(), reverse=True)
        for batch in token_budget_batches([length] * len(same), budget, max_rows)
    ]


def total_budget_batches(lengths: Sequence[int], budget: int, max_rows: int | None = None) -> list[list[int]]:
    """Groups neighbouring indices so that their tokens sum to ``budget`` at most; a longer row stands alone.

    Args:
        lengths: tokens of each row.
        budget: tokens of a batch, without padding.
        max_rows: rows of a batch at most.
    """
    batches: list[list[int]] = []
    total = 0
    for i, length in enumerate(lengths):
        total += length
        if not batches or total > budget or len(batches[-1]) == max_rows:
            batches.append([])
            total = length
        batches[-1].append(i)
    return batches
