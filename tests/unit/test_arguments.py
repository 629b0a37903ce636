"""A recipe's ``training`` part becomes transformers.TrainingArguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments
from trl import DPOConfig, RewardConfig, RLOOConfig, SFTConfig

from selfjudge.baselines.dpo import dpo_arguments
from selfjudge.baselines.parts import total_steps
from selfjudge.baselines.rlhf import rloo_arguments
from selfjudge.errors import RecipeError
from selfjudge.recipes.load import load_recipe, shipped_recipes
from selfjudge.training.arguments import training_arguments


def arguments(tmp_path: Path, **values: Any) -> TrainingArguments:
    return training_arguments("jsft", {"use_cpu": True, **values}, tmp_path, seed=7)


def test_our_defaults_and_the_recipes_own(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    assert isinstance(args, TrainingArguments)
    assert (args.seed, args.output_dir, args.remove_unused_columns) == (7, str(tmp_path), False)
    assert args.report_to == []  # nothing is sent anywhere
    assert args.save_total_limit == 2
    args = arguments(tmp_path, save_total_limit=3, learning_rate=1e-4, report_to=[])
    assert (args.save_total_limit, args.learning_rate) == (3, 1e-4)


def test_an_unknown_name_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"unknown key 'jsft\.training\.learning_rte'; did you mean 'learning_rate'\?"
    ):
        arguments(tmp_path, learning_rte=1e-4)
    with pytest.raises(RecipeError, match=r"jsft\.training\.zzzz'; see transformers\.TrainingArguments"):
        arguments(tmp_path, zzzz=1)


@pytest.mark.parametrize("name", ["output_dir", "seed", "remove_unused_columns", "push_to_hub"])
def test_what_the_run_sets_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match=rf"jsft\.training\.{name} is set by the run itself"):
        arguments(tmp_path, **{name: "x"})


@pytest.mark.parametrize("values", [{"lr_scheduler_type": "zigzag"}, {"save_strategy": "sometimes"}])
def test_a_refused_value_is_a_recipe_error(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"jsft\.training: .*(zigzag|sometimes)"):
        arguments(tmp_path, **values)


@pytest.mark.parametrize("name", ["gradient_checkpointing", "activation_checkpointing"])
def test_both_names_of_checkpointing_work(tmp_path: Path, name: str) -> None:
    args = arguments(tmp_path, **{name: True, f"{name}_kwargs": {"use_reentrant": False}})
    known = "activation_checkpointing" if hasattr(args, "activation_checkpointing") else "gradient_checkpointing"
    assert getattr(args, known) is True
    assert getattr(args, f"{known}_kwargs") == {"use_reentrant": False}


@pytest.mark.parametrize("stage", ["jsft", "self_training"])
@pytest.mark.parametrize("name", shipped_recipes())
def test_the_training_parts_of_shipped_recipes_are_accepted(tmp_path: Path, name: str, stage: str) -> None:
    values = dict(getattr(load_recipe(name), stage).training)
    if not torch.cuda.is_available():
        values = {k: v for k, v in values.items() if k not in ("bf16", "tf32")}  # refused without a GPU
    args = training_arguments(stage, values, tmp_path, seed=0)
    assert args.learning_rate == values["learning_rate"]
    assert args.per_device_train_batch_size == values["per_device_train_batch_size"]


@pytest.mark.parametrize("kind", [SFTConfig, DPOConfig, RewardConfig, RLOOConfig])
def test_the_same_defaults_for_the_configurations_of_trl(tmp_path: Path, kind: type[TrainingArguments]) -> None:
    args = training_arguments("baselines.x", {"use_cpu": True}, tmp_path, 7, kind)
    assert isinstance(args, kind)
    assert (args.seed, args.report_to, args.push_to_hub) == (7, [], False)
    # TRL has both on by default.
    assert not args.bf16
    assert not args.gradient_checkpointing
    args = training_arguments("baselines.x", {"use_cpu": True, "gradient_checkpointing": True}, tmp_path, 7, kind)
    assert args.gradient_checkpointing
    with pytest.raises(RecipeError, match=rf"'baselines\.x\.training\.zzzz'; see trl\.{kind.__name__}"):
        training_arguments("baselines.x", {"zzzz": 1}, tmp_path, 7, kind)


def test_what_a_method_sets_is_set_and_refused(tmp_path: Path) -> None:
    args = training_arguments("baselines.dpo", {"use_cpu": True}, tmp_path, 7, DPOConfig, beta=0.3)
    assert args.beta == 0.3
    with pytest.raises(RecipeError, match=r"baselines\.dpo\.training\.beta is set by the run itself"):
        training_arguments("baselines.dpo", {"beta": 0.3}, tmp_path, 7, DPOConfig, beta=0.3)


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_baselines_of_shipped_recipes_take_as_many_steps_as_self_training(tmp_path: Path, name: str) -> None:
    recipe = load_recipe(name)
    recipe.self_training.training.pop("bf16", None)  # refused without a GPU
    recipe.self_training.training["use_cpu"] = True
    own = training_arguments("self_training", recipe.self_training.training, tmp_path, seed=0)
    dpo = dpo_arguments(recipe, "dpo", recipe.baselines.dpo, tmp_path)
    rloo = rloo_arguments(recipe, tmp_path)
    assert total_steps(dpo, 1000) == total_steps(own, 1000) == total_steps(rloo, 2 * 1000)
    assert dpo.per_device_train_batch_size == own.per_device_train_batch_size
    assert rloo.per_device_train_batch_size == 2 * own.per_device_train_batch_size
    for args, section in ((rloo, recipe.baselines.rlhf), (dpo, recipe.baselines.dpo)):
        assert args.learning_rate == section.training.get("learning_rate", own.learning_rate)
