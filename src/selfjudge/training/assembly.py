"""The parts of self-training, put together as a recipe says: policy, judge, reference, trainer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import TrainerCallback

from selfjudge.core.losses import Objective
from selfjudge.engines.base import Engine, SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import LoadedModel
from selfjudge.judge import Judge
from selfjudge.recipes.schema import Recipe
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import context_text, load_templates
from selfjudge.training.pair_source import ON_POLICY, PairSource
from selfjudge.training.pairing import PairRules, RolloutPrompt
from selfjudge.training.replay import Replay
from selfjudge.training.rollout import Rollout, RolloutCollector, nothing_to_hand_over
from selfjudge.training.rollout_engine import RolloutEngine
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.self_judge_trainer import SelfJudgeTrainer
from selfjudge.training.stage import MetricsFile, batching, pad_id, with_lora
from selfjudge.training.stop import StopRule
from selfjudge.training.whole_weights import empty, shards_weights

_SHOWN_PAIRS = 2
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""By TrainingArguments' ``mixed_precision``."""


def self_judge_trainer(
    recipe: Recipe,
    loaded: LoadedModel,
    args: Any,
    prompts: Sequence[RolloutPrompt],
    run: RunFolder,
    callbacks: Sequence[TrainerCallback] = (),
    engine: RolloutEngine | None = None,
    source: PairSource = ON_POLICY,
    served: Judge | None = None,
    replay: Replay | None = None,
) -> SelfJudgeTrainer:
    """Returns the trainer with policy, judge and frozen reference put together as the recipe says.

    With LoRA all three share one set of weights; without, a frozen copy of the start is reference and judge. A rollout
    ``engine`` samples in the policy's place and, where it keeps the start's weights, judges by them. A ``served``
    judge takes the place of the recipe's own model. Where processes hold shards of the weights, a twin of the model
    samples, which gets them whole for each rollout. ``replay`` is what the recipe's ``self_training.replay`` asks for.
    """
    section, chat = recipe.self_training, loaded.chat
    model = with_lora(loaded.model, section.policy_lora, seed=recipe.seed)
    twin = copy.deepcopy(model) if shards_weights(args) else None
    sampled = model if twin is None else twin
    autocast = _AUTOCAST.get(args.mixed_precision)
    reference = _reference(recipe, loaded, sampled, autocast)
    own = TransformersEngine(sampled, chat, autocast=autocast, **batching(recipe))
    if engine is None:
        parts = _collector(recipe, own, own, reference, reference, served)
    else:
        policy = engine.policy(sampled, run.checkpoints / "rollout")
        parts = _collector(recipe, policy, own, engine.start or reference, reference, served, policy.hand_over)
    collector = source.collector(_batched_as_trained(parts, loaded, args), prompts, args)
    if twin is not None:
        empty(twin)
    return SelfJudgeTrainer(
        model,
        args,
        prompts=prompts,
        collector=collector,
        pad_id=pad_id(chat),
        objective=Objective(section.loss, section.beta, section.length_penalty, section.nll_weight),
        rollout_steps=section.rollout.steps,
        ahead=bool(section.rollout.ahead) and source.on_policy,
        replay=replay,
        stop=StopRule(section.stop),
        on_rollout=_rollout_writer(run, max(1, int(args.logging_steps))),
        twin=twin,
        processing_class=chat.tokenizer,
        callbacks=[MetricsFile(run), *callbacks],
    )


def _reference(recipe: Recipe, loaded: LoadedModel, sampled: Any, autocast: torch.dtype | None) -> TransformersEngine:
    """Returns the start: the base weights of the model with an adapter that samples, else a copy."""
    options = {"autocast": autocast, **batching(recipe)}
    if recipe.self_training.lora is None:
        return TransformersEngine(copy.deepcopy(loaded.model).requires_grad_(False), loaded.chat, **options)
    return TransformersEngine(sampled, loaded.chat, adapter=False, **options)


def _batched_as_trained(collector: RolloutCollector, loaded: LoadedModel, args: Any) -> RolloutCollector:
    """Returns a collector whose reference computes the training's micro-batches, where rounding makes a difference.

    In float32 that is one of 1e-6 nats, and all pairs of a rollout together are faster.
    """
    if args.mixed_precision not in _AUTOCAST and loaded.model.dtype == torch.float32:
        return collector
    return replace(collector, prompts_per_batch=args.train_batch_size)


def _collector(
    recipe: Recipe,
    policy: Engine,
    own: TransformersEngine,
    start: Engine,
    reference: TransformersEngine,
    served: Judge | None,
    hand_over: Callable[[], None] = nothing_to_hand_over,
) -> RolloutCollector:
    """``policy`` samples, by the weights in training or a copy of them; ``own`` is on the weights in training."""
    section, rollout = recipe.self_training, recipe.self_training.rollout
    engine = policy if section.judge.kind == "dynamic" else start
    judge = served or Judge(engine, JudgmentEncoder(load_templates(recipe.templates.set), reference.chat))
    return RolloutCollector(
        policy=policy,
        judge=judge,
        reference=reference,
        params=SamplingParams(
            n=rollout.samples,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            max_new_tokens=rollout.max_new_tokens,
        ),
        rules=PairRules(
            labels=section.labels,
            smoothing=section.label_smoothing,
            abstain=section.abstain,
            max_length_difference=section.max_length_difference,
            choice=rollout.pairs,
        ),
        response_kl=partial(own.response_kl, reference),
        hand_over=hand_over,
    )


def _rollout_writer(run: RunFolder, every: int) -> Callable[[int, Rollout], None]:
    """Writes a few judged pairs as text, so that a user can read what the numbers are made of."""

    def write(step: int, rollout: Rollout) -> None:
        if step % every:
            return
        for judged in rollout.judged[:_SHOWN_PAIRS]:
            verdict = judged.verdicts.get((0, 1))
            row = {"step": step, "prompt": context_text(judged.prompt.prompt)}
            row |= {"response_a": judged.samples[0].text, "response_b": judged.samples[1].text}
            summary = verdict.model_dump(include={"preferred", "strength", "agree"}) if verdict else None
            run.append("rollouts.jsonl", {**row, "verdict": summary})

    return write
