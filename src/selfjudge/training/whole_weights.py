"""Whole weights where the processes hold a shard each: for a rollout on every process, at the end on the main one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator, init_empty_weights
from accelerate.utils import parse_flag_from_env
from peft import PeftModel, get_peft_model
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel, Trainer, TrainingArguments

from selfjudge.errors import RecipeError
from selfjudge.training.processes import is_main


def check_layout(accelerator: Accelerator) -> None:
    """Raises RecipeError for a way to spread weights that training does not know."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and plugin.fsdp_version != 2:
        raise RecipeError(
            "FSDP 1 is not supported: set fsdp_version to 2 in accelerate's config (examples/accelerate)."
        )
    if plugin is not None and plugin.cpu_ram_efficient_loading:
        raise RecipeError(
            "fsdp_cpu_ram_efficient_loading leaves all processes but one without the weights that their judge and "
            "reference need: set it to false in accelerate's config (examples/accelerate)."
        )


def shards_weights(args: TrainingArguments) -> bool:
    """Returns whether a process will hold a shard of the weights only: FSDP or ZeRO-3."""
    plugin = args.deepspeed_plugin
    return is_fsdp_asked_for(args) or (plugin is not None and plugin.zero_stage == 3)


def is_fsdp_asked_for(args: TrainingArguments) -> bool:
    """Returns whether the recipe or ``accelerate launch`` asks for FSDP."""
    return args.fsdp_plugin_args is not None or parse_flag_from_env("ACCELERATE_USE_FSDP")


@contextmanager
def whole_weights(trainer: Trainer, twin: nn.Module | None) -> Iterator[None]:
    """Lends the trained weights, whole, to ``twin``: a model of the same make that is not sharded; None needs nothing.

    They are gathered once. In the sharded model each forward of a process would wait for all others, and rollouts need
    different numbers of forwards. All processes enter and leave this together; the twin is empty outside of it.
    """
    if twin is None:
        yield
        return
    with _gathered(trainer.model):
        weights = dict(twin.named_parameters())
        for name, weight in trainer.model.named_parameters():
            weights[name].data = weight.data
        try:
            yield
        finally:
            empty(twin)


def empty(twin: nn.Module) -> None:
    """Lets go of a twin's weights."""
    for weight in twin.parameters():
        weight.data = weight.data.new_empty(0)


@contextmanager
def _gathered(model: nn.Module) -> Iterator[None]:
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if not parts:
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(model.parameters())):
            yield
        return
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()


def whole_model(trainer: Trainer) -> PreTrainedModel | PeftModel | None:
    """Returns the trained model with whole weights, on the main process; None on the others, which call it too.

    Of sharded weights it is a new model on the CPU.
    """
    if not shards_weights(trainer.args):
        return trainer.accelerator.unwrap_model(trainer.model) if is_main() else None
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return _rebuilt(trainer.model, state) if is_main() else None


def _rebuilt(model: Any, state: dict[str, torch.Tensor]) -> PreTrainedModel | PeftModel:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    # fully_shard puts a class of its own in front.
    kind = next(k for k in type(base).__mro__ if not issubclass(k, FSDPModule))
    with init_empty_weights(include_buffers=False):
        whole = kind(base.config)
    if isinstance(model, PeftModel):
        whole = get_peft_model(whole, model.peft_config[model.active_adapter], low_cpu_mem_usage=True)
    missing = whole.load_state_dict(state, strict=False, assign=True).missing_keys
    whole.get_base_model().tie_weights() if isinstance(whole, PeftModel) else whole.tie_weights()
    empty = [name for name, weight in whole.named_parameters() if weight.is_meta]
    assert not empty, f"not gathered: {empty}, {missing}"
    return whole.eval()
