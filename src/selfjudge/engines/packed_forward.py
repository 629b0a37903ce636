"""Batches without padding: sequences one after another in a single row, each attending to itself alone.

On a CPU, where a matrix product's time goes with its tokens and a call costs next to nothing, this beats padded rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from selfjudge.engines.batching import total_budget_batches
from selfjudge.engines.causal_lm import Layers, attention, can_share, head_at
from selfjudge.engines.own_rope import own_rope
from selfjudge.engines.prefixes import Ids, Task

_NAME = "selfjudge_packed"
"""transformers makes no mask for an attention that it does not know."""

_TOKENS = 2048
"""Of a batch at most: larger matrix products take no less time for a token."""


class PackedForward:
    """Tasks one after another; what they borrow is put before their keys and values in attention."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Takes a causal LM that :func:`can_pack` allows."""
        self._model = model

    @property
    def busy(self) -> int:
        """See :class:`BatchForward`."""
        return 0

    def batches(self, tasks: Sequence[Task], budget: int, max_rows: int | None) -> list[list[Task]]:
        """See :class:`BatchForward`."""
        found = total_budget_batches([task.rest for task in tasks], min(budget, _TOKENS), max_rows)
        return [[tasks[i] for i in batch] for batch in found]

    def size(self, lengths: Sequence[int]) -> int:
        """See :class:`BatchForward`."""
        return sum(lengths)

    def held(self, kept: Layers) -> tuple[int, int]:
        """See :class:`BatchForward`."""
        keys = kept[0][0]  # a part of what its batch computed, or a tensor of its own
        storage = keys.untyped_storage()
        return storage.data_ptr(), storage.nbytes() // (keys.shape[0] * keys.shape[2] * keys.element_size())

    def run(
        self,
        tasks: Sequence[Task],
        tokens: Sequence[tuple[int, ...]],
        computed: Mapping[Ids, Layers],
        keep: Sequence[int],
    ) -> tuple[Tensor, dict[Ids, Layers]]:
        """See :class:`BatchForward`."""
        device = self._model.device
        segments: list[_Segment] = []
        for task, length in zip(tasks, keep, strict=True):
            begin = segments[-1].end if segments else 0
            borrowed = [] if task.lender is None else computed[task.lender]
            segments.append(_segment(begin, task.rest, task.shared, borrowed, length, device))
        ids = torch.tensor([[i for task in tasks for i in task.sequence[task.shared :]]], device=device)
        positions = torch.cat([torch.arange(task.shared, len(task.sequence)) for task in tasks]).to(device)
        last = torch.tensor([segment.end - 1 for segment in segments], device=device)
        lengths = torch.tensor([[len(task.sequence) for task in tasks for _ in range(task.rest)]])
        with (
            attention(self._model, _NAME),
            own_rope(self._model).of(lengths),
            head_at(self._model, torch.zeros_like(last), last),
        ):
            logits = self._model(
                input_ids=ids, position_ids=positions[None], use_cache=False, segments=segments
            ).logits[0]
        logprobs = logits.float().log_softmax(-1).gather(1, torch.tensor(tokens, device=logits.device))
        return logprobs, {t.sequence: segment.kept for t, segment in zip(tasks, segments, strict=True) if segment.keep}


def can_pack(model: PreTrainedModel) -> bool:
    """Returns whether attention is plain: over all tokens, by torch's own kernel."""
    return can_share(model) and model.config._attn_implementation == "sdpa"


@dataclass(frozen=True)
class _Segment:
    """One task's tokens: rows ``begin`` to ``end`` of the batch, after ``shared`` ones it borrows.

    ``mask`` is [rows, shared + rows], True where a row sees a column; None without borrowed tokens, where the kernel's
    own causal order is right, and for a single row, which sees everything. ``kept`` gathers the keys and values of the
    sequence's first ``keep`` tokens, layer by layer.
    """

    begin: int
    end: int
    shared: int
    borrowed: Layers
    keep: int
    mask: Tensor | None
    kept: Layers = field(default_factory=list)


def _segment(begin: int, rows: int, shared: int, borrowed: Layers, keep: int, device: torch.device) -> _Segment:
    mask = None
    if shared and rows > 1:
        mask = torch.ones(rows, shared + rows, dtype=torch.bool, device=device).tril(shared)
    return _Segment(begin, begin + rows, shared, borrowed, keep, mask)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    segments: Sequence[_Segment],
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers: query, key and value are [1, heads, rows, head size], the result
    [1, rows, heads, head size].
    """
    outputs = []
    for segment in segments:
        q, k, v = (x[:, :, segment.begin : segment.end] for x in (query, key, value))
        if segment.shared:
            before_k, before_v = segment.borrowed[int(module.layer_idx)]  # type: ignore[arg-type]
            k = torch.cat([before_k[None, :, : segment.shared], k], 2)
            v = torch.cat([before_v[None, :, : segment.shared], v], 2)
        if segment.keep:
            segment.kept.append((k[0, :, : segment.keep], v[0, :, : segment.keep]))
        outputs.append(sdpa_attention_forward(module, q, k, v, segment.mask, **kwargs)[0])
    return torch.cat(outputs, 1), None


ALL_ATTENTION_FUNCTIONS.register(_NAME, _attention)
