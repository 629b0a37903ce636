"""Log-probabilities of chosen tokens of a batch; nothing over the vocabulary is computed anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from selfjudge.core.logprobs import chunk_length, head_logprobs, token_logprobs
from selfjudge.engines.causal_lm import head_at

_HEAD_IS_LAST: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()
"""What :func:`_head_is_last` found out about a model."""


def target_logprobs(model: nn.Module, inputs: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """Returns log p(token | what is before it in its row) of each target, [targets], float32.

    The output head sees the positions that predict a target, a chunk of them at a time. A model that changes its
    logits behind the head (caps or scales them) gets all of them at once, so that what it does to them stays.

    Args:
        model: a causal LM, or PEFT's or accelerate's wrapper of one.
        inputs: its arguments, with ``input_ids`` [rows, length].
        targets: positions of tokens in the flattened ``input_ids``; none of them a row's first.
    """
    lm = _causal_lm(model)
    wanted, before = inputs["input_ids"].flatten()[targets], targets - 1
    if not _head_is_last(lm):
        length = inputs["input_ids"].shape[1]
        with head_at(lm, before // length, before % length):
            return token_logprobs(model(**inputs, use_cache=False).logits[0], wanted)
    head, chunk = lm.get_output_embeddings(), chunk_length(lm.config.get_text_config().vocab_size)
    found: list[Tensor] = []
    with _in_place_of_logits(head, lambda hidden: found.append(head_logprobs(head, hidden[before], wanted, chunk))):
        model(**inputs, use_cache=False)
    return found[0]


def _causal_lm(model: Any) -> PreTrainedModel:
    """Returns the model within its wrappers; an adapter is injected into its layers and so stays."""
    model = extract_model_from_parallel(model)
    return model.get_base_model() if isinstance(model, PeftModel) else model


@contextmanager
def _in_place_of_logits(head: nn.Module, work: Callable[[Tensor], None]) -> Iterator[None]:
    """Hands the hidden states, [positions, hidden], to ``work`` where the model would compute logits.

    There, and not after the forward, because autocast and what else surrounds the forward then hold for ``work`` too.
    """

    def hand_over(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        handle.remove()  # work may call the head
        work(args[0].flatten(0, -2))
        return (args[0][:1, :1], *args[1:])  # the model goes on with a single position that nobody uses

    handle = head.register_forward_pre_hook(hand_over)
    try:
        yield
    finally:
        handle.remove()


def _head_is_last(lm: PreTrainedModel) -> bool:
    """Returns whether the model's logits are what its output head gives. Tried once on one token.

    The head's answer is replaced by a ramp that is wide enough for any cap or scale to show.
    """
    if lm not in _HEAD_IS_LAST:
        ramps: list[Tensor] = []

        def ramp(module: nn.Module, args: Any, logits: Tensor) -> Tensor:
            values = torch.linspace(-1e3, 1e3, logits.shape[-1], device=logits.device)
            ramps.append(values.to(logits.dtype).expand_as(logits))
            return ramps[0]

        handle, training = lm.get_output_embeddings().register_forward_hook(ramp), lm.training
        lm.eval()  # dropout must not draw from the run's randomness
        try:
            with torch.no_grad():
                logits = lm(input_ids=torch.zeros(1, 1, dtype=torch.long, device=lm.device), use_cache=False).logits
        finally:
            handle.remove()
            lm.train(training)
        _HEAD_IS_LAST[lm] = torch.equal(logits, ramps[0].to(logits.dtype))
    return _HEAD_IS_LAST[lm]
