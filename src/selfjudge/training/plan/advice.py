"""Which settings would make a stage fit, by trying them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from selfjudge.errors import RecipeError
from selfjudge.recipes.schema import Recipe
from selfjudge.training.plan.stages import Facts, StageName, StagePlan, plan_stage, token_budget

_WORTH = 0.01
"""A change that saves less than this share is not worth a line."""

Change = dict[str, Any]
"""Dotted key → value."""
_SAME_RESULT = ("per_device_train_batch_size", "gradient_checkpointing", "token_budget", "attn_implementation")
"""What a key may hold that changes memory and time, but not what is trained."""


@dataclass(frozen=True)
class Advice:
    """One change of settings, as ``--set`` takes it, and the stage's peak (bytes) with this change alone."""

    change: Change
    peak: int

    def __str__(self) -> str:
        """The change as the command line takes it."""
        return " ".join(f"--set {key}={str(value).lower()}" for key, value in self.change.items())


def advise(recipe: Recipe, plan: StagePlan, facts: Facts, limit: int) -> tuple[list[Advice], Advice | None]:
    """Returns the changes that save memory, most first, and a set of them whose peak is within ``limit`` bytes.

    The second is None if all together do not fit. Published results depend on some of these settings; none is changed
    by itself.
    """
    now = plan.peak.total
    tried = [
        (change, _peak(recipe, change, plan.stage, facts)) for change in _changes(recipe, plan.stage, limit, facts)
    ]
    worth = [Advice(change, peak) for change, peak in tried if peak is not None and peak < now * (1 - _WORTH)]
    worth.sort(key=lambda advice: advice.peak)
    return worth, _together(recipe, plan.stage, facts, limit)


def _together(recipe: Recipe, stage: StageName, facts: Facts, limit: int) -> Advice | None:
    """Takes the change that saves most, again and again, until it fits; those that keep the result the same first."""
    taken: Change = {}
    now = plan_stage(recipe, stage, facts).peak.total
    while now > limit:
        current = _changed(recipe, taken)
        tried = [
            ({**taken, **c}, _peak(recipe, {**taken, **c}, stage, facts))
            for c in _changes(current, stage, limit, facts)
        ]
        smaller = [(change, peak) for change, peak in tried if peak is not None and peak < now * (1 - _WORTH)]
        harmless = [(change, peak) for change, peak in smaller if _same_result({*change} - {*taken})]
        if not smaller:
            return None
        taken, now = min(harmless or smaller, key=lambda tried: tried[1])
    return Advice(taken, now)


def _changes(recipe: Recipe, stage: StageName, limit: int, facts: Facts) -> list[Change]:
    """Every change that could help the stage, each with the mildest value that fits, else the strongest."""
    section = getattr(recipe, stage)
    changes: list[Change] = []
    size = section.training.get("per_device_train_batch_size", 8)
    accumulation = section.training.get("gradient_accumulation_steps", 1)
    batch = f"{stage}.training.per_device_train_batch_size"
    smaller = [
        {batch: n, f"{stage}.training.gradient_accumulation_steps": accumulation * size // n}
        for n in _halves(size, 1)
        if accumulation * size % n == 0
    ]
    options: list[list[Change]] = [smaller]
    if not _checkpointed(section.training):
        options.append([{f"{stage}.training.gradient_checkpointing": True}])
    if section.lora is None:
        options.append([{f"{stage}.lora.r": 16, f"{stage}.lora.alpha": 32}])
    options.append([{"data.max_length": n} for n in _halves(recipe.data.max_length, 256)])
    if stage == "self_training":
        options.append([{"judge.token_budget": n} for n in _halves(token_budget(recipe), 1024)])
        options.append(
            [{"self_training.rollout.max_new_tokens": n} for n in _halves(section.rollout.max_new_tokens, 128)]
        )
    if not (section.training.get("bf16") or section.training.get("fp16")) and facts.hardware.kind == "cuda":
        options.append([{f"{stage}.training.bf16": True}])
    if recipe.model.attn_implementation == "eager":
        options.append([{"model.attn_implementation": "sdpa"}])
    for values in filter(None, options):
        changes.append(next((v for v in values if _fits(recipe, v, stage, facts, limit)), values[-1]))
    return changes


def _same_result(keys: set[str]) -> bool:
    return any(key.endswith(_SAME_RESULT) for key in keys)


def _halves(value: int, least: int) -> list[int]:
    """value / 2, / 4 and so on, down to ``least``."""
    halves = []
    while value // 2 >= least:
        value //= 2
        halves.append(value)
    return halves


def _checkpointed(training: dict[str, Any]) -> bool:
    return bool(training.get("gradient_checkpointing") or training.get("activation_checkpointing"))


def _fits(recipe: Recipe, change: Change, stage: StageName, facts: Facts, limit: int) -> bool:
    peak = _peak(recipe, change, stage, facts)
    return peak is not None and peak <= limit


def _peak(recipe: Recipe, change: Change, stage: StageName, facts: Facts) -> int | None:
    """The stage's peak under a change, or None for settings that the stage refuses."""
    try:
        return plan_stage(_changed(recipe, change), stage, facts).peak.total
    except RecipeError:
        return None


def _changed(recipe: Recipe, change: Change) -> Recipe:
    raw = recipe.model_dump()
    for key, value in change.items():
        *parents, last = key.split(".")
        place = raw
        for part in parents:
            place[part] = place[part] or {}
            place = place[part]
        place[last] = value
    return Recipe.model_validate(raw)
