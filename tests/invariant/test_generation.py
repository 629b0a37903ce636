"""Generation inside training: with a KV cache, in eval mode, and back in training mode afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from selfjudge.data.load import prepare_data
from selfjudge.engines.load import load_model
from selfjudge.engines.sampling_way import sampling_way
from selfjudge.recipes.schema import Recipe
from selfjudge.training.arguments import training_arguments
from selfjudge.training.assembly import self_judge_trainer
from selfjudge.training.pair_source import rollout_prompts
from selfjudge.training.rollout import Rollout
from selfjudge.training.run_folder import RunFolder


@dataclass(frozen=True)
class Call:
    """One forward pass: within sampling or not, in training mode or not, with a cache or not, and how many tokens of
    each row it was given.
    """

    sampling: bool
    training: bool
    cache: bool
    tokens: int


@pytest.mark.parametrize("name", ["activation_checkpointing", "gradient_checkpointing"])
@pytest.mark.parametrize("lora", [None, {"r": 2, "dropout": 0.1}], ids=["full", "lora"])
def test_a_cache_also_with_activation_checkpointing(
    tmp_path: Path, tiny_recipe: Callable[..., Recipe], lora: dict[str, Any] | None, name: str
) -> None:
    training = {"max_steps": 3, name: True, "save_strategy": "no"}
    recipe = tiny_recipe(24, self_training={"lora": lora, "training": training})
    loaded = load_model(recipe.model.path, dtype="float32")
    sampling_way(loaded.model)  # as the stage does before it makes a run folder
    args = training_arguments("self_training", recipe.self_training.training, tmp_path / "c", 0)
    prompts, _ = rollout_prompts(recipe, prepare_data(recipe.data, 0), loaded)
    trainer = self_judge_trainer(recipe, loaded, args, prompts, RunFolder.open(tmp_path / "r", "train", recipe))
    policy, calls, checkpointed, modes, within = loaded.model, [], [], [], []

    def record(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        calls.append(Call(bool(within), module.training, bool(kwargs.get("use_cache")), kwargs["input_ids"].shape[1]))

    def count_layer(module: Any, args: Any) -> None:
        if policy.training:
            checkpointed.append(1)

    policy.register_forward_pre_hook(record, with_kwargs=True)
    policy.model.layers[0].mlp.register_forward_pre_hook(count_layer)
    collect, fill = trainer._collector.collect, trainer._fill

    def collect_and_look(*args: Any) -> Rollout:
        rollout = collect(*args)
        assert rollout.pairs
        return rollout

    def fill_and_look(*args: Any) -> None:
        before = policy.training
        fill(*args)
        modes.append((before, policy.training, all(m.training for m in policy.modules())))

    sample = trainer._collector.policy.sample

    def sample_and_tell(*args: Any) -> Any:
        within.append(1)
        completions = sample(*args)
        within.clear()
        return completions

    object.__setattr__(trainer._collector, "collect", collect_and_look)
    trainer._fill = fill_and_look
    trainer._collector.policy.sample = sample_and_tell
    trainer.train()

    calls = [c for c in calls if c.sampling or c.tokens > 1]  # the model's head was tried on one token
    optimised = [c for c in calls if c.training]
    assert len(optimised) == 3
    assert not any(c.cache for c in optimised)
    # With checkpointing on, backward runs every layer of a training pass again.
    assert len(checkpointed) == 2 * len(optimised)
    cached = [c for c in calls if c.sampling]
    assert all(c.cache for c in cached)
    assert not any(c.training for c in cached)
    starts = [i for i, c in enumerate(cached) if c.tokens > 1]
    assert len(starts) == 3  # one generation a step: the whole prompt first
    assert starts[0] == 0
    assert len(cached) > 3 * 4
    assert all(c.tokens == 1 for i, c in enumerate(cached) if i not in starts)
    # Neither optimised nor generated: the KL of each rollout, and with LoRA judging and reference log-probs.
    rest = [c for c in calls if not c.training and not c.sampling]
    assert len(rest) == 3 if lora is None else len(rest) >= 3 * 3
    # The Trainer switches to training mode with the first step; from then on every rollout has to come back to it.
    assert modes == [(False, False, False), (True, True, True), (True, True, True)]
