"""Kernels that an accelerator is faster with, for as long as a model is used by us."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

_PLAIN: dict[type[nn.Module], bool] = {}
"""What :func:`_is_plain` found out about a class."""

_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Without cuDNN's, which makes a plan for each new shape; nearly every batch of ours has one."""


@contextmanager
def fast_kernels(model: nn.Module) -> Iterator[None]:
    """Within it a model on a GPU runs its root mean square norms as one kernel each, and attention without cuDNN's.

    A norm in float32 as transformers writes it is seven kernels, each through the device's memory. The fused one rounds
    once, at its end. On a CPU nothing is changed.
    """
    if not _on_gpu(model):
        yield
        return
    norms = [module for module in model.modules() if _can_fuse(module)]
    for norm in norms:
        norm.forward = MethodType(_fused, norm)  # type: ignore[method-assign]
    try:
        with sdpa_kernel(_ATTENTION):
            yield
    finally:
        for norm in norms:
            del norm.forward


def _on_gpu(model: nn.Module) -> bool:
    return next(model.parameters()).is_cuda


def _fused(norm: Any, x: Tensor) -> Tensor:
    if torch.is_autocast_enabled(x.device.type):  # which would have it in float32, and cast its result for each reader
        with torch.autocast(x.device.type, enabled=False):
            return functional.rms_norm(x, norm.weight.shape, norm.weight, _eps(norm))
    return functional.rms_norm(x, norm.weight.shape, norm.weight, _eps(norm))


def _eps(norm: Any) -> float:
    return float(norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps)


def _can_fuse(module: nn.Module) -> bool:
    """Returns whether the module is a norm whose forward is ours to replace."""
    name = type(module).__name__
    if not name.endswith("RMSNorm") or "forward" in module.__dict__ or isinstance(module.weight, DTensor):
        return False
    if type(module) not in _PLAIN:
        _PLAIN[type(module)] = _is_plain(module)
    return _PLAIN[type(module)]


@torch.no_grad()
def _is_plain(norm: Any) -> bool:
    """Tries whether a norm computes weight · x / rms(x): some classes add 1 to the weight, or take more arguments."""
    size = norm.weight.shape
    kept = norm.weight.data
    try:
        norm.weight.data = torch.linspace(-1, 2, size[0], device=kept.device)
        x = torch.linspace(-3, 5, 2 * size[0], device=kept.device).view(2, -1)
        expected = functional.rms_norm(x, size, norm.weight, _eps(norm))
        return bool(torch.allclose(norm(x), expected, rtol=1e-4, atol=1e-5))
    except (AttributeError, TypeError, RuntimeError):
        return False
    finally:
        norm.weight.data = kept
