"""Batches of padded rows: what an accelerator is best at, whose kernels are few and large."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from selfjudge.engines.batching import token_budget_batches, total_budget_batches
from selfjudge.engines.causal_lm import can_share, head_at, on_device
from selfjudge.engines.own_rope import own_rope
from selfjudge.engines.prefixes import Ids, Task

_BATCHES_ALIKE = 3
"""Full batches that are made of tasks which borrow about as much."""

_COLUMNS = 8
"""A mask has a multiple of so many columns, or torch's attention copies it into one that has, in each layer."""


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
        # Recurrent layers and windows need caches of their own kind.
        self._caches = can_share(model)

    def batches(self, tasks: Sequence[Task], budget: int, max_rows: int | None) -> list[list[Task]]:
        """See :class:`BatchForward`.

        What is borrowed is padded too. So where tasks borrow, such as borrow about as much come together, and among
        these such as have about as much left.
        """
        ordered = sorted(tasks, key=lambda task: -task.shared)
        rests = [task.rest for task in ordered]
        alike = [list(range(len(ordered)))]
        if self.busy and ordered[0].shared:
            alike = total_budget_batches(rests, _BATCHES_ALIKE * self.busy)
        return [
            [ordered[group[i]] for i in batch]
            for group in alike
            for batch in token_budget_batches([rests[i] for i in group], budget, max_rows, self.busy or None)
        ]

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
        device, longest = self._model.device, max(task.rest for task in tasks)
        past = max(task.shared for task in tasks)
        past += -(past + longest) % _COLUMNS if past else 0
        inputs = {name: on_device(t, device) for name, t in _collate(tasks, longest, self._pad_id).items()}
        if past:
            inputs["attention_mask"] = self._mask(tasks, past, longest)
        layers = self._layers(_borrowed(tasks, past, computed) if past else repeat(None), keep=any(keep))
        last = on_device(torch.tensor([task.rest - 1 for task in tasks]), device)
        lengths = torch.tensor([[len(task.sequence)] for task in tasks])
        with own_rope(self._model).of(lengths), head_at(self._model, torch.arange(len(tasks), device=device), last):
            cache = {"past_key_values": Cache(layers=layers)} if self._caches else {}
            logits = self._model(**inputs, **cache, use_cache=self._caches).logits[0]
        logprobs = logits.float().log_softmax(-1).gather(1, on_device(torch.tensor(tokens), device))
        return logprobs, _kept(layers, tasks, past, keep) if any(keep) else {}

    def _layers(self, borrowed: Iterable[tuple[Tensor, Tensor] | None], *, keep: bool) -> list[_Layer]:
        number = range(self._model.config.get_text_config().num_hidden_layers)
        return [_Layer(pair, keep=keep) for _, pair in zip(number, borrowed, strict=False)]

    def held(self, kept: _Kept) -> tuple[int, int]:
        """See :class:`BatchForward`."""
        return id(kept.pool), len(kept.pool.tokens)

    def _mask(self, tasks: Sequence[Task], past: int, longest: int) -> Tensor:
        """Returns the attention mask over ``past`` + ``longest`` columns, of which a task sees those it borrows.

        What fills a row on the right comes last, where nothing sees it. torch's attention gets what it adds to its
        scores, [tasks, 1, longest, columns], once for all layers. From two dimensions transformers would make the like,
        and look into them first, for which it waits for the device.
        """
        device, dtype = self._model.device, self._model.dtype
        first = on_device(torch.tensor([past - task.shared for task in tasks]), device)[:, None]
        column = torch.arange(past + longest, device=device)
        if self._model.config._attn_implementation != "sdpa":
            return (column >= first).long()
        seen = (column >= first)[:, None, None, :] & (column <= past + torch.arange(longest, device=device)[:, None])
        return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, torch.finfo(dtype).min)


class _Layer(DynamicLayer):
    """A layer of a cache that begins with what is borrowed, and keeps nothing unless it is to.

    Even for a batch that neither borrows nor lends there is a cache: without one transformers looks for rows that are
    packed, for which it waits for the device.
    """

    def __init__(self, borrowed: tuple[Tensor, Tensor] | None, *, keep: bool) -> None:
        """Takes keys and values, each [rows, heads, past, head size]."""
        super().__init__()
        self._borrowed, self._keep = borrowed, keep

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Returns the keys and values of all columns."""
        if self._borrowed is not None:
            key_states, value_states = (
                torch.cat(pair, -2) for pair in zip(self._borrowed, (key_states, value_states), strict=True)
            )
        if self._keep:
            self.keys, self.values = key_states, value_states
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Returns the columns that are borrowed."""
        return 0 if self._borrowed is None else self._borrowed[0].shape[-2]


def _kept(layers: Sequence[_Layer], tasks: Sequence[Task], past: int, keep: Sequence[int]) -> dict[Ids, _Kept]:
    """Returns the keys and values of each sequence's first ``keep`` tokens, which end a row's padding on the left."""
    both: list[Any] = [t for layer in layers for t in (layer.keys, layer.values)]
    device = both[0].device
    begin = [past - task.shared for task in tasks]
    row = on_device(torch.from_numpy(np.repeat(np.arange(len(tasks)), keep)), device)
    column = on_device(_ranges([(b, b + n) for b, n in zip(begin, keep, strict=True)]), device)
    tokens = torch.cat([t.transpose(1, 2)[row, column].flatten(1) for t in both], 1)
    pool = _Pool(tokens, tuple((t.shape[1], t.shape[3]) for t in both))
    starts = torch.tensor([0, *keep]).cumsum(0).tolist()
    return {t.sequence: _Kept(pool, start) for t, n, start in zip(tasks, keep, starts, strict=False) if n}


def _borrowed(tasks: Sequence[Task], past: int, computed: Mapping[Ids, _Kept]) -> list[tuple[Tensor, Tensor]]:
    """Returns each layer's keys and values that the tasks borrow, [tasks, heads, past, head size], on the right."""
    sources: dict[int, list[tuple[int, int]]] = defaultdict(list)
    targets: dict[int, list[tuple[int, int]]] = defaultdict(list)
    pools: dict[int, _Pool] = {}
    for row, task in enumerate(tasks):
        if task.lender is not None:
            kept = computed[task.lender]
            pools[id(kept.pool)] = kept.pool
            sources[id(kept.pool)].append((kept.start, kept.start + task.shared))
            targets[id(kept.pool)].append(((row + 1) * past - task.shared, (row + 1) * past))
    like = next(iter(pools.values()))
    block = like.tokens.new_zeros(len(tasks) * past, like.tokens.shape[1])
    for name, pool in pools.items():
        source, target = (on_device(_ranges(t[name]), block.device) for t in (sources, targets))
        block.index_copy_(0, target, pool.tokens.index_select(0, source))
    parts = block.view(len(tasks), past, -1).split([heads * size for heads, size in like.shapes], -1)
    both = [p.unflatten(-1, shape).transpose(1, 2) for p, shape in zip(parts, like.shapes, strict=True)]
    return list(zip(both[::2], both[1::2], strict=True))


def _ranges(bounds: Sequence[tuple[int, int]]) -> Tensor:
    """Returns the numbers of some ranges, one after another."""
    return torch.from_numpy(np.concatenate([np.arange(*pair) for pair in bounds]))


def _collate(tasks: Sequence[Task], longest: int, pad_id: int) -> dict[str, Tensor]:
    """Returns ids and positions, [tasks, longest], of what is computed, filled up on the right."""
    shared = torch.tensor([task.shared for task in tasks])[:, None]
    ids = torch.tensor([[*task.sequence[task.shared :], *[pad_id] * (longest - task.rest)] for task in tasks])
    positions = (shared + torch.arange(longest)).clamp(max=max(len(task.sequence) for task in tasks) - 1)
    return {"input_ids": ids, "position_ids": positions}
