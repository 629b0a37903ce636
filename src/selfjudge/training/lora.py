"""Putting a LoRA adapter on a model, and finding out beforehand whether peft does that."""

from __future__ import annotations

import copy

import torch
from peft import PeftModel, get_peft_model
from transformers import PreTrainedModel

from selfjudge.errors import RecipeError
from selfjudge.recipes.schema import LoraSection
from selfjudge.training.arguments import lora_config


def put_adapter(model: PreTrainedModel, lora: LoraSection) -> PeftModel:
    """Returns the model with a fresh adapter, which changes ``model`` itself.

    Raises:
        RecipeError: where peft refuses: the modules are not there, or do not take this adapter.
    """
    try:
        return get_peft_model(model, lora_config(lora))  # type: ignore[return-value]
    except ValueError as e:
        name, reason = type(model).__name__, " ".join(str(e).split())[:300]
        if lora.dropout and "ParamWrapper" in reason and "dropout" in reason:
            raise RecipeError(
                f"lora.dropout={lora.dropout}: the experts of {name} are one weight, which takes no adapter with "
                "dropout: set lora.dropout=0, or name lora.target_modules without them (such as q_proj, v_proj)."
            ) from e
        raise RecipeError(f"lora.target_modules: {reason}") from e


def check_lora(model: PreTrainedModel, lora: LoraSection | None) -> None:
    """Tries an adapter on a model of the same config without weights; ``model`` stays as it is.

    Raises:
        RecipeError: as :func:`put_adapter`.
    """
    if lora is not None:
        with torch.random.fork_rng(), torch.device("meta"):
            put_adapter(type(model)(copy.deepcopy(model.config)), lora)
