"""Given responses as padded tensors, and their log-probabilities under a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from selfjudge.engines.target_logprobs import target_logprobs


def collate_responses(rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> dict[str, Tensor]:
    """Puts each prompt and its response together, and pads on the right.

    What fills a row comes last, where nothing sees it: no attention mask is needed, and attention is fastest without.

    Returns:
        ``input_ids``: [rows, longest row]; ``targets``: where the responses' tokens are in the flattened
        ``input_ids``, row by row; ``response_mask``: [rows, longest response], 1 for each token of the response.
    """
    ids = torch.full((len(rows), max(len(prompt) + len(response) for prompt, response in rows)), pad_id)
    mask = torch.zeros((len(rows), max(len(response) for _, response in rows)), dtype=torch.long)
    is_target = torch.zeros_like(ids, dtype=torch.bool)
    for i, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        ids[i, :end] = torch.tensor([*prompt, *response])
        is_target[i, len(prompt) : end] = True
        mask[i, : len(response)] = 1
    return {"input_ids": ids, "targets": is_target.flatten().nonzero().squeeze(-1), "response_mask": mask}


def response_logprobs(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Returns log π(response | prompt) of each row of :func:`collate_responses`, shape [rows], float32."""
    return response_sums(
        target_logprobs(model, {"input_ids": batch["input_ids"]}, batch["targets"]), batch["response_mask"]
    )


def response_sums(values: Tensor, response_mask: Tensor) -> Tensor:
    """Returns each response's sum of its tokens' values, [rows], from ``values`` [targets] and ``response_mask``."""
    mask = response_mask.bool()
    # Back into rows: a plain sum, whose order and so whose rounding is the same in every run.
    return values.new_zeros(mask.shape).masked_scatter(mask, values).sum(-1)
