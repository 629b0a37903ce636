"""Switching a PEFT adapter off and on again without asking every module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftModel, PeftType
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper


class AdapterSwitch:
    """A model's adapter layers. ``PeftModel.disable_adapter`` asks all modules for their state first, at each call:
    in a model of 30 layers that takes longer than a forward on a GPU.
    """

    def __init__(self, model: PeftModel) -> None:
        """Takes a PEFT model whose layers stay what they are."""
        self._model = model
        self._layers: list[Any] = [
            module for module in model.modules() if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
        ]

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within it the base model answers; afterwards each layer is as it was. What is trainable does not change."""
        if self._model.active_peft_config.peft_type != PeftType.LORA:  # others may have more to them than layers
            with self._model.disable_adapter():
                yield
            return
        before = [layer._disable_adapters for layer in self._layers]
        for layer in self._layers:
            layer._disable_adapters = True
        try:
            yield
        finally:
            for layer, disabled in zip(self._layers, before, strict=True):
                layer._disable_adapters = disabled
