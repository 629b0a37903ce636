"""What an accelerator is faster with, for as long as a model is used by us: fewer kernels, less memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.func import functional_call
from torch.nn import functional

from selfjudge.engines.forwards import replaced_forwards

_PLAIN: dict[type[nn.Module], bool] = {}
"""What :func:`_computes_plainly` found out about a class."""


class FastKernels:
    """A model's norms and LoRA layers, which on a GPU can run with fewer kernels."""

    def __init__(self, model: nn.Module) -> None:
        """Takes a model whose modules stay what they are."""
        self._model = model
        # The same forwards each time: a compiled model would be compiled anew for others.
        self._norms = [(m, partial(_norm, m)) for m in model.modules() if _is_norm(m)]
        self._adapters = [(m, partial(_lora, m)) for m in model.modules() if isinstance(m, LoraLinear)]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within it norms and LoRA run with fewer kernels, and attention without cuDNN's. On a CPU nothing changes.

        A root mean square norm in float32 as transformers writes it is seven kernels, each through the device's memory;
        the fused one rounds once, at its end. PEFT turns what comes into a layer to the adapter's float32, and training
        keeps that; here the adapter works in the base's dtype, as it does under autocast.
        """
        if not _on_gpu(self._model):
            yield
            return
        norms = [pair for pair in self._norms if is_plain_norm(pair[0])]
        adapters = [pair for pair in self._adapters if is_plain_lora(pair[0])]
        with replaced_forwards([*norms, *adapters]), _without_cudnn_attention():
            yield


@contextmanager
def _without_cudnn_attention() -> Iterator[None]:
    """cuDNN makes a plan for each new shape, which takes up to a second; nearly every batch of ours has one."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def _on_gpu(model: nn.Module) -> bool:
    return next(model.parameters()).is_cuda


def _is_norm(module: nn.Module) -> bool:
    return type(module).__name__.endswith("RMSNorm") and isinstance(getattr(module, "weight", None), nn.Parameter)


def _norm(module: Any, x: Tensor) -> Tensor:
    if torch.is_autocast_enabled(x.device.type):  # which would have it in float32, and cast its result for each reader
        with torch.autocast(x.device.type, enabled=False):
            return functional.rms_norm(x, module.weight.shape, module.weight, _eps(module))
    return functional.rms_norm(x, module.weight.shape, module.weight, _eps(module))


def _eps(norm: Any) -> float:
    return float(norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps)


def _lora(module: Any, x: Tensor) -> Tensor:
    (adapter,) = module.active_adapters
    y: Tensor = module.base_layer(x)
    down, up = (part[adapter].weight.to(y.dtype) for part in (module.lora_A, module.lora_B))
    change = functional.linear(functional.linear(module.lora_dropout[adapter](x), down), up)
    return torch.add(y, change, alpha=module.scaling[adapter])


def is_plain_lora(module: nn.Module) -> bool:
    """Returns whether a module is one active LoRA on a linear layer and nothing else, whole in this process."""
    if type(module) is not LoraLinear or type(module.base_layer) is not nn.Linear:
        return False
    active = [name for name in module.active_adapters if name in module.lora_A]
    return (
        len(active) == len(module.active_adapters) == 1
        and not module.disable_adapters
        and not module.merged
        and active[0] not in module.lora_variant
        and module.lora_B[active[0]].bias is None
        and _is_whole(module.lora_A[active[0]].weight)
    )


def is_plain_norm(module: nn.Module) -> bool:
    """Returns whether a module computes weight · x / rms(x) and nothing else, and is whole in this process."""
    if not _is_norm(module) or not _is_whole(module.weight):
        return False
    if type(module) not in _PLAIN:
        _PLAIN[type(module)] = _computes_plainly(module)
    return _PLAIN[type(module)]


def _is_whole(weight: Any) -> bool:
    """FSDP's weights are sharded tensors; DeepSpeed's have an id, and are there only while their module runs."""
    return not isinstance(weight, DTensor) and not hasattr(weight, "ds_id")


@torch.no_grad()
def _computes_plainly(norm: Any) -> bool:
    """Tries a norm on numbers, with a weight of its own: some classes add 1 to it, or take more arguments."""
    size, device = norm.weight.shape[-1], norm.weight.device
    weight = torch.linspace(-1, 2, size, device=device)
    x = torch.linspace(-3, 5, 2 * size, device=device).view(2, -1)
    try:
        found = functional_call(norm, {"weight": weight}, (x,))
        return bool(
            torch.allclose(found, functional.rms_norm(x, weight.shape, weight, _eps(norm)), rtol=1e-4, atol=1e-5)
        )
    except (AttributeError, TypeError, RuntimeError):
        return False
