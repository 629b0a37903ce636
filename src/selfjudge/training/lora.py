"""Putting a LoRA adapter on a model, and finding out beforehand whether peft does that."""

from __future__ import annotations

import copy
import logging
from collections import defaultdict

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from selfjudge.errors import RecipeError
from selfjudge.recipes.schema import LoraSection
from selfjudge.training.arguments import lora_config

_ALL = "all-linear"
_READ_DIRECTLY = {
    **dict.fromkeys(("bamba", "falcon_h1", "granitemoehybrid", "mamba2", "nemotron_h", "zamba2"), ("out_proj",)),
    **dict.fromkeys(("falcon_mamba", "mamba"), ("dt_proj", "out_proj", "x_proj")),
    "jamba": ("dt_proj",),
    "longcat_flash": ("classifier",),
}
"""By model type, the linear modules whose weights the model itself reads, or hands to a kernel: an adapter on one would
not be trained. peft refuses a few of them. On a CPU x_proj and most out_proj would be trained, on a GPU they would not.
"""

_logger = logging.getLogger(__name__)


def put_adapter(model: PreTrainedModel, lora: LoraSection) -> PeftModel:
    """Returns the model with a fresh adapter, which changes ``model`` itself.

    Raises:
        RecipeError: where peft refuses: the modules are not there, or do not take this adapter.
    """
    return _with_adapter(model, lora, adapter_config(model, lora))


def adapter_config(model: PreTrainedModel, lora: LoraSection, task_type: str = "CAUSAL_LM") -> LoraConfig:
    """Returns peft's config of an adapter for a model, a causal LM or what else ``task_type`` names.

    ``all-linear`` leaves out the modules of :func:`unfit_modules`.
    """
    config = lora_config(lora, task_type)
    if lora.target_modules == _ALL:
        config.exclude_modules = list(unfit_modules(model)) or None
    return config


def check_lora(model: PreTrainedModel, lora: LoraSection | None, task_type: str = "CAUSAL_LM") -> None:
    """Tries an adapter on a model of the same config without weights; ``model`` stays as it is.

    Raises:
        RecipeError: as :func:`put_adapter`; for modules that it names and that are of :func:`unfit_modules`.
    """
    if lora is None:
        return
    unfit = unfit_modules(model)
    config = adapter_config(model, lora, task_type)
    with torch.random.fork_rng(), torch.device("meta"):
        adapted = _with_adapter(type(model)(copy.deepcopy(model.config)), lora, config)
    for name, module in adapted.get_base_model().named_modules():
        if isinstance(module, BaseTunerLayer) and name in unfit:
            raise RecipeError(
                f"lora.target_modules: {name} of {type(model).__name__} takes no adapter ({unfit[name]}): leave it "
                f"out, or set target_modules to {_ALL}, which leaves it out."
            )
    if config.exclude_modules:
        names = ", ".join(sorted({name.rpartition(".")[2] for name in unfit}))
        _logger.warning("LoRA on all linear layers leaves out %s (%s).", names, "; ".join(sorted(set(unfit.values()))))


def unfit_modules(model: PreTrainedModel) -> dict[str, str]:
    """Returns the linear modules that take no adapter, by name, each with the reason.

    They are those that do not give what a linear layer gives, those that share their weight with another one (an
    adapter on each could not be merged), and those whose weight the model reads directly. The output head is not among
    them, although it may share its weight with the embeddings.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    sharing: dict[int, int] = defaultdict(int)
    for module in linear.values():
        sharing[id(module.weight)] += 1
    found: dict[str, str] = {}
    for name, module in linear.items():
        if not _gives_a_tensor(module):
            found[name] = "it gives more than a linear layer does"
        elif sharing[id(module.weight)] > 1:
            found[name] = "its weight is that of several layers"
        elif name.rpartition(".")[2] in _READ_DIRECTLY.get(model.config.model_type, ()):
            found[name] = "the model reads its weight directly, without the adapter"
    return found


def _gives_a_tensor(module: nn.Linear) -> bool:
    """Whether a linear layer, which may be of a class of its own (a router), gives one tensor, as its adapter does."""
    if type(module).forward is nn.Linear.forward:
        return True
    with torch.no_grad():
        return isinstance(module(module.weight.new_zeros(1, module.in_features)), torch.Tensor)


def _with_adapter(model: PreTrainedModel, lora: LoraSection, config: LoraConfig) -> PeftModel:
    try:
        return get_peft_model(model, config)  # type: ignore[return-value]
    except ValueError as e:
        name, reason = type(model).__name__, " ".join(str(e).split())[:300]
        if lora.dropout and "ParamWrapper" in reason and "dropout" in reason:
            raise RecipeError(
                f"lora.dropout={lora.dropout}: the experts of {name} are one weight, which takes no adapter with "
                "dropout: set lora.dropout=0 in the stage's section (--set jsft.lora.dropout=0, or "
                "self_training.lora.dropout=0), or name lora.target_modules without them (such as q_proj, v_proj)."
            ) from e
        raise RecipeError(f"lora.target_modules: {reason}") from e
