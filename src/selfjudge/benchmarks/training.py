"""The two kinds of training: an on-policy step, and JSFT, each by our real trainer and the published way."""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedModel, Trainer

from selfjudge.benchmarks.inputs import generated_prompts, generated_records
from selfjudge.benchmarks.measure import synchronise
from selfjudge.benchmarks.published_training import PaddedJsft, PublishedStep
from selfjudge.benchmarks.sampling import check_fits, endless
from selfjudge.benchmarks.task import Settings, Task
from selfjudge.data.rows import Row, build_judgment_rows, build_policy_rows, examples
from selfjudge.engines.load import LoadedModel
from selfjudge.recipes.schema import Recipe
from selfjudge.recipes.section import BUILTIN_WORLD
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.training.arguments import training_arguments
from selfjudge.training.assembly import self_judge_trainer
from selfjudge.training.jsft import jsft_trainer
from selfjudge.training.pairing import RolloutPrompt
from selfjudge.training.run_folder import RunFolder


class Epoch:
    """Goes through a trainer's data once a call, step by step as the trainer's own loop does.

    The loop itself would run on to its end; by hand, the other side can take its turn. After a call ``seconds`` has
    what getting the batches (where a rollout is made) and training on them took, ``tokens`` how many these had.
    """

    def __init__(self, trainer: Trainer, *, checkpointing: bool = False) -> None:
        """Takes a trainer; ``checkpointing`` says whether activations are checkpointed during a call."""
        trainer.create_optimizer()
        self._trainer, self._checkpointing = trainer, checkpointing
        self._loader = trainer.get_train_dataloader()
        self.seconds: dict[str, float] = {}
        self.tokens = 0

    def __call__(self) -> None:
        """Takes the steps."""
        self.seconds = {"batches": 0.0, "training": 0.0}
        self.tokens = 0
        batches = iter(self._loader)
        accumulated = self._trainer.args.gradient_accumulation_steps
        if self._checkpointing:
            _switch_checkpointing(self._trainer.model, "enable")
        for _ in range(math.ceil(len(self._loader) / accumulated)):
            self._step(batches, accumulated)
        if self._checkpointing:
            _switch_checkpointing(self._trainer.model, "disable")

    def padding_share(self, real: int) -> float:
        """Returns the share of padding in the last call's batches, of which ``real`` tokens were none."""
        return 1 - real / self.tokens

    def _step(self, batches: Iterator[Any], accumulated: int) -> None:
        trainer, start = self._trainer, time.perf_counter()
        micro_batches, items = trainer.get_batch_samples(batches, accumulated, trainer.args.device)
        self.seconds["batches"] += time.perf_counter() - start
        start = time.perf_counter()
        for inputs in micro_batches:
            if "input_ids" in inputs:  # not where every pair of a micro-batch was a tie
                self.tokens += inputs["input_ids"].numel()
            trainer.training_step(trainer.model, inputs, items)
        trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        trainer.model.zero_grad()
        trainer.state.global_step += 1
        synchronise()
        self.seconds["training"] += time.perf_counter() - start


def _switch_checkpointing(model: PreTrainedModel, way: str) -> None:
    """``way``: enable or disable. Newer transformers have another name for it."""
    name = f"activation_checkpointing_{way}"
    getattr(model, name if hasattr(model, name) else f"gradient_checkpointing_{way}")()


def step_task(loaded: LoadedModel, settings: Settings) -> Task:
    """Returns one on-policy step: two samples of full length for each prompt, judged and trained on, with LoRA.

    Both sides train the same adapter of the same model, each with an optimizer of its own.
    """
    recipe = _recipe(loaded, settings, accumulated=math.ceil(settings.size / settings.train_batch))
    chat = endless(loaded)
    prompts = [
        RolloutPrompt(str(i), prompt, tuple(chat.prompt_ids(prompt)))
        for i, prompt in enumerate(generated_prompts(settings.size))
    ]
    encoder = JudgmentEncoder(load_templates(settings.templates), loaded.chat)
    (principle,) = encoder.principles.values()
    # Both samples are in a judgment prompt. Read again they may have more tokens, hence room for another half.
    check_fits(
        loaded, max(len(principle.prompt(p.prompt, "", "").token_ids) for p in prompts) + 3 * settings.new_tokens
    )
    args = training_arguments("self_training", recipe.self_training.training, settings.folder / "checkpoints", 0)
    # Not opened: that would ask for the versions of packages which timing does without.
    run = RunFolder(settings.folder, "train", {})
    trainer = self_judge_trainer(recipe, LoadedModel(loaded.model, chat), args, prompts, run)
    ours = Epoch(trainer, checkpointing=settings.checkpointing)
    published = PublishedStep(trainer.model, loaded.chat, encoder)
    prompt_tokens, sampled = sum(len(p.ids) for p in prompts), 2 * settings.size * settings.new_tokens
    rows = 2 * prompt_tokens + sampled
    # The prompts; both orders of both samples; the reference's forward and the policy's with its backward.
    tokens = prompt_tokens + 2 * (prompt_tokens + sampled) + 3 * rows
    return Task(
        trainer.model,
        "steps",
        1,
        ours,
        lambda: published.run([p.prompt for p in prompts], settings.new_tokens),
        tokens,
        prompt_tokens // settings.size + settings.new_tokens,
        settings.new_tokens,
        details=lambda: {
            "padding_share": ours.padding_share(rows),
            "rollout_seconds": ours.seconds["batches"],
            "training_seconds": ours.seconds["training"],
        },
    )


def jsft_task(loaded: LoadedModel, settings: Settings) -> Task:
    """Returns an epoch of JSFT with LoRA on policy and judgment rows, counted in tokens that are no padding."""
    recipe = _recipe(loaded, settings)
    data = jsft_examples(loaded, settings)
    rows = [row for example in data for row in example]
    args = training_arguments("jsft", recipe.jsft.training, settings.folder / "checkpoints", 0)
    trainer = jsft_trainer(recipe, loaded, args, data)
    ours = Epoch(trainer)
    published = PaddedJsft(trainer.model, loaded.chat.tokenizer.pad_token_id, settings.train_batch)
    tokens = sum(len(row.ids) for row in rows)
    return Task(
        trainer.model,
        "tokens",
        tokens,
        ours,
        lambda: published.run(data),
        2 * tokens,
        tokens // len(rows),
        details=lambda: {"padding_share": ours.padding_share(tokens)},
    )


def jsft_examples(loaded: LoadedModel, settings: Settings) -> list[tuple[Row, ...]]:
    """Returns the policy rows and judgment pairs of generated records, shuffled: the order of the data."""
    records = generated_records(settings.size)
    encoder = JudgmentEncoder(load_templates(settings.templates), loaded.chat)
    # What is too long is an error, and no row that is left out.
    policy = build_policy_rows(records, loaded.chat, sys.maxsize).rows
    judgment = build_judgment_rows(records, encoder, sys.maxsize).rows
    check_fits(loaded, max(len(row.ids) for row in (*policy, *judgment)))
    data = examples([*policy, *judgment])
    random.Random(0).shuffle(data)
    return data


def _recipe(loaded: LoadedModel, settings: Settings, accumulated: int = 1) -> Recipe:
    """Returns a recipe with LoRA (r 8, the default) in both stages."""
    training = {
        "per_device_train_batch_size": settings.train_batch,
        "gradient_accumulation_steps": accumulated,
        "learning_rate": 5e-6,
        "use_cpu": loaded.model.device.type == "cpu",
    }
    return Recipe.model_validate(
        {
            "name": "bench",
            "model": {"path": "bench"},
            "data": {"sources": [{"path": BUILTIN_WORLD}]},
            "templates": {"set": settings.templates},
            "jsft": {"lora": {}, "packing": True, "training": training},
            "self_training": {
                "start": "bench",
                "rollout": {"max_new_tokens": settings.new_tokens},
                "training": training,
            },
        }
    )
