"""RLHF on policy against the reward model, by TRL's RLOOTrainer (REINFORCE leave-one-out, arXiv 2402.14740)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback, set_seed
from trl import RLOOConfig, RLOOTrainer

from selfjudge.baselines.parts import (
    examples_per_step,
    finish,
    load_for_trl,
    peft_config,
    record,
    reward_path,
    sft_model,
    trl_arguments,
)
from selfjudge.baselines.scorer import RewardScorer, load_scorer
from selfjudge.data.load import prepare_data
from selfjudge.data.rows import DroppedRow
from selfjudge.errors import DataError
from selfjudge.recipes.schema import Recipe
from selfjudge.records import Message
from selfjudge.templates.chat import ChatEncoder
from selfjudge.training.pair_source import rollout_prompts
from selfjudge.training.pairing import RolloutPrompt
from selfjudge.training.processes import main_first
from selfjudge.training.resumable import train
from selfjudge.training.run_cache import run_cache
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.stage import MetricsFile, batching

SAMPLES = 2
"""Per prompt, as in self-training."""
_BATCH = "per_device_train_batch_size"


def run_rlhf(
    recipe: Recipe, output_dir: str | Path, *, resume: bool = False, callbacks: Sequence[TrainerCallback] = ()
) -> RunFolder:
    """Trains the SFT model on its own samples, rewarded by r - β KL.

    Errors as :func:`selfjudge.baselines.run.run_baseline`.
    """
    args = rloo_arguments(recipe, output_dir)
    RunFolder.check(output_dir, "rlhf", recipe, resume=resume)
    set_seed(recipe.seed)
    start = sft_model(recipe)
    scorer = main_first(lambda: load_scorer(reward_path(recipe), **batching(recipe)))
    loaded = main_first(lambda: load_for_trl(recipe, start, recipe.self_training.lora, output_dir))
    with run_cache(output_dir) as cache:
        data = main_first(lambda: prepare_data(recipe.data, recipe.seed, cache))
        prompts, dropped = main_first(lambda: rollout_prompts(recipe, data, loaded))
        args.chat_template_kwargs = loaded.chat.switch
        prompts, unlike = same_ids(prompts, loaded.chat)
        if SAMPLES * len(prompts) < examples_per_step(args):
            raise DataError(
                f"{len(prompts)} prompts are too few for one step of rlhf: lower the batch size, or give more."
            )
        run = RunFolder.open(output_dir, "rlhf", recipe, resume=resume)
    record(run, data, dropped, unlike, start=start, reward=reward_path(recipe), prompts=len(prompts))
    trainer = RLOOTrainer(
        loaded.model,
        reward_function(scorer, loaded.chat),
        args,
        train_dataset=Dataset.from_dict({"prompt": [_chat(p.prompt) for p in prompts]}),
        processing_class=loaded.chat.tokenizer,
        peft_config=peft_config(loaded.model, recipe.self_training.lora),
        callbacks=[MetricsFile(run), *callbacks],
    )
    train(trainer, run)
    finish(trainer, loaded.chat.tokenizer, run)
    return run


def rloo_arguments(recipe: Recipe, output_dir: str | Path) -> RLOOConfig:
    """Returns the settings of self-training with the section's on top, samples drawn as in self-training.

    The recipe's batch sizes count prompts, TRL's samples.
    """
    section, rollout = recipe.baselines.rlhf, recipe.self_training.rollout
    values = {**recipe.self_training.training, **section.training}
    prompts = values.pop(_BATCH, RLOOConfig.per_device_train_batch_size)
    own = {
        _BATCH: SAMPLES * prompts,
        "num_generations": SAMPLES,
        "beta": section.beta,
        "temperature": rollout.temperature,
        "top_p": rollout.top_p,
        "max_completion_length": rollout.max_new_tokens,
    }
    return trl_arguments(recipe, "rlhf", output_dir, RLOOConfig, values, **own)


def same_ids(prompts: Sequence[RolloutPrompt], chat: ChatEncoder) -> tuple[list[RolloutPrompt], list[DroppedRow]]:
    """Returns the prompts that TRL will tokenise as we do, and the others.

    They differ where a user's text contains special tokens, or where the chat template knows no system text.

    Raises:
        DataError: if none is left.
    """
    same = [p for p in prompts if _trl_ids(p.prompt, chat) == list(p.ids)]
    if not same:
        raise DataError("TRL tokenises every prompt otherwise than we do: set model.chat_template to another.")
    kept = {p.id for p in same}
    reason = "TRL tokenises this prompt otherwise than we do"
    return same, [DroppedRow("policy", p.id, reason) for p in prompts if p.id not in kept]


def reward_function(scorer: RewardScorer, chat: ChatEncoder) -> Any:
    """Returns a function as TRL asks for them. A thought before an answer is not rewarded."""

    def reward(prompts: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
        asked = [tuple(Message(role=m["role"], content=m["content"]) for m in prompt) for prompt in prompts]
        answers = zip(completion_ids, asked, strict=True)
        return scorer.score(asked, [chat.read(ids, chat.prompt_ids(prompt)).text for ids, prompt in answers])

    return reward


def _chat(prompt: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in prompt]


def _trl_ids(prompt: Sequence[Message], chat: ChatEncoder) -> list[int] | None:
    """What RLOOTrainer makes of a prompt; None where the chat template refuses it."""
    try:
        encoded = chat.tokenizer.apply_chat_template(
            _chat(prompt), add_generation_prompt=True, tokenize=True, return_dict=True, **chat.switch
        )
    except Exception:  # Chat templates raise whatever they like; Jinja's TemplateError among others.
        return None
    return list(encoded["input_ids"])
