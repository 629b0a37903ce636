"""The plan of a recipe: both stages, memory and time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedConfig

from selfjudge.errors import RecipeError
from selfjudge.recipes.schema import LoraSection, Recipe
from selfjudge.recipes.section import BUILTIN_WORLD
from selfjudge.training.arguments import training_arguments
from selfjudge.training.plan.hardware import Hardware
from selfjudge.training.plan.layout import Layout
from selfjudge.training.plan.memory import (
    Batch,
    MemoryPlan,
    Setup,
    judging_phase,
    peak,
    reference_phase,
    sampling_phase,
    training_phases,
)
from selfjudge.training.plan.shape import (
    AdapterShape,
    ModelShape,
    adapter_shape,
    meta_model,
    model_shape,
    read_config,
)
from selfjudge.training.plan.time import TimePlan, forward_seconds, generating_seconds, training_seconds
from selfjudge.training.plan.workload import Data, JsftLoad, jsft_load, prompt_tokens, read_data

StageName = Literal["jsft", "self_training"]
# What depends on the machine that trains, not on the one that plans.
_MACHINE = ("bf16", "fp16", "tf32", "bf16_full_eval", "fp16_full_eval")


@dataclass(frozen=True)
class StagePlan:
    """The plan of one stage: the memory of each phase, and the time of a step and in total."""

    stage: StageName
    memory: tuple[MemoryPlan, ...]
    time: TimePlan

    @property
    def peak(self) -> MemoryPlan:
        """The phase that needs most."""
        return peak(list(self.memory))


@dataclass
class Facts:
    """What a plan rests on and settings do not change: the model's sizes, the data, the device and the processes."""

    config: PreTrainedConfig
    model: ModelShape
    data: Data
    hardware: Hardware
    layout: Layout = field(default_factory=Layout)
    adapters: dict[str, AdapterShape] = field(default_factory=dict)

    def adapter(self, lora: LoraSection | None) -> AdapterShape | None:
        """Returns the sizes of an adapter on this model; peft's injection runs once for each."""
        if lora is None:
            return None
        key = lora.model_dump_json()
        if key not in self.adapters:
            self.adapters[key] = adapter_shape(meta_model(self.config), lora)
        return self.adapters[key]


def read_facts(recipe: Recipe, hardware: Hardware, tokens: int | None = None, records: int | None = None) -> Facts:
    """Reads the config of the recipe's model, and its data where they are cheap to read.

    Raises:
        SelfJudgeError: for a model that cannot be read, or templates or data that cannot.
    """
    config = read_config(recipe.model.path)
    model = model_shape(meta_model(config))
    return Facts(config, model, read_data(recipe, model.context, tokens, records), hardware)


def plan_stage(recipe: Recipe, stage: StageName, facts: Facts) -> StagePlan:
    """Returns the plan of a stage.

    Raises:
        RecipeError: for settings that the stage would refuse.
    """
    return _plan_jsft(recipe, facts) if stage == "jsft" else _plan_self_training(recipe, facts)


def _plan_jsft(recipe: Recipe, facts: Facts) -> StagePlan:
    args = _arguments("jsft", recipe.jsft.training)
    setup = _setup(recipe, "jsft", recipe.jsft.lora, args, facts)
    size, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
    load = jsft_load(recipe, facts.data, facts.model.context, size)
    per_step = size * accumulation
    seconds = {"training": _jsft_seconds(setup, facts.hardware, load, per_step)}
    time = TimePlan(seconds, _steps(args, load.examples, per_step * facts.layout.processes))
    return StagePlan("jsft", tuple(facts.layout.share(p, setup) for p in training_phases(setup, load.worst)), time)


def _jsft_seconds(setup: Setup, hardware: Hardware, load: JsftLoad, examples: int) -> float:
    return training_seconds(
        setup,
        hardware,
        tokens=examples * load.tokens,
        length=load.tokens / load.rows,
        logits=examples * load.targets,
    )


def _plan_self_training(recipe: Recipe, facts: Facts) -> StagePlan:
    section, data = recipe.self_training, facts.data
    args = _arguments("self_training", section.training)
    setup = _setup(recipe, "self_training", section.policy_lora, args, facts)
    size, new = args.per_device_train_batch_size, section.rollout.max_new_tokens
    if new >= min(recipe.data.max_length, facts.model.context):
        raise RecipeError(
            f"self_training.rollout.max_new_tokens={new} leaves no room for a prompt: data.max_length is "
            f"{recipe.data.max_length}, the model takes {facts.model.context}."
        )
    longest, mean = prompt_tokens(recipe, data, facts.model.context)
    per_step = size * args.gradient_accumulation_steps
    rollout = per_step * section.rollout.steps
    at_once = min(rollout, _at_once(recipe, longest + new, 2) // 2)
    judged = min(facts.model.context, longest + 2 * new + data.template)
    asked = min(2 * data.principles * rollout, _at_once(recipe, judged))
    trained, seconds = _responses(2 * size, longest, new), _rollout_seconds(recipe, facts, setup, per_step, mean)
    if section.replay:
        load = jsft_load(recipe, data, facts.model.context, size)
        trained = _beside(trained, load.worst)
        seconds["replay"] = _jsft_seconds(setup, facts.hardware, load, per_step)
    memory = [
        sampling_phase(setup, at_once, 2, longest, new),
        *([] if section.judge.kind == "external" else [judging_phase(setup, Batch(asked, judged, asked))]),
        reference_phase(setup, _responses(min(2 * rollout, _at_once(recipe, longest + new)), longest, new)),
        *training_phases(setup, trained),
    ]
    prompts = None if data.records is None else data.records["prompts"]
    steps = _steps(args, prompts, per_step * facts.layout.processes)
    time = TimePlan(seconds, steps and section.rounds * steps)
    return StagePlan("self_training", tuple(facts.layout.share(p, setup) for p in memory), time)


def _rollout_seconds(recipe: Recipe, facts: Facts, setup: Setup, prompts: int, prompt: float) -> dict[str, float]:
    """Seconds of each phase for ``prompts`` prompts of mean length, all answers as long as they may be."""
    hardware, data, new = facts.hardware, facts.data, recipe.self_training.rollout.max_new_tokens
    judge = replace(setup, autocast=False)  # the frozen model runs in its weights' dtype
    length = prompt + new
    question = min(float(facts.model.context), prompt + 2 * new + data.template)
    questions = 2 * data.principles * prompts
    at_once = min(prompts, _at_once(recipe, math.ceil(length), 2) // 2)
    rows = 2 * prompts
    seconds = {
        "generating": generating_seconds(setup, hardware, prompts=prompts, at_once=at_once, prompt=prompt, new=new),
        "judging": forward_seconds(judge, hardware, questions * question, question, questions),
        "reference": forward_seconds(judge, hardware, rows * length, length, rows * new),
        "training": training_seconds(setup, hardware, rows * length, length, rows * new),
    }
    if recipe.self_training.judge.kind == "external":
        del seconds["judging"]  # how long a server takes is not known here
    return seconds


def token_budget(recipe: Recipe) -> int:
    """Returns the recipe's token budget. An automatic one is halved until it fits, so it is taken to be small."""
    return recipe.judge.token_budget or 8192


def _responses(rows: int, prompt: int, new: int) -> Batch:
    """Prompts and responses of ``prompt`` and ``new`` tokens, padded on the right."""
    return Batch(rows, prompt + new, rows * new, masked=False)


def _beside(batch: Batch, other: Batch) -> Batch:
    """Two batches whose graphs are kept at once, as if padded to one length."""
    length = max(batch.length, other.length)
    return Batch(batch.rows + other.rows, length, batch.targets + other.targets, masked=False)


def _at_once(recipe: Recipe, length: int, group: int = 1) -> int:
    """Rows of ``length`` tokens in a batch under the token budget, in groups that stay together."""
    judge = recipe.judge
    groups = max(1, token_budget(recipe) // (length * group))
    if judge.batch_size is not None:
        groups = min(groups, max(1, judge.batch_size // group))
    return groups * group


def _steps(args: Any, examples: int | None, per_step: int) -> int | None:
    if args.max_steps > 0:
        return int(args.max_steps)
    return None if examples is None else math.ceil(args.num_train_epochs * math.ceil(examples / per_step))


def _arguments(stage: StageName, values: dict[str, Any]) -> Any:
    free = {name: value for name, value in values.items() if name not in _MACHINE}
    return training_arguments(stage, {**free, "use_cpu": True}, Path("unused"), 0)


def _setup(recipe: Recipe, stage: StageName, lora: LoraSection | None, args: Any, facts: Facts) -> Setup:
    training = getattr(recipe, stage).training
    checkpointing = getattr(args, "activation_checkpointing", None) or args.gradient_checkpointing
    return Setup(
        model=facts.model,
        adapter=facts.adapter(lora),
        weight_bytes=_weight_bytes(recipe, lora, facts.hardware),
        device=facts.hardware.kind,
        autocast=bool(training.get("bf16") or training.get("fp16")),
        attention=recipe.model.attn_implementation or "sdpa",
        checkpointing=bool(checkpointing),
        accumulation=args.gradient_accumulation_steps,
        frozen_copy=stage == "self_training" and lora is None,
    )


def _weight_bytes(recipe: Recipe, lora: LoraSection | None, hardware: Hardware) -> int:
    """As the stages load it: float32 for training all weights, on a CPU and for the built-in model, else 16 bit."""
    dtype = recipe.model.dtype
    if recipe.model.path == BUILTIN_WORLD or dtype == "float32":
        return 4
    return 4 if dtype == "auto" and (lora is None or hardware.kind == "cpu") else 2
