"""LoRA in a recorded step: two products in the base's dtype and nothing else, from tensors that stay where they are.

PEFT casts what comes in to the adapter's float32, multiplies, scales, adds and casts back: six operations for each
linear layer where two do. Merged into half-precision weights, small updates would vanish.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional

from selfjudge.engines.fast_kernels import is_plain_lora
from selfjudge.engines.forwards import replaced_forwards


class StaticLora:
    """Copies of a model's active LoRA adapter, with which its layers can run; sampling alone, no gradients.

    Only plain LoRA on plain linear layers is replaced; everything else runs as PEFT has it.
    """

    def __init__(self, model: nn.Module) -> None:
        """Takes the model with its adapter on."""
        self._layers = [_Layer(module) for module in model.modules() if is_plain_lora(module)]

    def update(self) -> None:
        """Takes the adapter's weights as they are now."""
        for layer in self._layers:
            layer.update()

    def in_use(self) -> AbstractContextManager[None]:
        """Within it the layers run with the copies."""
        return replaced_forwards((layer.module, layer.forward) for layer in self._layers)


class _Layer:
    def __init__(self, module: LoraLinear) -> None:
        base = module.base_layer
        (adapter,) = module.active_adapters
        self.module, self._base = module, partial(functional.linear, weight=base.weight, bias=base.bias)
        self._a, self._b = module.lora_A[adapter].weight, module.lora_B[adapter].weight
        self._scaling = module.scaling[adapter]
        self._down = torch.empty_like(self._a, dtype=base.weight.dtype, requires_grad=False)
        self._up = torch.empty(self._b.shape[::-1], dtype=base.weight.dtype, device=self._b.device)

    def update(self) -> None:
        self._down.copy_(self._a)
        torch.mul(self._b.detach().T, self._scaling, out=self._up)

    def forward(self, x: Tensor) -> Tensor:
        y = self._base(x)
        y.flatten(0, -2).addmm_(functional.linear(x, self._down).flatten(0, -2), self._up)
        return y
