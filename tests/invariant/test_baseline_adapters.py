"""Baselines put LoRA adapters where the other stages put them, or one sentence says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import tiny_model

from selfjudge.baselines.run import run_baseline
from selfjudge.engines.load import load_model, load_tokenizer
from selfjudge.errors import RecipeError
from selfjudge.recipes.comparison import Baseline
from selfjudge.recipes.schema import Recipe

STEPS = {"max_steps": 2, "learning_rate": 1e-2, "save_strategy": "no"}


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Recipe], reward_folder: Path) -> Callable[..., Recipe]:
    """Makes recipes whose base and SFT model is the one in a folder, with a LoRA section."""

    def make(folder: Path, **lora: Any) -> Recipe:
        made = tiny_recipe(24, **{stage: {"lora": lora, "training": STEPS} for stage in ("jsft", "self_training")})
        sections = {"start": str(folder), "reward": str(reward_folder), "raft": {"rounds": 2, "candidates": 2}}
        model = {**made.model.model_dump(), "path": str(folder)}
        return Recipe.model_validate({**made.model_dump(), "model": model, "baselines": sections})

    return make


@pytest.mark.parametrize("method", ["sft", "dpo", "rso", "raft", "rest", "rlhf", "reward-model"])
def test_an_adapter_that_trl_would_not_train(
    tmp_path: Path, recipe: Callable[..., Recipe], tiny_model_folder: Path, method: Baseline
) -> None:
    made = recipe(tiny_model_folder, r=2, target_modules=["lm_head"])
    with pytest.raises(RecipeError, match=r"^lora\.target_modules: ") as said:
        run_baseline(method, made, tmp_path / "run")
    assert "\n" not in str(said.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["sft", "dpo", "raft"])
def test_an_adapter_on_all_layers_that_take_one(
    tmp_path: Path, recipe: Callable[..., Recipe], tiny_model_folder: Path, method: Baseline
) -> None:
    chat = load_tokenizer(tiny_model_folder)
    chat.tokenizer.save_pretrained(tmp_path / "mamba")
    tiny_model("falcon_mamba", len(chat.tokenizer)).save_pretrained(tmp_path / "mamba")
    run = run_baseline(method, recipe(tmp_path / "mamba", r=2, dropout=0.0), tmp_path / "run")
    before = load_model(tmp_path / "mamba").model.state_dict()
    changed = {n for n, weight in load_model(run.path).model.state_dict().items() if not torch.equal(weight, before[n])}
    assert {name.split(".")[-2] for name in changed} == {"in_proj"}
