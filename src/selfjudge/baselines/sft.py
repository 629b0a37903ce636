"""Supervised fine-tuning on the policy rows of JSFT, by TRL's SFTTrainer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from selfjudge.baselines.parts import OWN_ROWS, finish, load_for_trl, peft_config, record, trl_arguments
from selfjudge.data.encoded import encode_policy_rows
from selfjudge.data.load import policy_records, prepare_data
from selfjudge.errors import DataError
from selfjudge.recipes.schema import Recipe
from selfjudge.templates.chat import ChatEncoder
from selfjudge.training.processes import main_first
from selfjudge.training.resumable import train
from selfjudge.training.run_cache import run_cache
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.stage import MetricsFile

IGNORED = -100
"""The label of a token that is not trained."""


def run_sft(recipe: Recipe, output_dir: str | Path, *, resume: bool = False) -> RunFolder:
    """Fine-tunes the base model; errors as :func:`selfjudge.baselines.run.run_baseline`."""
    values = {**recipe.jsft.training, **recipe.baselines.sft.training}
    args = trl_arguments(recipe, "sft", output_dir, SFTConfig, values, packing=False, **OWN_ROWS)
    RunFolder.check(output_dir, "sft", recipe, resume=resume)
    set_seed(recipe.seed)
    loaded = main_first(lambda: load_for_trl(recipe, recipe.model.path, recipe.jsft.lora, output_dir))
    with run_cache(output_dir) as cache:
        data = main_first(lambda: prepare_data(recipe.data, recipe.seed, cache))
        longest = min(recipe.data.max_length, loaded.context)
        rows = main_first(
            lambda: encode_policy_rows(policy_records(data.policy), loaded.chat, longest, data.made_from, cache)
        )
        if not rows.examples:
            raise DataError(
                "No policy row is left: raise data.max_length, or give one of data.sources the use 'policy'."
            )
        run = RunFolder.open(output_dir, "sft", recipe, resume=resume)
    record(run, data, rows.dropped, start=recipe.model.path, rows=rows.rows)
    dataset = sft_dataset((row.ids, row.is_target) for (row,) in rows.examples)
    lora = peft_config(loaded.model, recipe.jsft.lora)
    trainer = sft_trainer(loaded.model, args, dataset, loaded.chat, lora, [MetricsFile(run)])
    train(trainer, run)
    finish(trainer, loaded.chat.tokenizer, run)
    return run


def sft_dataset(rows: Iterable[tuple[Sequence[int], Sequence[bool]]]) -> Dataset:
    """Returns rows of (ids, is_target) as TRL takes them when nothing is left to tokenise."""
    found = [(list(ids), [i if t else IGNORED for i, t in zip(ids, is_target, strict=True)]) for ids, is_target in rows]
    return Dataset.from_dict({"input_ids": [ids for ids, _ in found], "labels": [labels for _, labels in found]})


def sft_trainer(
    model: PreTrainedModel,
    args: SFTConfig,
    dataset: Dataset,
    chat: ChatEncoder,
    lora: LoraConfig | None,
    callbacks: list[TrainerCallback],
) -> SFTTrainer:
    """Returns TRL's trainer for :func:`sft_dataset`."""
    return SFTTrainer(
        model,
        args,
        train_dataset=dataset,
        processing_class=chat.tokenizer,
        peft_config=lora,
        callbacks=callbacks,
    )
