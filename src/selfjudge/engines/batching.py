"""Batches by token budget: sorted by length, so that little is padding, and no larger than the memory they need."""

from __future__ import annotations

from collections.abc import Sequence


def token_budget_batches(lengths: Sequence[int], budget: int, max_rows: int | None = None) -> list[list[int]]:
    """Groups indices so that rows x longest row <= ``budget`` tokens; the longest come first.

    A row longer than the budget gets a batch of its own. Longest first, so that memory runs out at once or never.

    Args:
        lengths: tokens of each row.
        budget: padded tokens of a batch.
        max_rows: rows of a batch at most.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        batch = batches[-1] if batches else []
        fits = batch and (len(batch) + 1) * lengths[batch[0]] <= budget
        if fits and (max_rows is None or len(batch) < max_rows):
            batch.append(i)
        else:
            batches.append([i])
    return batches
