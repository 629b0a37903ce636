"""A Bradley-Terry reward model on the data's own pairs, by TRL's RewardTrainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, PreTrainedModel, set_seed
from transformers.utils import logging as transformers_logging
from trl import RewardConfig, RewardTrainer

from selfjudge.baselines.pairs import overall_pairs, token_pairs
from selfjudge.baselines.parts import OWN_ROWS, peft_config, record, sft_model, trl_arguments
from selfjudge.baselines.scorer import RewardScorer, load_scorer
from selfjudge.core.statistics import clustered_rate
from selfjudge.data.identity import prompt_key
from selfjudge.data.load import prepare_data
from selfjudge.engines.load import (
    context_length,
    default_device,
    load_tokenizer,
    pretrained_model,
    torch_dtype,
)
from selfjudge.errors import DataError
from selfjudge.recipes.schema import Recipe
from selfjudge.records import OVERALL, PreferenceRecord
from selfjudge.training.lora import check_lora
from selfjudge.training.pairs import Pair
from selfjudge.training.processes import main_first, on_main
from selfjudge.training.result import save_trained
from selfjudge.training.resumable import train
from selfjudge.training.run_cache import run_cache
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.stage import MetricsFile, batching
from selfjudge.training.start import start_dtype

MAX_HELD_OUT = 1000


def run_reward_model(recipe: Recipe, output_dir: str | Path, *, resume: bool = False) -> RunFolder:
    """Trains the SFT model, with a new head of one logit, to tell chosen from rejected: -log σ(r_chosen - r_rejected).

    Its accuracy on held-out pairs goes into run.json. Errors as :func:`selfjudge.baselines.run.run_baseline`.
    """
    values = {**recipe.jsft.training, **recipe.baselines.reward_model.training}
    args = trl_arguments(recipe, "reward_model", output_dir, RewardConfig, values, **OWN_ROWS)
    RunFolder.check(output_dir, "reward-model", recipe, resume=resume)
    set_seed(recipe.seed)
    start = sft_model(recipe)
    chat = load_tokenizer(start, recipe.model.chat_template)
    model = main_first(lambda: _classifier(recipe, start))
    check_lora(model, recipe.jsft.lora, "SEQ_CLS")
    with run_cache(output_dir) as cache:
        data = main_first(lambda: prepare_data(recipe.data, recipe.seed, cache))
        longest = min(recipe.data.max_length, context_length(model))
        pairs, dropped = token_pairs(overall_pairs(data), chat, longest)
        run = RunFolder.open(output_dir, "reward-model", recipe, resume=resume)
    record(run, data, dropped, start=start, rows={"pair": len(pairs)})
    trainer = RewardTrainer(
        model,
        args,
        train_dataset=_dataset([pair for _, pair in pairs]),
        processing_class=chat.tokenizer,
        peft_config=peft_config(model, recipe.jsft.lora, "SEQ_CLS"),
        callbacks=[MetricsFile(run)],
    )
    train(trainer, run)
    save_trained(trainer, chat.tokenizer, run.model)

    def measure() -> dict[str, Any]:
        return held_out_accuracy(load_scorer(run.model, **batching(recipe)), data.held_out, longest)

    run.finish(steps=trainer.state.global_step, **on_main(measure))
    return run


def held_out_accuracy(scorer: RewardScorer, records: Sequence[PreferenceRecord], max_length: int) -> dict[str, Any]:
    """Returns, as ``held_out``, how often the chosen response of the first 1000 pairs has the higher reward, and how
    often it is the longer one (ties count one half); nothing without a pair that fits.
    """
    try:
        fitting, _ = token_pairs((r for r in records if r.principle == OVERALL), scorer.chat, max_length)
    except DataError:
        return {}
    kept = [record for record, _ in fitting[:MAX_HELD_OUT]]
    prompts = [record.prompt for record in kept]
    chosen = scorer.score(prompts, [record.chosen for record in kept])
    rejected = scorer.score(prompts, [record.rejected for record in kept])
    groups = [prompt_key(prompt) for prompt in prompts]
    lengths = [(len(record.chosen), len(record.rejected)) for record in kept]
    rates = {
        "accuracy": clustered_rate([_beats(c, r) for c, r in zip(chosen, rejected, strict=True)], groups),
        "longer_wins": clustered_rate([_beats(c, r) for c, r in lengths], groups),
    }
    figures = {name: rate.model_dump() for name, rate in rates.items()}
    return {"held_out": {"pairs": len(kept), "prompts": len(set(groups)), **figures}}


def _beats(a: float, b: float) -> float:
    return 0.5 if a == b else float(a > b)


def _classifier(recipe: Recipe, start: str) -> PreTrainedModel:
    """The body of the start model under a new head with one output."""
    model = recipe.model
    extra = {"attn_implementation": model.attn_implementation} if model.attn_implementation else {}
    dtype = torch_dtype(start_dtype(recipe, recipe.jsft.lora), torch.device(default_device()))
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # It would warn that the head is new.
    try:
        return pretrained_model(AutoModelForSequenceClassification, start, num_labels=1, dtype=dtype, **extra)
    finally:
        transformers_logging.set_verbosity(verbosity)


def _dataset(pairs: Sequence[Pair]) -> Dataset:
    """Pairs as TRL takes them when nothing is left to tokenise."""
    return Dataset.from_dict(
        {
            "chosen_ids": [[*p.prompt_ids, *p.chosen_ids] for p in pairs],
            "rejected_ids": [[*p.prompt_ids, *p.rejected_ids] for p in pairs],
        }
    )
