"""Judged pairs, and their batches as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selfjudge.engines.responses import collate_responses


@dataclass(frozen=True)
class Pair:
    """One judged pair, ready to be trained on. Response ids are those that were sampled.

    ``strength`` is the belief (0..1) that ``chosen`` is better; the reference log-probs are sums over the response.
    """

    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    strength: float
    reference_chosen: float = 0.0
    reference_rejected: float = 0.0


def deal(pairs: Sequence[Pair], batches: int) -> list[list[Pair]]:
    """Returns the pairs of each micro-batch, dealt out in turn: they differ by one pair at most."""
    return [list(pairs[i::batches]) for i in range(batches)]


def response_rows(pairs: Sequence[Pair]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Returns the rows of a micro-batch, (prompt, response): all chosen, then all rejected."""
    return [(p.prompt_ids, p.chosen_ids) for p in pairs] + [(p.prompt_ids, p.rejected_ids) for p in pairs]


def collate_pairs(pairs: Sequence[Pair], pad_id: int) -> dict[str, Tensor]:
    """Returns :func:`collate_responses` of :func:`response_rows`, with ``reference`` [2 x pairs] and ``strength``
    [pairs].
    """
    return {
        **collate_responses(response_rows(pairs), pad_id),
        "reference": torch.tensor([p.reference_chosen for p in pairs] + [p.reference_rejected for p in pairs]),
        "strength": torch.tensor([p.strength for p in pairs]),
    }
