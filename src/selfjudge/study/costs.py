"""What a method costs beside time: models held in memory, samples drawn, judgments made."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from selfjudge.recipes.schema import Recipe
from selfjudge.recipes.study import CellSection


class Costs(BaseModel):
    """``models``: how many sets of weights of the model's size training holds (policy, reference, judge, reward model).

    ``samples``: responses drawn in training. ``judgments``: prompts put to a judge, or responses to a reward model.
    """

    model_config = ConfigDict(frozen=True)

    models: int
    samples: int
    judgments: int


def costs(section: CellSection, recipe: Recipe, info: dict[str, Any], principles: int) -> Costs:
    """Returns the costs of a finished run, by its run.json ``info``; each follows from what the method does.

    Pairs left out before judging (equal texts, lengths) are counted: they would be judged with other samples.
    """
    method = section.method
    prompts_a_step = _prompts_a_step(recipe)
    frozen = int(recipe.self_training.lora is None)  # with LoRA the base weights are the reference
    rollout = recipe.self_training.rollout
    if method in ("jsft", "sft", "reward-model"):
        return Costs(models=1, samples=0, judgments=0)
    if method == "dpo":
        return Costs(models=1 + frozen, samples=0, judgments=0)
    steps = int(info["steps"])
    if method in ("train", "offline", "off-policy"):
        seen = -(-steps // rollout.steps) * rollout.steps * prompts_a_step
        n = 2 if method == "offline" else rollout.samples
        judgments = seen * n * (n - 1) // 2 * 2 * principles
        asked = {"train": seen, "offline": 0, "off-policy": int(info.get("prompts", 0))}[method]
        own = 0 if method == "train" else seen // 4  # prompts that the policy answers twice, for the stop rule to see
        return Costs(models=1 + frozen, samples=asked * n + 2 * own, judgments=judgments + 2 * own * principles)
    if method == "rlhf":
        return Costs(models=2 + frozen, samples=2 * steps * prompts_a_step, judgments=2 * steps * prompts_a_step)
    if method == "rso":
        drawn = int(info["prompts"]) * recipe.baselines.rso.candidates
        return Costs(models=1 + frozen, samples=drawn, judgments=drawn)
    candidates = recipe.baselines.raft.candidates if method == "raft" else recipe.baselines.rest.candidates
    drawn = steps * prompts_a_step * candidates
    return Costs(models=2, samples=drawn, judgments=drawn)


def _prompts_a_step(recipe: Recipe) -> int:
    training = recipe.self_training.training
    return int(training.get("per_device_train_batch_size", 8)) * int(training.get("gradient_accumulation_steps", 1))
