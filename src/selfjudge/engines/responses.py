"""Given responses as padded tensors, and their log-probabilities under a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from selfjudge.core.logprobs import sequence_logprobs


def collate_responses(rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> dict[str, Tensor]:
    """Pads (prompt, response) rows: prompts on the left, responses on the right.

    All responses then start at the same column, so logits are needed for the last columns only.

    Returns:
        ``input_ids``, ``attention_mask``, ``position_ids``: [rows, prompt + response]; ``response_mask``:
        [rows, response].
    """
    left = max(len(prompt) for prompt, _ in rows)
    right = max(len(response) for _, response in rows)
    ids = torch.full((len(rows), left + right), pad_id)
    mask = torch.zeros((len(rows), left + right), dtype=torch.long)
    for i, (prompt, response) in enumerate(rows):
        start, end = left - len(prompt), left + len(response)
        ids[i, start:end] = torch.tensor([*prompt, *response])
        mask[i, start:end] = 1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
        "response_mask": mask[:, left:],
    }


def response_logprobs(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Returns log π(response | prompt) of each row of :func:`collate_responses`, shape [rows], float32."""
    mask = batch["response_mask"]
    n = mask.shape[1]
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        use_cache=False,
        logits_to_keep=n + 1,
    ).logits[:, :-1]
    return sequence_logprobs(logits, batch["input_ids"][:, -n:], mask)
