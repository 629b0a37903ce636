"""Whether judgments of a model can be packed and share their beginnings: tried once on a few tokens."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from accelerate.utils.memory import should_reduce_batch_size
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from selfjudge.engines.causal_lm import can_share
from selfjudge.engines.eval_mode import EvalMode
from selfjudge.engines.own_rope import own_rope
from selfjudge.engines.packed_forward import PackedForward, can_pack
from selfjudge.engines.padded_forward import PaddedForward
from selfjudge.engines.prefix_forward import PrefixForward
from selfjudge.engines.prefixes import MIN_SHARED

_ENDS = (2, 7, 4)
"""Tokens by which the rows go on after what they share."""
_ASKED = 32
"""Tokens whose log-probabilities are compared."""

_logger = logging.getLogger(__name__)
_FOUND: WeakKeyDictionary[PreTrainedModel, JudgingWay] = WeakKeyDictionary()


@dataclass(frozen=True)
class JudgingWay:
    """How a batch of judgments is computed. ``packed``: one after another in a single row, without padding.

    ``shares``: what judgments have in common is computed once.
    """

    packed: bool
    shares: bool


def judging_way(model: PreTrainedModel | PeftModel) -> JudgingWay:
    """Returns the quickest way of judging in which every row gets the log-probabilities it gets alone.

    The first call for a model tries those that its layers allow; the last one, padded rows of their own, always holds.
    """
    lm: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
    if lm not in _FOUND:
        asked = [JudgingWay(can_pack(lm), True), JudgingWay(False, True)] if can_share(lm) else []
        devices = [lm.device] if lm.device.type == "cuda" else []
        with torch.random.fork_rng(devices), EvalMode(lm).in_use(), torch.no_grad():
            _FOUND[lm] = next((way for way in asked if _is_right(lm, way)), JudgingWay(False, False))
        if asked and _FOUND[lm] != asked[0]:
            name = type(lm).__name__
            _logger.warning("%s is judged without the quick ways, which give it other logits.", name)
    return _FOUND[lm]


def _is_right(model: PreTrainedModel, way: JudgingWay) -> bool:
    vocab = model.config.get_text_config().vocab_size
    border = own_rope(model).border or 4 * MIN_SHARED
    shared = [(5 * i + 3) % vocab for i in range(min(MIN_SHARED + 4, max(1, border - max(_ENDS))))]
    rows = [(*shared, *((11 * row + 7 * i + 1) % vocab for i in range(n))) for row, n in enumerate(_ENDS)]
    asked = tuple(range(min(_ASKED, vocab)))
    forward = PackedForward(model) if way.packed else PaddedForward(model, 0, 0)
    try:
        found = PrefixForward(forward, share=way.shares, border=own_rope(model).border).logprobs(
            rows, [asked] * len(rows), budget=4096, max_rows=None
        )
        expected = torch.cat([_alone(model, row)[:, : len(asked)] for row in rows])
    except Exception as e:
        if should_reduce_batch_size(e):
            raise
        _logger.debug("judging %s: %s: %s", way, type(e).__name__, e)
        return False
    spread = (expected - expected.mean(-1, keepdim=True)).square().mean(-1).sqrt()
    apart = (found - expected).square().mean(-1).sqrt() / (spread + torch.finfo(torch.float32).tiny)
    return float(apart.mean()) <= 3 * max(0.01, torch.finfo(model.dtype).eps ** 0.5)


def _alone(model: PreTrainedModel, row: Sequence[int]) -> Tensor:
    """Returns the log-probabilities of the token after a row, [1, vocab], on the CPU, from a plain forward."""
    ids = torch.tensor([row], device=model.device)
    with own_rope(model).of(torch.tensor([[len(row)]])):
        logits: Tensor = model(input_ids=ids, use_cache=False).logits[:, -1]
    return logits.float().log_softmax(-1).cpu()
