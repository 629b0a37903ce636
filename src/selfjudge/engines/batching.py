"""Batches by token budget: sorted by length, so that little is padding, and no larger than the memory they need."""

from __future__ import annotations

from collections.abc import Sequence

FULL = 2048
"""A batch of this many tokens keeps the hardware busy: it is not padded further for much shorter rows."""


def token_budget_batches(lengths: Sequence[int], budget: int, max_rows: int | None = None) -> list[list[int]]:
    """Groups indices so that rows x longest row <= ``budget`` tokens; the longest come first.

    A row longer than the budget gets a batch of its own. Longest first, so that memory runs out at once or never.
    A batch that is :data:`FULL` takes no rows shorter than three quarters of its longest.

    Args:
        lengths: tokens of each row.
        budget: padded tokens of a batch.
        max_rows: rows of a batch at most.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        batch = batches[-1] if batches else []
        longest = lengths[batch[0]] if batch else 0
        fits = batch and (len(batch) + 1) * longest <= budget
        alike = len(batch) * longest < FULL or lengths[i] >= 0.75 * longest
        if fits and alike and (max_rows is None or len(batch) < max_rows):
            batch.append(i)
        else:
            batches.append([i])
    return batches


def total_budget_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Groups neighbouring indices so that their tokens sum to ``budget`` at most; a longer row stands alone."""
    batches: list[list[int]] = []
    total = 0
    for i, length in enumerate(lengths):
        total += length
        if not batches or total > budget:
            batches.append([])
            total = length
        batches[-1].append(i)
    return batches
