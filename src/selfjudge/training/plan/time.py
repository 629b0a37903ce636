"""Seconds of each phase, from FLOPs and bytes. Rough by nature: the efficiency is an assumption.

A forward takes 2 FLOPs for each weight of a matrix and token, and 4 x length x query features in the attention of each
token and layer. Training all weights takes 3 forwards (backward: gradients of inputs and of weights), with LoRA 2 (a
frozen weight needs no gradient); activation checkpointing adds one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from selfjudge.training.plan.hardware import BANDWIDTH_EFFICIENCY, COMPUTE_EFFICIENCY, Hardware
from selfjudge.training.plan.memory import Setup, kv_cache_bytes
from selfjudge.training.plan.shape import ModelShape


@dataclass(frozen=True)
class TimePlan:
    """Seconds of an optimisation step by phase, and the number of steps; None where the data are not known."""

    phases: dict[str, float] = field(default_factory=dict)
    steps: int | None = None

    @property
    def per_step(self) -> float:
        """Seconds of an optimisation step."""
        return sum(self.phases.values())

    @property
    def total(self) -> float | None:
        """Seconds of the stage, without loading and saving."""
        return None if self.steps is None else self.steps * self.per_step


def forward_flops(model: ModelShape, tokens: float, length: float, logits: float) -> float:
    """Returns the FLOPs of a forward: ``tokens`` in rows of ``length``, ``logits`` of them with logits."""
    attention = 4 * model.layers * model.query * tokens * length
    return 2 * model.matrices * tokens + attention + 2 * model.output * logits


def forward_seconds(setup: Setup, hardware: Hardware, tokens: float, length: float, logits: float) -> float:
    """Returns the seconds of a forward, at the speed of the dtype that it computes in."""
    peak = hardware.flops_16 if setup.compute_bytes == 2 else hardware.flops_32
    return forward_flops(setup.model, tokens, length, logits) / (peak * COMPUTE_EFFICIENCY)


def training_seconds(setup: Setup, hardware: Hardware, tokens: float, length: float, logits: float) -> float:
    """Returns the seconds of forward and backward of a step's tokens, and of AdamW.

    AdamW reads weight, gradient and two moments and writes all but the gradient: seven times the trained weights.
    """
    passes = (3 if setup.adapter is None else 2) + setup.checkpointing
    adamw = 7 * setup.trainable * setup.trainable_bytes / (hardware.bandwidth * BANDWIDTH_EFFICIENCY)
    return passes * forward_seconds(setup, hardware, tokens, length, logits) + adamw


def generating_seconds(
    setup: Setup, hardware: Hardware, *, prompts: int, at_once: int, prompt: float, new: int
) -> float:
    """Returns the seconds of sampling two answers of ``new`` tokens for each prompt, ``at_once`` prompts a batch.

    A token's step takes as long as reading weights and half-grown cache, computing, or launching the layers, whichever
    is longest. A batch runs until its longest answer ends: ``new`` steps.
    """
    batches = -(-prompts // at_once)
    rows = 2 * prompts / batches
    length = prompt + new / 2
    read = setup.model.parameters * setup.compute_bytes + kv_cache_bytes(setup, 1, 1) * rows * length
    step = max(
        read / (hardware.bandwidth * BANDWIDTH_EFFICIENCY),
        forward_seconds(setup, hardware, rows, length, rows),
        setup.model.layers * hardware.launch,
    )
    return batches * (forward_seconds(setup, hardware, rows * prompt, prompt, rows) + new * step)
