"""Training on a GPU: checkpointed activations, step 1 in bfloat16, and a run that is cut off and resumed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu.tiny import DEVICE, grouped_query_model, needs_device, recipe, save_model_folder
from invariant.test_resume import lines, resumed
from torch.nn.attention import SDPBackend, sdpa_kernel

from selfjudge.benchmarks.inputs import generated_prompts
from selfjudge.engines.load import load_model
from selfjudge.recipes.schema import Recipe
from selfjudge.training.arguments import training_arguments
from selfjudge.training.assembly import self_judge_trainer
from selfjudge.training.jsft import run_jsft
from selfjudge.training.jsft_trainer import JsftTrainer
from selfjudge.training.pairing import RolloutPrompt
from selfjudge.training.rollout import RolloutCollector
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.self_judge_trainer import SelfJudgeTrainer
from selfjudge.training.self_training import run_self_training

needs_device()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model_folder(tmp_path_factory.mktemp("tiny") / "model")


def by_hand(folder: Path, model: Path, dtype: torch.dtype) -> SelfJudgeTrainer:
    """A trainer whose steps the test takes itself."""
    made = recipe(model, {"save_strategy": "no"})
    loaded = grouped_query_model(dtype)
    prompts = [
        RolloutPrompt(str(i), prompt, tuple(loaded.chat.prompt_ids(prompt)))
        for i, prompt in enumerate(generated_prompts(8))
    ]
    args = training_arguments("self_training", made.self_training.training, folder / "checkpoints", 0)
    return self_judge_trainer(made, loaded, args, prompts, RunFolder(folder, "train", {}))


def gradients(trainer: SelfJudgeTrainer, batches: list[dict[str, Any]], items: torch.Tensor) -> torch.Tensor:
    """The loss, then the adapter's gradients, of a step."""
    trainer.model.zero_grad()
    loss = sum(trainer.training_step(trainer.model, dict(batch), items) for batch in batches)
    found = [p.grad.flatten().float() for p in trainer.model.parameters() if p.grad is not None]
    return torch.cat([loss.reshape(1).float(), *found]).cpu()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_checkpointed_activations_change_nothing(tmp_path: Path, model_folder: Path, dtype: torch.dtype) -> None:
    trainer = by_hand(tmp_path, model_folder, dtype)
    with torch.no_grad():  # gradients of a new adapter's A are 0
        for name, weight in trainer.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    loader = iter(trainer.get_train_dataloader())
    batches, items = trainer.get_batch_samples(loader, 1, trainer.args.device)
    base, forwards = trainer.model.get_base_model(), []
    base.model.layers[0].mlp.register_forward_pre_hook(lambda *args: forwards.append(1))
    plain = gradients(trainer, batches, items)
    once = len(forwards)
    name = "activation_checkpointing_enable"
    getattr(trainer.model, name if hasattr(trainer.model, name) else "gradient_checkpointing_enable")()
    checkpointed = gradients(trainer, batches, items)
    assert len(forwards) == 3 * once  # the backward ran the layer once more
    assert float(plain[0]) > 0.01
    assert float(plain[1:].norm()) > 1e-3
    tolerance = 1e-4 if dtype == torch.float32 else 0.02
    assert float((plain - checkpointed).norm() / plain.norm()) < tolerance
    assert float(plain[0]) == pytest.approx(float(checkpointed[0]), rel=tolerance)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_step_one_in_bfloat16(tmp_path: Path, model_folder: Path, checkpointing: bool) -> None:
    training = {
        "bf16": True,
        "max_steps": 4,
        "learning_rate": 1e-3,
        "save_strategy": "no",
        "gradient_checkpointing": checkpointing,
    }
    made = recipe(model_folder, training, dtype="bfloat16")
    run = run_self_training(made, tmp_path / "train")
    rows = [row for row in lines(run, "metrics.jsonl") if "loss" in row]
    assert len(rows) == 4
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"]) for row in rows)
    # Nothing was trained: policy and reference are one.
    assert abs(rows[0]["kl"]) < 1e-6
    assert rows[0]["rewards/margins"] == pytest.approx(0, abs=1e-3)
    assert rows[0]["grad_norm"] > 0
    assert rows[-1]["kl"] > 0


def test_jsft_in_bfloat16(tmp_path: Path, model_folder: Path) -> None:
    training = {"bf16": True, "max_steps": 12, "learning_rate": 1e-2, "save_strategy": "no"}
    run = run_jsft(recipe(model_folder, training, dtype="float32"), tmp_path / "jsft")
    losses = [row["loss"] for row in lines(run, "metrics.jsonl") if "loss" in row]
    assert len(losses) == 12
    assert all(map(math.isfinite, losses))
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


@pytest.mark.parametrize(
    ("stage", "owner", "method"),
    [(run_jsft, JsftTrainer, "compute_loss"), (run_self_training, RolloutCollector, "collect")],
    ids=["jsft", "self-training"],
)
def test_a_run_that_was_cut_off_ends_as_the_whole_one(
    tmp_path: Path, model_folder: Path, stage: Callable[..., RunFolder], owner: type, method: str
) -> None:
    training = {"max_steps": 5, "save_steps": 2, "learning_rate": 1e-2}
    # With LoRA, dropout draws from the device's random state, which a checkpoint has to keep.
    made = recipe(model_folder, training, dtype="float32", lora={"r": 4, "dropout": 0.1})
    # The other kernels add up gradients in an order that changes from call to call.
    with sdpa_kernel(SDPBackend.MATH):
        whole = stage(made, tmp_path / "whole")
        run = resumed(stage, made, tmp_path / "cut", owner, method, 4)  # from the checkpoint of step 2
    assert run.info["steps"] == whole.info["steps"] == 5
    ended, expected, start = (weights(folder, made) for folder in (run.model, whole.model, model_folder))
    assert float((expected - start).abs().max()) > 1e-3
    # On a CPU they are equal; a GPU may add up in another order, and a flipped sample would show far above this.
    assert float((ended - expected).abs().max()) < (1e-6 if DEVICE == "cpu" else 1e-4)


def weights(folder: Path, made: Recipe) -> torch.Tensor:
    model = load_model(folder, dtype=made.model.dtype, device="cpu").model
    return torch.cat([p.detach().flatten() for p in model.parameters()])
