"""An adapter merged into its model's weights, and the proof that the saved model answers as model and adapter did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from selfjudge.engines.eval_mode import EvalMode
from selfjudge.engines.load import context_length, pretrained_model
from selfjudge.errors import ModelError

_ROWS, _LENGTH = 4, 16
_TOLERANCE = {torch.float32: 0.01, torch.float16: 0.05, torch.bfloat16: 0.2}
"""Of logits, relative to their own size: rounding of merged weights, and kernels of another device, stay well below."""


def merge(model: PeftModel) -> PreTrainedModel:
    """Returns the model with its adapter merged into its weights; the PEFT model is of no use afterwards.

    Where input and output embeddings are one weight and the adapter changes one side, they become two weights.
    """
    base = model.get_base_model()
    source, output = base.get_input_embeddings(), base.get_output_embeddings()
    adapted = any(isinstance(side, BaseTunerLayer | AuxiliaryTrainingWrapper) for side in (source, output))
    if adapted and output is not None and _plain(source).weight is _plain(output).weight:
        _plain(output).weight = nn.Parameter(_plain(output).weight.detach().clone(), requires_grad=False)
        base.config.tie_word_embeddings = base.config.get_text_config().tie_word_embeddings = False
        base.all_tied_weights_keys = base.get_expanded_tied_weights_keys(all_submodels=True)
    return model.merge_and_unload()


def _plain(embeddings: Any) -> Any:
    """Returns the model's own module within those that PEFT put around it."""
    if isinstance(embeddings, AuxiliaryTrainingWrapper):
        return embeddings.original_module
    return embeddings.get_base_layer() if isinstance(embeddings, BaseTunerLayer) else embeddings


def probe_logits(model: PreTrainedModel | PeftModel) -> Tensor:
    """Returns the logits for a few rows of fixed token ids, float32 on the CPU: those of a PEFT model with its adapter.

    Rows are [length, vocab] each, or [1] of a classifier; all in one tensor.
    """
    # An adapter is in the base's layers; accelerate may have put autocast around the model that it trained.
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    vocabulary = inner.get_input_embeddings().weight.shape[0]
    length = min(_LENGTH, context_length(inner))
    ids = torch.randint(vocabulary, (_ROWS, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), EvalMode(inner).in_use():
        found = [inner(input_ids=row[None].to(inner.device), use_cache=False).logits[0] for row in ids]
    return torch.stack(found).float().cpu()


def check_saved(folder: Path, kind: type[PreTrainedModel], dtype: torch.dtype, wanted: Tensor, adapter: Path) -> None:
    """Passes a folder whose model, loaded anew, gives the logits ``wanted`` of :func:`probe_logits`.

    It is loaded on the CPU, so that an accelerator needs no room for a second model.

    Args:
        folder: of the merged model.
        kind: its class.
        dtype: of its weights, which says how close is close enough.
        wanted: what the model with its adapter gave.
        adapter: where the adapter will be, for the message.

    Raises:
        ModelError: if it gives others.
    """
    found = probe_logits(pretrained_model(kind, folder, dtype=dtype))
    _compare(found, wanted, dtype, f"use the adapter in {adapter} on the model it was trained on, or ")


def checked_merge(model: PeftModel) -> PreTrainedModel:
    """Merges as :func:`merge` does, and compares the answers. For models that go on to be trained without the adapter.

    Raises:
        ModelError: if the merged model answers otherwise than the model with its adapter.
    """
    wanted = probe_logits(model)
    merged = merge(model)
    _compare(probe_logits(merged), wanted, merged.dtype)
    return merged


def _compare(found: Tensor, wanted: Tensor, dtype: torch.dtype, advice: str = "") -> None:
    """Raises ModelError if the logits of a merged model are not those ``wanted``.

    ``advice``: what you can do besides training again, for the message.
    """
    error = _distance(found, wanted)
    most = _TOLERANCE.get(dtype, _TOLERANCE[torch.bfloat16])
    if not error <= most:  # nor is a NaN
        raise ModelError(
            f"The model with its adapter merged answers otherwise than with the adapter on it (its logits are off by "
            f"{error:.2g} of their size, more than {most:g}), so it is not kept: {advice}train with other "
            "lora.target_modules."
        )


def _distance(found: Tensor, wanted: Tensor) -> float:
    """Returns ‖found - wanted‖ / ‖wanted‖, of logits over a vocabulary without their mean, which says nothing."""
    if wanted.shape[-1] > 1:
        found, wanted = (logits - logits.mean(-1, keepdim=True) for logits in (found, wanted))
    return float((found - wanted).norm() / wanted.norm())
