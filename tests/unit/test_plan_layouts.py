"""Memory of one of several processes, by hand: a model of 1000 weights in 4 layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from selfjudge.training.plan.layout import Layout
from selfjudge.training.plan.memory import MemoryPlan, Setup
from selfjudge.training.plan.shape import AdapterShape, ModelShape

# 800 in the layers, 200 each, and 100 each for embeddings and output matrix. Whole at once: two layers.
MODEL = ModelShape(
    parameters=1000, matrices=800, layers=4, hidden=10, intermediate=20, heads=2, kv_heads=2, head_dim=5, vocab=10,
    context=64, tied=False, gated=True, largest=200,
)  # fmt: skip
FULL = Setup(MODEL, None, weight_bytes=4, device="cuda")
# 40 adapter weights on a 16-bit base.
LORA = Setup(MODEL, AdapterShape(40, 1, 1, 1, 1, False), weight_bytes=2, device="cuda")
STEP = {"weights": 4000, "optimiser": 8000, "gradients": 4000, "activations": 500, "logits": 7}
LORA_STEP = {"weights": 2000, "adapter": 160, "optimiser": 320, "gradients": 160, "activations": 500}


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2", "zero3"])
def test_one_process_holds_all(name: Any) -> None:
    plan = MemoryPlan("loss", dict(STEP))  # type: ignore[arg-type]
    assert Layout(name, 1).share(plan, FULL) is plan


@pytest.mark.parametrize(
    ("name", "weights", "optimiser", "gradients"),
    [
        ("ddp", 4000, 8000, 4000 + 4000),  # buckets
        ("fsdp2", 1000 + 400 * 4, 2000, 1000 + 400 * 4),  # a quarter, and two layers whole
        ("zero2", 4000, (8000 + 4000) // 4, 4000),  # a bucket would hold all of them
        ("zero3", 1000 + 400 * 4, (8000 + 4000) // 4, 1000 + 400 * 4),
    ],
)
def test_a_training_step_of_all_weights(name: Any, weights: int, optimiser: int, gradients: int) -> None:
    found = Layout(name, 4).share(MemoryPlan("loss", dict(STEP)), FULL).parts  # type: ignore[arg-type]
    assert found == {**STEP, "weights": weights, "optimiser": optimiser, "gradients": gradients}


@pytest.mark.parametrize("phase", ["sampling", "judging", "reference"])
def test_a_rollout_gathers_the_weights_beside_the_shards(phase: str) -> None:
    rollout = {"weights": 8000, "optimiser": 8000, "KV cache": 9}
    setup = replace(FULL, frozen_copy=True)
    for name, weights, optimiser in (("fsdp2", 4000 + 1000 + 4000, 2000), ("zero3", 4000 + 1000 + 4000, 3000)):
        found = Layout(name, 4).share(MemoryPlan(phase, dict(rollout)), setup).parts  # type: ignore[arg-type]
        assert found == {"weights": weights, "optimiser": optimiser, "KV cache": 9}
    # DDP's buckets stay between the steps.
    found = Layout("ddp", 4).share(MemoryPlan(phase, dict(rollout)), setup).parts  # type: ignore[arg-type]
    assert found == {**rollout, "gradients": 4000}


def test_lora() -> None:
    found = Layout("fsdp2", 2).share(MemoryPlan("loss", dict(LORA_STEP)), LORA).parts  # type: ignore[arg-type]
    # Two layers of four and some: 400 of 1000 weights, 64 of the adapter's 160 bytes.
    assert found == {**LORA_STEP, "weights": 1000 + 800, "adapter": 80 + 64, "optimiser": 160, "gradients": 80 + 64}
    rollout = {"weights": 2000, "adapter": 160, "optimiser": 320}
    found = Layout("fsdp2", 2).share(MemoryPlan("sampling", dict(rollout)), LORA).parts  # type: ignore[arg-type]
    assert found == {"weights": 1000 + 2000, "adapter": 80 + 160, "optimiser": 160}


def test_a_large_vocabulary_is_whole_beside_a_layer() -> None:
    wide = replace(FULL, model=replace(MODEL, vocab=30))  # an output matrix of 300
    found = Layout("fsdp2", 4).share(MemoryPlan("loss", dict(STEP)), wide).parts  # type: ignore[arg-type]
    assert found["weights"] == 1000 + (200 + 300) * 4
