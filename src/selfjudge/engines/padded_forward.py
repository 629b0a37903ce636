"""Batches of padded rows: what an accelerator is best at, whose kernels are few and large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from selfjudge.engines.batching import token_budget_batches
from selfjudge.engines.causal_lm import Layers, head_at
from selfjudge.engines.prefixes import Ids, Task


class PaddedForward:
    """Tasks as rows of a rectangle, what they borrow to the left, what is computed for them to the right of it."""

    def __init__(self, model: PreTrainedModel, pad_id: int, busy: int | None) -> None:
        """Takes a causal LM; ``busy``: see token_budget_batches."""
        self._model, self._pad_id, self._busy = model, pad_id, busy

    def batches(self, lengths: Sequence[int], budget: int, max_rows: int | None) -> list[list[int]]:
        """See :class:`BatchForward`."""
        return token_budget_batches(lengths, budget, max_rows, self._busy)

    def size(self, lengths: Sequence[int]) -> int:
        """See :class:`BatchForward`."""
        return len(lengths) * max(lengths)

    def run(
        self, tasks: Sequence[Task], tokens: Sequence[tuple[int, ...]], computed: Mapping[Ids, Layers], *, keep: bool
    ) -> tuple[Tensor, dict[Ids, Layers]]:
        """See :class:`BatchForward`."""
        device = self._model.device
        past = max(task.shared for task in tasks)
        inputs = {name: t.to(device) for name, t in _collate(tasks, past, self._pad_id).items()}
        cache = self._borrowed(tasks, past, computed) if past or keep else None
        last = torch.tensor([len(task.sequence) - task.shared - 1 for task in tasks], device=device)
        with head_at(self._model, torch.arange(len(tasks), device=device), last):
            logits = self._model(**inputs, past_key_values=cache, use_cache=cache is not None).logits[0]
        logprobs = logits.float().log_softmax(-1).gather(1, torch.tensor(tokens, device=logits.device))
        if cache is None or not keep:
            return logprobs, {}
        return logprobs, {
            task.sequence: [
                tuple(kv[row, :, past - task.shared : past + len(task.sequence) - task.shared] for kv in pair)  # type: ignore[misc]
                for pair in ((layer.keys, layer.values) for layer in cache.layers)
            ]
            for row, task in enumerate(tasks)
        }

    def _borrowed(self, tasks: Sequence[Task], past: int, computed: Mapping[Ids, Layers]) -> DynamicCache:
        """Returns a cache of ``past`` columns with what the tasks borrow, aligned to the right."""
        cache = DynamicCache(config=self._model.config)
        if past == 0:
            return cache
        example = next(computed[t.lender] for t in tasks if t.lender is not None)
        for number, pair in enumerate(example):
            keys, values = (kv.new_zeros(len(tasks), kv.shape[0], past, kv.shape[2]) for kv in pair)
            for row, task in enumerate(tasks):
                if task.lender is not None:
                    k, v = computed[task.lender][number]
                    keys[row, :, past - task.shared :] = k[:, : task.shared]
                    values[row, :, past - task.shared :] = v[:, : task.shared]
            cache.update(keys, values, number)
        return cache


def _collate(tasks: Sequence[Task], past: int, pad_id: int) -> dict[str, Tensor]:
    """Returns ids and positions [tasks, longest rest], and the mask [tasks, past + longest rest] if there is a past.

    What is borrowed ends at column ``past``, what is computed begins there. Without a past no mask is needed: filling
    comes last, where nothing sees it, and attention kernels are fastest without.
    """
    longest = max(len(task.sequence) - task.shared for task in tasks)
    ids = torch.full((len(tasks), longest), pad_id)
    mask = torch.zeros((len(tasks), past + longest), dtype=torch.long)
    positions = torch.zeros_like(ids)
    for row, task in enumerate(tasks):
        rest = torch.tensor(task.sequence[task.shared :])
        ids[row, : len(rest)] = rest
        mask[row, past - task.shared : past + len(rest)] = 1
        positions[row] = torch.arange(task.shared, task.shared + longest)
    inputs = {"input_ids": ids, "position_ids": positions.clamp(max=max(len(task.sequence) for task in tasks) - 1)}
    return {**inputs, "attention_mask": mask} if past else inputs
