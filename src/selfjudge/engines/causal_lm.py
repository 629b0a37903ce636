"""What is asked of the inside of a causal LM: its head at some positions alone, and what its layers keep of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of a sequence in each layer, each [heads, length, head size]."""


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor of a CPU on a device, without waiting for what the device has yet to do before."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@contextmanager
def attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Gives the model one of transformers' attention functions, by its name, for a while."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def head_at(model: PreTrainedModel, row: Tensor, column: Tensor) -> Iterator[None]:
    """Lets the output head see the hidden states at (row, column) alone, so that logits are [1, positions, vocab].

    The vocabulary makes logits the largest tensor of a forward. What the model does to them (caps, scales) stays.
    """

    def select(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][row, column].unsqueeze(0), *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def can_share(model: PreTrainedModel) -> bool:
    """Returns whether every layer keeps the keys and values of all tokens; windows and recurrent states do not."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    return kinds == {DynamicLayer} and not window and bool(model._supports_attention_backend)


@torch.no_grad()
def cache_bytes(model: PreTrainedModel) -> int:
    """Returns the bytes of keys and values of one token, of a model that :func:`can_share` allows: reads one token."""
    cache = DynamicCache(config=model.config)
    model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), past_key_values=cache, use_cache=True)
    return sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))
