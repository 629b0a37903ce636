"""What one of several processes holds: the parts of a plan, shared out as DDP, FSDP2 and ZeRO do.

With n processes, and T the bytes of all gradients:

- ddp: everything on each, and the buckets in which gradients are summed: T once more, from the first backward on.
- fsdp2: weights, adapter, optimiser and gradients / n. In training the layer at work and the one gathered ahead are
  whole (or the output matrix and a layer, whichever is more), and so are their gradients. For a rollout all weights are
  whole, beside the shards. The frozen copy is not sharded.
- zero2: optimiser and gradients / n; a float32 master copy of what is trained is part of the optimiser; and a bucket
  of gradients.
- zero3: as fsdp2, with ZeRO's master copy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from selfjudge.training.plan.memory import FLOAT32, MemoryPlan, Part, Setup

LayoutName = Literal["ddp", "fsdp2", "zero2", "zero3"]
LAYOUTS: tuple[LayoutName, ...] = ("ddp", "fsdp2", "zero2", "zero3")
BUCKET = 500_000_000
"""Gradients in DeepSpeed's bucket at most (its default reduce_bucket_size)."""
_ROLLOUT = ("sampling", "judging", "reference")


@dataclass(frozen=True)
class Layout:
    """How many processes there are, and what each of them holds."""

    name: LayoutName = "ddp"
    processes: int = 1

    def share(self, plan: MemoryPlan, setup: Setup) -> MemoryPlan:
        """Returns what each process needs of a phase that was planned for one alone."""
        if self.processes == 1:
            return plan
        parts: dict[Part, int] = dict(plan.parts)
        all_gradients = setup.trainable * setup.trainable_bytes
        if self.name == "ddp":
            parts["gradients"] = parts.get("gradients", 0) + all_gradients
            return replace(plan, parts=parts)
        master = FLOAT32 * setup.trainable if self.name.startswith("zero") else 0
        parts["optimiser"] = (parts["optimiser"] + master) // self.processes
        units = _at_work(setup)
        in_training = plan.phase not in _ROLLOUT
        if "gradients" in parts:
            whole = all_gradients * units // setup.model.parameters
            if self.name == "zero2":
                whole = min(BUCKET, setup.trainable) * setup.trainable_bytes
            parts["gradients"] = min(parts["gradients"], parts["gradients"] // self.processes + whole)
        if self.name != "zero2":
            trained = setup.model.parameters * setup.weight_bytes
            adapter = parts.get("adapter", 0)
            frozen = parts["weights"] - trained
            at_work = units * setup.weight_bytes if in_training else trained
            parts["weights"] = frozen + trained // self.processes + at_work
            if adapter:
                lent = adapter * units // setup.model.parameters if in_training else adapter
                parts["adapter"] = adapter // self.processes + lent
        return replace(plan, parts=parts)


def _at_work(setup: Setup) -> int:
    """Weights that are whole at once in training: two layers, or one and the output matrix."""
    layer = setup.model.matrices // setup.model.layers
    return min(setup.model.parameters, layer + max(layer, setup.model.output))
