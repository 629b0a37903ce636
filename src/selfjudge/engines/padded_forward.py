"""Batches of padded rows: what an accelerator is best at, whose kernels are few and large."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from selfjudge.engines.batching import token_budget_batches
from selfjudge.engines.causal_lm import head_at
from selfjudge.engines.prefixes import Ids, Task


@dataclass(frozen=True)
class _Pool:
    """Keys and values of a batch's kept tokens, [tokens, features], and each layer's two (heads, head size)."""

    tokens: Tensor
    shapes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Kept:
    """Where a sequence's first tokens are in the pool of its batch."""

    pool: _Pool
    start: int


class PaddedForward:
    """Tasks as rows of a rectangle, what they borrow to the left, what is computed for them to the right of it.

    Keys and values are gathered for a whole batch at once: copied row by row they would take longer than the forward.
    """

    def __init__(self, model: PreTrainedModel, pad_id: int, busy: int) -> None:
        """Takes a causal LM; ``busy``: see :class:`BatchForward`."""
        self._model, self._pad_id, self.busy = model, pad_id, busy

    def batches(self, lengths: Sequence[int], budget: int, max_rows: int | None) -> list[list[int]]:
        """See :class:`BatchForward`."""
        return token_budget_batches(lengths, budget, max_rows, self.busy or None)

    def size(self, lengths: Sequence[int]) -> int:
        """See :class:`BatchForward`."""
        return len(lengths) * max(lengths)

    def run(
        self,
        tasks: Sequence[Task],
        tokens: Sequence[tuple[int, ...]],
        computed: Mapping[Ids, _Kept],
        keep: Sequence[int],
    ) -> tuple[Tensor, dict[Ids, _Kept]]:
        """See :class:`BatchForward`."""
        device = self._model.device
        past = max(task.shared for task in tasks)
        inputs = {name: t.to(device) for name, t in _collate(tasks, past, self._pad_id).items()}
        cache = _borrowed(tasks, past, computed) if past else DynamicCache(config=self._model.config)
        use_cache = bool(past or any(keep))
        last = torch.tensor([len(task.sequence) - task.shared - 1 for task in tasks], device=device)
        with head_at(self._model, torch.arange(len(tasks), device=device), last):
            logits = self._model(**inputs, past_key_values=cache if use_cache else None, use_cache=use_cache).logits[0]
        logprobs = logits.float().log_softmax(-1).gather(1, torch.tensor(tokens, device=logits.device))
        return logprobs, _kept(cache, tasks, past, keep) if any(keep) else {}


def _kept(cache: Cache, tasks: Sequence[Task], past: int, keep: Sequence[int]) -> dict[Ids, _Kept]:
    """Returns the keys and values of each sequence's first ``keep`` tokens, which end a row's padding on the left."""
    row = torch.arange(len(tasks)).repeat_interleave(torch.tensor(keep))
    begin = [past - task.shared for task in tasks]
    column = torch.cat([torch.arange(b, b + n) for b, n in zip(begin, keep, strict=True)])
    row, column = (t.to(cache.layers[0].keys.device) for t in (row, column))
    both = [t for layer in cache.layers for t in (layer.keys, layer.values)]
    tokens = torch.cat([t.transpose(1, 2)[row, column].flatten(1) for t in both], 1)
    pool = _Pool(tokens, tuple((t.shape[1], t.shape[3]) for t in both))
    starts = torch.tensor([0, *keep]).cumsum(0).tolist()
    return {t.sequence: _Kept(pool, start) for t, n, start in zip(tasks, keep, starts, strict=False) if n}


def _borrowed(tasks: Sequence[Task], past: int, computed: Mapping[Ids, _Kept]) -> Cache:
    """Returns a cache of ``past`` columns with what the tasks borrow, aligned to the right."""
    sources: dict[int, list[Tensor]] = defaultdict(list)
    targets: dict[int, list[Tensor]] = defaultdict(list)
    pools: dict[int, _Pool] = {}
    for row, task in enumerate(tasks):
        if task.lender is not None:
            kept = computed[task.lender]
            pools[id(kept.pool)] = kept.pool
            sources[id(kept.pool)].append(torch.arange(kept.start, kept.start + task.shared))
            targets[id(kept.pool)].append(torch.arange((row + 1) * past - task.shared, (row + 1) * past))
    like = next(iter(pools.values()))
    block = like.tokens.new_zeros(len(tasks) * past, like.tokens.shape[1])
    for name, pool in pools.items():
        source, target = (torch.cat(t[name]).to(block.device) for t in (sources, targets))
        block.index_copy_(0, target, pool.tokens.index_select(0, source))
    parts = block.view(len(tasks), past, -1).split([heads * size for heads, size in like.shapes], -1)
    both = [p.unflatten(-1, shape).transpose(1, 2) for p, shape in zip(parts, like.shapes, strict=True)]
    return Cache(layers=[_layer(*pair) for pair in zip(both[::2], both[1::2], strict=True)])


def _layer(keys: Tensor, values: Tensor) -> DynamicLayer:
    """Returns a cache's layer that begins with these, [rows, heads, length, head size]."""
    layer: Any = DynamicLayer()
    layer.keys, layer.values, layer.dtype, layer.device = keys, values, keys.dtype, keys.device
    layer.is_initialized = True
    found: DynamicLayer = layer
    return found


def _collate(tasks: Sequence[Task], past: int, pad_id: int) -> dict[str, Tensor]:
    """Returns ids and positions [tasks, longest rest], and the mask [tasks, past + longest rest] if there is a past.

    What is borrowed ends at column ``past``, what is computed begins there. Without a past no mask is needed: filling
    comes last, where nothing sees it, and attention kernels are fastest without.
    """
    shared = torch.tensor([task.shared for task in tasks])[:, None]
    rests = torch.tensor([len(task.sequence) for task in tasks])[:, None] - shared
    longest = int(rests.max())
    ids = torch.tensor([[*t.sequence[t.shared :], *[pad_id] * (longest - len(t.sequence) + t.shared)] for t in tasks])
    positions = (shared + torch.arange(longest)).clamp(max=max(len(task.sequence) for task in tasks) - 1)
    inputs = {"input_ids": ids, "position_ids": positions}
    if not past:
        return inputs
    column = torch.arange(past + longest)
    return {**inputs, "attention_mask": ((column >= past - shared) & (column < past + rests)).long()}
