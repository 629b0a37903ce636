"""Rotary positions whose frequencies depend on a row's length, for rows of several lengths in one batch.

LongRoPE (``rope_type: longrope``) has other frequencies for rows beyond the length of the pretraining, dynamic NTK
(``rope_type: dynamic``) others for each length beyond it. transformers goes by the longest row of a batch, and dynamic
NTK by the longest it has seen. Here each row is rotated as it is alone, by a model that has seen nothing before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from selfjudge.engines.forwards import replaced_forwards

_KNOWN: WeakKeyDictionary[PreTrainedModel, OwnRope] = WeakKeyDictionary()


@dataclass(frozen=True)
class _Turn:
    """Rows of up to ``border`` tokens are rotated alike. So are longer ones; where it ``grows``, those as long."""

    border: int
    grows: bool

    def kind(self, lengths: Tensor) -> Tensor:
        """Returns 0 for a row within the border; rows of the same number are rotated alike."""
        beyond = (lengths > self.border).long()
        return beyond * lengths if self.grows else beyond


class OwnRope:
    """A model's rotary modules that go by the length of a row; most models have none, and then nothing is done."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Takes a model whose modules stay what they are."""
        self._modules = [(module, turns) for module in model.modules() if (turns := _turns(module))]
        self._turns = {turn for _, turns in self._modules for turn in turns.values()}

    @property
    def border(self) -> int | None:
        """The longest row in tokens that is rotated as all shorter ones are; None without a limit."""
        return min((turn.border for turn in self._turns), default=None)

    def kinds(self, lengths: Sequence[int]) -> list[tuple[int, ...]]:
        """Returns what kind a row of each length is: what was computed of a row holds while its kind stays."""
        kinds = [turn.kind(torch.tensor(lengths)).tolist() for turn in self._turns]
        return list(zip(*kinds, strict=True)) if kinds else [()] * len(lengths)

    @contextmanager
    def of(self, lengths: Tensor) -> Iterator[None]:
        """Within it each token is rotated as in a row of its own.

        Args:
            lengths: tokens of the row that each token belongs to, [rows, columns] or [rows, 1] of what the model is
                given.
        """
        with replaced_forwards(
            (module, partial(_rotated, module, module.forward, turns, lengths)) for module, turns in self._modules
        ):
            yield


def own_rope(model: PreTrainedModel) -> OwnRope:
    """Returns the rotary modules of a causal LM; they are looked for once."""
    if model not in _KNOWN:
        _KNOWN[model] = OwnRope(model)
    return _KNOWN[model]


def row_lengths(ids: Tensor, targets: Tensor, position_ids: Tensor | None) -> Tensor:
    """Returns the tokens of the row that each token belongs to, [rows, columns]; a row ends with its last target.

    Args:
        ids: [rows, columns].
        targets: positions in the flattened ``ids``.
        position_ids: [rows, columns], which begin anew with each packed row; None where nothing is packed.
    """
    if position_ids is None:
        position_ids = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    row = (position_ids == 0).cumsum(-1) - 1
    length = torch.zeros_like(ids)
    length.view(-1)[targets] = position_ids.reshape(-1)[targets] + 1
    return torch.zeros_like(ids).scatter_reduce(-1, row, length, "amax").gather(-1, row)


def _turns(module: nn.Module) -> dict[str | None, _Turn]:
    """Returns where a rotary module changes its frequencies, for each type of layers that it tells apart."""
    kinds, config = getattr(module, "rope_type", None), getattr(module, "config", None)
    if not isinstance(kinds, dict):
        kinds = {None: kinds}
    turns: dict[str | None, _Turn] = {}
    for layer_type, kind in kinds.items():
        if kind == "longrope":
            rope = config.rope_parameters  # type: ignore[union-attr]
            rope = rope if layer_type is None else rope[layer_type]
            turns[layer_type] = _Turn(int(rope["original_max_position_embeddings"]), grows=False)
        elif isinstance(kind, str) and "dynamic" in kind:
            turns[layer_type] = _Turn(int(module.original_max_seq_len), grows=True)  # type: ignore[arg-type]
    return turns


def _rotated(
    module: nn.Module,
    forward: Callable[..., Any],
    turns: dict[str | None, _Turn],
    lengths: Tensor,
    x: Tensor,
    position_ids: Tensor,
    layer_type: str | None = None,
) -> Any:
    """Returns what a rotary module gives: each kind of rows is computed by itself, and each token takes its own."""
    by_type = {} if layer_type is None else {"layer_type": layer_type}
    if layer_type not in turns:
        return forward(x, position_ids, **by_type)
    lengths = lengths.to(position_ids.device)
    kinds = turns[layer_type].kind(lengths)
    found: Any = None
    for kind in kinds.unique().tolist():
        here = kinds == kind
        last = max(1, int(lengths[here].max())) - 1
        # The longest row is what the module goes by, also where its last token is not among those that are read.
        position = torch.cat([position_ids.clamp(max=last), torch.full_like(position_ids[..., :1], last)], -1)
        _refresh(module, turns, layer_type)
        computed = _each(lambda t: t[..., :-1, :], forward(x, position, **by_type))
        found = computed if found is None else _each(partial(torch.where, here[..., None]), computed, found)
    _refresh(module, turns, layer_type)
    return found


def _each(work: Callable[..., Tensor], *results: Any) -> Any:
    """Applies ``work`` to cosine and sine, or to the one tensor that holds both."""
    if isinstance(results[0], Tensor):
        return work(*results)
    return tuple(work(*parts) for parts in zip(*results, strict=True))


def _refresh(module: Any, turns: dict[str | None, _Turn], layer_type: str | None) -> None:
    """Lets dynamic NTK forget the longest row it has seen."""
    if turns[layer_type].grows:
        prefix = "" if layer_type is None else f"{layer_type}_"
        original = getattr(module, f"{prefix}original_inv_freq").to(getattr(module, f"{prefix}inv_freq").device)
        module.register_buffer(f"{prefix}inv_freq", original, persistent=False)
        setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
