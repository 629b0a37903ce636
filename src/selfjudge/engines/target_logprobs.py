"""Log-probabilities of chosen tokens of a batch, or the logits that predict them; nothing over the vocabulary is
computed anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from selfjudge.core.logprobs import chunk_length, head_logprobs, token_logprobs
from selfjudge.engines.causal_lm import head_at
from selfjudge.engines.forwards import replaced_forwards
from selfjudge.engines.own_rope import own_rope, row_lengths

_Head = Callable[[Tensor], Tensor]

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
        return token_logprobs(target_logits(model, inputs, targets), wanted)
    head, chunk = lm.get_output_embeddings(), chunk_length(lm.config.get_text_config().vocab_size)

    def wanted_logprobs(logits: _Head, hidden: Tensor) -> Tensor:
        return head_logprobs(logits, hidden[before], wanted, chunk)

    with _each_row_alone(lm, inputs, targets), _in_place_of_logits(head, wanted_logprobs):
        # From the output and not from the head: DeepSpeed works with copies of what modules return.
        return model(**inputs, use_cache=False).logits.flatten()


def target_logits(model: nn.Module, inputs: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """Returns the logits that predict each target, [targets, vocab], in the model's dtype.

    They are the model's own, with whatever it does to them behind the head (caps, scales). All targets' logits are in
    memory at once: keep the batches small. Arguments as for :func:`target_logprobs`.
    """
    before, length = targets - 1, inputs["input_ids"].shape[1]
    lm = _causal_lm(model)
    with _each_row_alone(lm, inputs, targets), head_at(lm, before // length, before % length):
        logits: Tensor = model(**inputs, use_cache=False).logits
    return logits[0]


def _causal_lm(model: Any) -> PreTrainedModel:
    """Returns the model within its wrappers; an adapter is injected into its layers and so stays."""
    if not isinstance(model, PeftModel | PreTrainedModel):  # looking for wrappers goes through all modules
        model = extract_model_from_parallel(model)
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _each_row_alone(lm: PreTrainedModel, inputs: Mapping[str, Tensor], targets: Tensor) -> AbstractContextManager[None]:
    """Within it no row's positions depend on how long the others are; a row ends with its last target."""
    rope = own_rope(lm)
    if rope.border is None:
        return nullcontext()
    return rope.of(row_lengths(inputs["input_ids"], targets, inputs.get("position_ids")))


def _in_place_of_logits(head: nn.Module, work: Callable[[_Head, Tensor], Tensor]) -> AbstractContextManager[None]:
    """Within it the output head gives what ``work`` makes of its forward and of the hidden states, [positions, hidden].

    There, and not after the model's forward, because autocast and what else surrounds the forward then hold for
    ``work`` too; and by the head's own call, because its hooks are how FSDP and DeepSpeed know when the weights must be
    there. The model's logits are then [1, positions, 1].
    """
    logits = head.forward

    def forward(hidden: Tensor) -> Tensor:
        # A tensor of its own, and no view of one: FSDP's hooks are on what the head returns.
        return work(logits, hidden.flatten(0, -2))[None, :, None].clone()

    return replaced_forwards([(head, forward)])


def try_head(model: nn.Module) -> None:
    """Finds out now what :func:`target_logprobs` has to know of a model; later, processes that share its weights out
    would have to do so at the same moment.
    """
    _head_is_last(_causal_lm(model))


def _head_is_last(lm: PreTrainedModel) -> bool:
    """Returns whether the model's logits are what its output head gives. Tried once on one token.

    The head's answer is replaced by a ramp in float32, wide enough for any cap or scale to show, and any rounding.
    """
    if lm not in _HEAD_IS_LAST:
        ramps: list[Tensor] = []

        def ramp(module: nn.Module, args: Any, logits: Tensor) -> Tensor:
            ramps.append(torch.linspace(-1e3, 1e3, logits.shape[-1], device=logits.device).expand_as(logits))
            return ramps[0]

        handle, training = lm.get_output_embeddings().register_forward_hook(ramp), lm.training
        lm.eval()  # dropout must not draw from the run's randomness
        try:
            with torch.no_grad():
                logits = lm(input_ids=torch.zeros(1, 1, dtype=torch.long, device=lm.device), use_cache=False).logits
        finally:
            handle.remove()
            lm.train(training)
        _HEAD_IS_LAST[lm] = torch.equal(logits.float(), ramps[0])
    return _HEAD_IS_LAST[lm]
