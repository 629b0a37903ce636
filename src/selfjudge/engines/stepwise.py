"""Reading a batch token by token: the ways there are, from the quickest to the one that assumes least."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from selfjudge.engines.causal_lm import head_at
from selfjudge.engines.own_rope import own_rope


@dataclass(frozen=True)
class SamplingWay:
    """How a batch is sampled, in one line.

    ``cached``: what was read stays in a cache. ``mixed``: prompts of unlike lengths come together, each is read once
    for all of its samples, and rows that have ended leave.
    """

    description: str
    cached: bool
    mixed: bool


TOGETHER = SamplingWay(
    "with a cache, prompts of all lengths together, each read once for all of its samples", cached=True, mixed=True
)
SAME_LENGTH = SamplingWay(
    "with the model's own cache, prompts of one length at a time, each read once for every sample: batches are smaller "
    "and go on until their last sample has ended",
    cached=True,
    mixed=False,
)
UNCACHED = SamplingWay(
    "without a cache: each new token reads its whole row again, which takes time with the square of the length",
    cached=False,
    mixed=True,
)
WAYS = (TOGETHER, SAME_LENGTH, UNCACHED)


class StepwiseBatch:
    """Rows that grow by a token at a time, and what a model keeps of them between two tokens."""

    def __init__(
        self, model: PreTrainedModel, way: SamplingWay, prompts: Sequence[Sequence[int]], n: int, pad_id: int
    ) -> None:
        """Takes prompts, of one length where ``way`` mixes none; each becomes ``n`` rows."""
        self._model, self._way, self._rope, self._n = model, way, own_rope(model), n
        rows = prompts if way.mixed else [prompt for prompt in prompts for _ in range(n)]
        self._lengths = [len(row) for row in rows]
        self._ids, self.mask = (t.to(model.device) for t in left_pad(rows, pad_id))
        self.cache: Any = None

    def first(self) -> Tensor:
        """Reads the prompts; returns the logits of each row's first new token, [prompts x n, vocab]."""
        logits = self._read_all()
        if not self._way.mixed or self._n == 1:
            return logits
        rows = torch.arange(len(logits), device=logits.device).repeat_interleave(self._n)
        self.keep(rows)
        return logits[rows]

    def next(self, tokens: Tensor) -> Tensor:
        """Reads one more token of each row, [rows]; returns the logits of the one behind it, [rows, vocab]."""
        self._ids = torch.cat([self._ids, tokens.unsqueeze(-1)], -1)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], -1)
        self._lengths = [length + 1 for length in self._lengths]
        if not self._way.cached or self._rope.kinds(self._lengths) != self._kinds:
            return self._read_all()
        self._position = self._position[:, -1:] + 1
        return self._cached(tokens.unsqueeze(-1))

    def keep(self, rows: Tensor) -> None:
        """Goes on with some rows, in this order; a row may come several times."""
        self._ids, self.mask = self._ids[rows], self.mask[rows]
        self._lengths = [self._lengths[row] for row in rows.tolist()]
        if self._way.cached:
            self._kinds = self._rope.kinds(self._lengths)
            self._position = self._position[rows]
            self.cache.reorder_cache(rows)

    def _read_all(self) -> Tensor:
        if not self._way.cached:
            return self._uncached()
        self._kinds = self._rope.kinds(self._lengths)
        self._position = (self.mask.cumsum(-1) - 1).clamp(min=0)
        self.cache = DynamicCache(config=self._model.config) if self._way.mixed else None
        return self._cached(self._ids)

    def _cached(self, ids: Tensor) -> Tensor:
        """Reads what the cache does not have yet."""
        name = cache_name(self._model)
        given = {} if self.cache is None else {name: self.cache}
        # A model of recurrent layers alone takes a mask for the tokens it is given, and needs it for padding alone.
        if self._way.mixed and (name == "past_key_values" or ids.shape[1] == self.mask.shape[1]):
            given["attention_mask"] = self.mask
        with self._rope.of(torch.tensor(self._lengths)[:, None]):
            output = self._model(input_ids=ids, position_ids=self._position, use_cache=True, logits_to_keep=1, **given)
        if not self._way.mixed:
            self.cache = getattr(output, name)
        logits: Tensor = output.logits[:, -1]
        return logits

    def _uncached(self) -> Tensor:
        """Reads all rows, filled up on the right, where nothing sees it."""
        length = self.mask.sum(-1, keepdim=True)
        columns = self._ids.shape[1]
        column = torch.arange(columns, device=length.device) + columns - length
        ids = self._ids.gather(1, column.clamp(max=columns - 1))
        rows = torch.arange(len(ids), device=ids.device)
        with self._rope.of(torch.tensor(self._lengths)[:, None]), head_at(self._model, rows, length[:, 0] - 1):
            logits: Tensor = self._model(input_ids=ids, use_cache=False).logits[0]
        return logits


def left_pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Returns ids and attention mask, both [rows, longest], padded on the left."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def cache_name(model: PreTrainedModel | type[PreTrainedModel]) -> str:
    """Returns by which name a model takes, and gives, what it keeps of the tokens it has read."""
    taken = inspect.signature(model.forward).parameters
    return next((name for name in ("past_key_values", "cache_params", "state") if name in taken), "past_key_values")
