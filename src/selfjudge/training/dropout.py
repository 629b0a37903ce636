"""A model's own dropout, switched off while it is compared with a reference that has none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

_DRAWN = ("drop", "jitter")
"""In the names of rates by which layers draw at random in training: ``attention_dropout``, ``layerdrop`` and so on."""


class OwnDropout:
    """Whatever draws at random in a model in training, such as its layers' dropout, except a LoRA adapter's dropout."""

    def __init__(self, model: nn.Module) -> None:
        """Takes a model whose modules stay what they are."""
        owners: dict[int, Any] = {}
        for name, module in model.named_modules():
            if "lora_dropout" not in name.split("."):
                owners[id(module)] = module
            config = getattr(module, "config", None)
            if isinstance(config, PreTrainedConfig):  # some layers read their rates there
                owners |= {id(part): part for part in (config, config.get_text_config())}
        self._rates = [rate for owner in owners.values() for rate in _rates(owner)]

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within it the model in training computes what it does in eval mode; afterwards its rates are as they were.

        The model stays in training mode, which activation checkpointing needs.
        """
        for owner, name, _ in self._rates:
            setattr(owner, name, 0.0)
        try:
            yield
        finally:
            for owner, name, rate in self._rates:
                setattr(owner, name, rate)


def _rates(owner: Any) -> list[tuple[Any, str, float]]:
    """Returns (owner, name, rate) of each of its rates that are above 0."""
    is_layer = isinstance(owner, nn.modules.dropout._DropoutNd)
    names = ["p"] if is_layer else [name for name in vars(owner) if any(part in name for part in _DRAWN)]
    found = [(owner, name, getattr(owner, name)) for name in names]
    return [rate for rate in found if type(rate[2]) in (float, int) and rate[2] > 0]
