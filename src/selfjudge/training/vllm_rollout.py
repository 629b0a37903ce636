"""Rollouts by a vLLM of this process, which gets the weights in training before each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel

from selfjudge.engines.base import Engine
from selfjudge.engines.vllm_engine import VllmCore, VllmEngine
from selfjudge.recipes.schema import Recipe
from selfjudge.templates.chat import ChatEncoder


class HandedOverPolicy(VllmEngine):
    """The policy in training, run by vLLM with the weights of the last hand-over."""

    def __init__(self, core: VllmCore, chat: ChatEncoder, model: PreTrainedModel | PeftModel, folder: Path) -> None:
        """Takes a vLLM that runs the weights that ``model`` started from.

        Args:
            core: with room for the adapter, if ``model`` has one.
            chat: the encoder of the model's tokenizer.
            model: what is trained: a PEFT model hands over its adapter, any other all its weights.
            folder: where they are written on their way; gone again after each hand-over.
        """
        super().__init__(core, chat)
        self.model = model
        self._folder = folder

    def hand_over(self) -> None:
        """Gives vLLM the weights as they are now; none of its calls may be under way."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self.model.save_pretrained(str(self._folder))
        if isinstance(self.model, PeftModel):
            self.core.load_adapter(self._folder)
        else:
            self.core.load_weights(self._folder)
        shutil.rmtree(self._folder)


class VllmRollouts:
    """A running vLLM as what samples rollouts."""

    def __init__(self, core: VllmCore, chat: ChatEncoder, *, lora: bool) -> None:
        """Takes a vLLM that runs the start; with ``lora`` adapters are handed over, else all weights."""
        self._core, self._chat, self._lora = core, chat, lora
        self.record: dict[str, object] = {"vllm": core.version}

    def policy(self, model: PreTrainedModel | PeftModel, folder: Path) -> HandedOverPolicy:
        """Returns the policy with the weights of ``model``."""
        return HandedOverPolicy(self._core, self._chat, model, folder)

    @property
    def start(self) -> Engine | None:
        """vLLM's base weights; None where hand-overs replace them."""
        return VllmEngine(self._core, self._chat, adapter=False) if self._lora else None


@contextmanager
def running_vllm(recipe: Recipe, start: str, chat: ChatEncoder) -> Iterator[VllmRollouts]:
    """Runs a vLLM with the weights self-training starts from, as the recipe's ``self_training.vllm`` says.

    Raises:
        MissingExtraError: if vLLM is not installed.
        ModelError: if vLLM does not start with the model.
    """
    section = recipe.self_training
    rank = section.lora.r if section.lora else None
    core = VllmCore(start, lora_rank=rank, dtype=recipe.model.dtype, **section.vllm.model_dump())
    try:
        yield VllmRollouts(core, chat, lora=rank is not None)
    finally:
        core.close()
