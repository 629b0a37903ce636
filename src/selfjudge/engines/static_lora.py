"""LoRA in a recorded step: products in the base's dtype and nothing else, from tensors that stay where they are.

PEFT casts what comes in to the adapter's float32, multiplies, scales, adds and casts back: six operations for each
linear layer where two products do. Merged into half-precision weights, small updates would vanish.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional

from selfjudge.engines.fast_kernels import is_plain_lora
from selfjudge.engines.forwards import replaced_forwards


class StaticLora:
    """Copies of a model's active LoRA adapter, with which its layers can run; sampling alone, no gradients.

    Only plain LoRA on plain linear layers is replaced; everything else runs as PEFT has it. Layers side by side, which
    mostly read the same (queries, keys and values; gate and up), share the first of the two products.
    """

    def __init__(self, model: nn.Module) -> None:
        """Takes the model with its adapter on."""
        self._groups: list[_Group] = []
        for parent in model.modules():
            side_by_side: dict[int, list[LoraLinear]] = defaultdict(list)
            for module in parent.children():
                if is_plain_lora(module):
                    side_by_side[module.in_features].append(module)
            self._groups += map(_Group, side_by_side.values())

    def update(self) -> None:
        """Takes the adapter's weights as they are now."""
        for group in self._groups:
            group.update()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within it the layers run with the copies."""
        try:
            with replaced_forwards(pair for group in self._groups for pair in group.forwards()):
                yield
        finally:
            for group in self._groups:
                group.forget()


class _Group:
    """Layers side by side that read vectors of one size."""

    def __init__(self, modules: Sequence[LoraLinear]) -> None:
        self._modules = modules
        self._adapters = [module.active_adapters[0] for module in modules]
        self._ranks = [m.lora_A[a].weight.shape[0] for m, a in zip(modules, self._adapters, strict=True)]
        like = modules[0].base_layer.weight
        self._down = like.new_empty(sum(self._ranks), modules[0].in_features)  # all of the group's, [ranks, in]
        self._up = [like.new_empty(r, m.out_features) for m, r in zip(modules, self._ranks, strict=True)]
        self._read: Tensor | None = None
        self._low: tuple[Tensor, ...] = ()  # what each layer makes of what was read last, [rows, rank]

    def update(self) -> None:
        downs = self._down.split(self._ranks)
        for module, adapter, down, up in zip(self._modules, self._adapters, downs, self._up, strict=True):
            down.copy_(module.lora_A[adapter].weight)
            torch.mul(module.lora_B[adapter].weight.detach().T, module.scaling[adapter], out=up)

    def forget(self) -> None:
        self._read, self._low = None, ()

    def forwards(self) -> Iterator[tuple[nn.Module, Callable[[Tensor], Tensor]]]:
        return ((module, partial(self._forward, i)) for i, module in enumerate(self._modules))

    def _forward(self, i: int, x: Tensor) -> Tensor:
        base = self._modules[i].base_layer
        y = functional.linear(x, base.weight, base.bias)
        if self._read is not x:
            self._read = x
            self._low = functional.linear(x, self._down).flatten(0, -2).split(self._ranks, -1)
        y.flatten(0, -2).addmm_(self._low[i], self._up[i])
        return y
