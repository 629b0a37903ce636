"""Sampling for accelerators: keys and values in place, fixed shapes, and each shape's step recorded as a CUDA graph.

A decoded token is hundreds of small kernels; launching them one by one takes longer than running them. A recorded step
is launched as one. For that no shape in it may depend on values: rows and columns of the cache are rounded up, and what
a step reads and writes lies in tensors that stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import StaticLayer

from selfjudge.engines.base import SamplingParams
from selfjudge.engines.causal_lm import can_share
from selfjudge.engines.decode import Ended, Sampled, cut, decode, draw, prefill, tell
from selfjudge.engines.grouped_attention import grouped_attention
from selfjudge.engines.own_rope import own_rope
from selfjudge.engines.recorded import Recorded
from selfjudge.engines.sampling_way import sampling_way
from selfjudge.engines.static_lora import StaticLora
from selfjudge.engines.stepwise import TOGETHER

_COLUMNS = 128
"""The cache's length is rounded up to a multiple of this, so that shapes are few."""

_FLAT = 32
"""With fewer rows a step takes no less time: ended rows leave only larger batches."""

_LOOK_EVERY = 8
"""Steps between two looks at which rows have ended: a look waits for the device."""


class _Columns(StaticLayer):
    """Keys and values that lie in a part of larger tensors; the step says which column is written."""

    def __init__(self, keys: Tensor, values: Tensor, column: Tensor) -> None:
        """Takes [rows, heads, columns, head size] twice, and the column of the next token, [1]."""
        super().__init__(max_cache_len=keys.shape[2])
        self.keys, self.values, self._column = keys, values, column
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes one token's keys and values, which under autocast may be of other dtypes; returns all columns."""
        assert self.keys is not None
        assert self.values is not None
        self.keys.index_copy_(2, self._column, key_states.to(self.keys.dtype))
        self.values.index_copy_(2, self._column, value_states.to(self.values.dtype))
        return self.keys, self.values


@dataclass
class _State:
    """What a step reads and writes, for up to ``rows`` rows and ``columns`` columns of the cache."""

    keys: list[Tensor]  # each layer's [rows, heads, columns, head size]
    values: list[Tensor]
    mask: Tensor  # [rows, columns], True where a column is seen
    position: Tensor  # [rows] of the token that is read next
    token: Tensor  # [rows]
    u: Tensor  # [rows, new tokens]
    out: Tensor  # [rows, new tokens]
    out_logprobs: Tensor
    column: Tensor  # [1], written next
    index: Tensor  # [1], of the next new token

    @property
    def per_row(self) -> list[Tensor]:
        """All tensors whose first dimension is rows."""
        return [*self.keys, *self.values, self.mask, self.position, self.token, self.u, self.out, self.out_logprobs]

    @property
    def room(self) -> tuple[int, int, int]:
        """Rows, columns and new tokens."""
        return (*self.mask.shape, self.u.shape[1])

    def nbytes(self) -> int:
        """Returns the bytes of all of it."""
        return sum(t.numel() * t.element_size() for t in self.per_row)


class StaticDecoder:
    """Samples with recorded steps; keeps tensors and recordings for the next call while they are small."""

    def __init__(self, model: PreTrainedModel, keep_bytes: int) -> None:
        """Takes a causal LM of full-attention layers. ``keep_bytes``: what may stay allocated between calls."""
        self._model, self._keep_bytes = model, keep_bytes
        self._state: _State | None = None
        self._steps: dict[tuple[Any, ...], Recorded] = {}
        self._weights: tuple[Any, ...] = ()
        self._lora: StaticLora  # of these weights
        self._pool: Any = None

    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        u: Tensor,
        params: SamplingParams,
        stop_ids: Sequence[int],
        pad_id: int,
        ended: Ended | None = None,
    ) -> list[list[Sampled]]:
        """Samples as :func:`selfjudge.engines.decode.decode`, whose arguments these are.

        ``ended`` is told of a sample up to ``_LOOK_EVERY`` tokens late. What is rotated by its length, and a model that
        is not sampled together, goes to that function.
        """
        longest = max(map(len, prompts)) + params.max_new_tokens
        border = own_rope(self._model).border or longest
        if longest > border or sampling_way(self._model) is not TOGETHER:
            return decode(self._model, prompts, u, params, stop_ids, pad_id, ended)
        logits, mask, cache = prefill(self._model, prompts, pad_id)
        u = u.flatten(0, 1).to(logits.device)
        rows, columns = len(u), _up(mask.shape[1] + params.max_new_tokens, _COLUMNS)
        try:
            state = self._fitting(_bucket(rows), columns, params.max_new_tokens, cache)
            self._lora.update()
            _load(state, mask, cache, u, params.n)
            del cache
            _take(state, rows, *draw(logits.repeat_interleave(params.n, 0), u[:, 0], params.temperature, params.top_p))
            found = self._run(state, rows, columns, params, stop_ids, ended)
        except RuntimeError:  # out of memory: what is kept must not stand in the way of a smaller batch
            self._forget()
            raise
        if state.nbytes() > self._keep_bytes:
            self._forget()
        return cut(*found, stop_ids, params.n)

    def _run(
        self,
        state: _State,
        rows: int,
        columns: int,
        params: SamplingParams,
        stop_ids: Sequence[int],
        ended: Ended | None,
    ) -> tuple[Tensor, Tensor]:
        """Steps until every row has ended; returns ids and log-probs, [rows, new tokens]."""
        n, device = params.max_new_tokens, state.mask.device
        stops = torch.tensor(list(stop_ids), device=device)
        ids = torch.full((rows, n), int(stops[0]), device=device)
        logprobs = torch.zeros((rows, n), device=device)
        here = torch.arange(rows, device=device)  # the row of the result that each row of the state is
        untold = torch.ones(rows, dtype=torch.bool, device=device)
        for done in range(1, n + 1):
            if done % _LOOK_EVERY == 0 or done == n:
                ids[here, :done] = state.out[: len(here), :done]
                logprobs[here, :done] = state.out_logprobs[: len(here), :done]
                over = torch.isin(ids[here, :done], stops).any(-1)
                if ended:
                    now = here[untold[here] & (over | (done == n))]
                    untold[now] = False
                    tell(ended, now, ids, logprobs, stop_ids)
                going = (~over).nonzero().squeeze(-1)
                if len(going) == 0 or done == n:
                    break
                if _FLAT < len(here) >= 2 * len(going):
                    here = here[going]
                    for tensor in state.per_row:
                        tensor[: len(going)] = tensor[going]
            self._step(state, _bucket(len(here)), columns, params)()
        return ids, logprobs

    def _fitting(self, rows: int, columns: int, new_tokens: int, cache: Cache) -> _State:
        """Returns a state with room for this and, where it may stay, for what was before; recordings go with it."""
        weights, state = _fingerprint(self._model), self._state
        if weights != self._weights:
            self._forget()
            self._weights, self._lora, state = weights, StaticLora(self._model), None
        room = (rows, columns, new_tokens)
        if state is not None and any(wanted > there for wanted, there in zip(room, state.room, strict=True)):
            both = (max(rows, state.room[0]), max(columns, state.room[1]), max(new_tokens, state.room[2]))
            # A few long rows and many short ones would together need far more than either.
            room = both if _cache_bytes(*both[:2], cache) <= self._keep_bytes else room
            self._forget()
            state = None
        if state is None:
            self._state = state = _allocate(*room, cache, self._model.device)
        return state

    def _forget(self) -> None:
        self._steps.clear()
        self._state = self._pool = None

    def _step(self, state: _State, rows: int, columns: int, params: SamplingParams) -> Recorded:
        key = (rows, columns, params.temperature, params.top_p)
        if self._pool is None and state.mask.is_cuda:
            self._pool = torch.cuda.graph_pool_handle()
        if key not in self._steps:
            view, lora = _view(state, rows, columns), self._lora

            def step() -> None:
                with lora.in_use(), grouped_attention(self._model):
                    _step(self._model, view, params)

            self._steps[key] = Recorded(step, f"{rows} x {columns}", self._pool)
        return self._steps[key]


def _step(model: PreTrainedModel, state: _State, params: SamplingParams) -> None:
    """Reads the last token of every row and draws the next."""
    layers = [_Columns(k, v, state.column) for k, v in zip(state.keys, state.values, strict=True)]
    state.mask.index_fill_(1, state.column, True)
    # What attention adds to its scores, made once for all layers: each would make it of True and False anew.
    unseen = torch.finfo(model.dtype).min
    scores = torch.zeros_like(state.mask, dtype=model.dtype).masked_fill_(~state.mask, unseen)
    logits = model(
        input_ids=state.token.unsqueeze(-1),
        attention_mask=scores[:, None, None, :],
        position_ids=state.position.unsqueeze(-1),
        past_key_values=Cache(layers=layers),
        use_cache=True,
    ).logits[:, -1]
    state.column.add_(1)
    state.position.add_(1)
    u = state.u.index_select(1, state.index).squeeze(-1)
    token, logprobs = draw(logits, u, params.temperature, params.top_p)
    state.token.copy_(token)
    state.out.index_copy_(1, state.index, token.unsqueeze(-1))
    state.out_logprobs.index_copy_(1, state.index, logprobs.unsqueeze(-1))
    state.index.add_(1)


def _allocate(rows: int, columns: int, new_tokens: int, like: Cache, device: torch.device) -> _State:
    """Returns an empty state whose layers have the sizes of ``like``'s."""
    pairs = [(layer.keys, layer.values) for layer in like.layers]
    keys, values = (
        [t.new_zeros(rows, t.shape[1], columns, t.shape[3]) for t in tensors] for tensors in zip(*pairs, strict=True)
    )
    index = torch.zeros(1, dtype=torch.long, device=device)
    row = torch.zeros(rows, dtype=torch.long, device=device)
    new = torch.zeros(rows, new_tokens, device=device)
    mask = torch.zeros(rows, columns, dtype=torch.bool, device=device)
    return _State(keys, values, mask, row, row.clone(), new, new.long(), new.clone(), index, index.clone())


def _cache_bytes(rows: int, columns: int, like: Cache) -> int:
    """Returns the bytes of so many keys and values."""
    both = [t for layer in like.layers for t in (layer.keys, layer.values)]
    return rows * columns * sum(t.shape[1] * t.shape[3] * t.element_size() for t in both)


def _load(state: _State, mask: Tensor, cache: Cache, u: Tensor, n: int) -> None:
    """Puts prompts into the state, each ``n`` times."""
    rows, length = len(u), mask.shape[1]
    for i, layer in enumerate(cache.layers):
        state.keys[i][:rows, :, :length] = layer.keys.repeat_interleave(n, 0)
        state.values[i][:rows, :, :length] = layer.values.repeat_interleave(n, 0)
    state.mask.zero_()
    state.mask[:rows, :length] = mask.repeat_interleave(n, 0).bool()
    state.position.zero_()
    state.position[:rows] = mask.sum(-1).repeat_interleave(n)
    state.u[:rows, : u.shape[1]] = u
    state.column.fill_(length)


def _take(state: _State, rows: int, token: Tensor, logprobs: Tensor) -> None:
    """Puts each row's first new token into the state."""
    state.token.zero_()
    state.token[:rows], state.out[:rows, 0], state.out_logprobs[:rows, 0] = token, token, logprobs
    state.index.fill_(1)


def _view(state: _State, rows: int, columns: int) -> _State:
    """Returns the first rows and columns of a state, in the same memory."""
    return _State(
        [t[:rows, :, :columns] for t in state.keys],
        [t[:rows, :, :columns] for t in state.values],
        state.mask[:rows, :columns],
        *(t[:rows] for t in (state.position, state.token, state.u, state.out, state.out_logprobs)),
        state.column,
        state.index,
    )


def can_be_static(model: PreTrainedModel) -> bool:
    """Returns whether the model takes our cache and mask: layers that keep all tokens, and torch's own attention."""
    return can_share(model) and model.config._attn_implementation == "sdpa"


def _bucket(rows: int) -> int:
    """Returns the rows a batch is filled up to: a power of two while it is small, then a multiple of ``_FLAT``."""
    return min(1 << (rows - 1).bit_length(), _up(rows, _FLAT))


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _fingerprint(model: PreTrainedModel) -> tuple[Any, ...]:
    """Changes with where the weights lie and with which adapters are on: a recording knows neither's later change."""
    tuners = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
    adapters = {(tuple(m.active_adapters), m.disable_adapters, m.merged) for m in tuners}
    return (tuple(p.data_ptr() for p in model.parameters()), frozenset(adapters))
