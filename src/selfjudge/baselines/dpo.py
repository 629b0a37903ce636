"""DPO, IPO and hinge on the data's own pairs, by TRL's DPOTrainer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback, set_seed
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from selfjudge.baselines.pairs import overall_pairs, token_pairs
from selfjudge.baselines.parts import finish, load_for_trl, peft_config, record, sft_model, trl_arguments
from selfjudge.data.load import prepare_data
from selfjudge.engines.load import LoadedModel
from selfjudge.recipes.comparison import DpoSection, RsoSection
from selfjudge.recipes.schema import Recipe
from selfjudge.training.pairs import Pair
from selfjudge.training.processes import main_first
from selfjudge.training.resumable import train
from selfjudge.training.run_cache import run_cache
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.stage import MetricsFile, pad_id


def run_dpo(
    recipe: Recipe, output_dir: str | Path, *, resume: bool = False, callbacks: Sequence[TrainerCallback] = ()
) -> RunFolder:
    """Trains the SFT model on the data's pairs; errors as :func:`selfjudge.baselines.run.run_baseline`."""
    args = dpo_arguments(recipe, "dpo", recipe.baselines.dpo, output_dir)
    RunFolder.check(output_dir, "dpo", recipe, resume=resume)
    set_seed(recipe.seed)
    start = sft_model(recipe)
    loaded = main_first(lambda: load_for_trl(recipe, start, recipe.self_training.policy_lora, output_dir))
    with run_cache(output_dir) as cache:
        data = main_first(lambda: prepare_data(recipe.data, recipe.seed, cache))
        longest = min(recipe.data.max_length, loaded.context)
        pairs, dropped = token_pairs(overall_pairs(data), loaded.chat, longest)
        run = RunFolder.open(output_dir, "dpo", recipe, resume=resume)
    record(run, data, dropped, start=start, rows={"pair": len(pairs)})
    trainer = dpo_trainer(recipe, loaded, args, [pair for _, pair in pairs], run, callbacks)
    train(trainer, run)
    finish(trainer, loaded.chat.tokenizer, run)
    return run


def dpo_arguments(
    recipe: Recipe, method: str, section: DpoSection | RsoSection, output_dir: str | Path, **values: Any
) -> DPOConfig:
    """Returns the settings of self-training with those of the section on top, and ``values`` above all."""
    values = {**recipe.self_training.training, **section.training, **values}
    own = {"loss_type": [section.loss], "beta": section.beta, "max_length": None}
    return trl_arguments(recipe, method, output_dir, DPOConfig, values, **own)


def dpo_trainer(
    recipe: Recipe,
    loaded: LoadedModel,
    args: DPOConfig,
    pairs: Sequence[Pair],
    run: RunFolder,
    callbacks: Sequence[TrainerCallback] = (),
) -> DPOTrainer:
    """Returns TRL's trainer for pairs of token ids.

    The reference is a frozen copy of what was loaded, or with LoRA the model without its adapter: left to itself, the
    trainer would load it from the path in the model's config.
    """
    lora = peft_config(loaded.model, recipe.self_training.policy_lora)
    return DPOTrainer(
        loaded.model,
        # Copied before the trainer is made: it binds the model's forward to the model, and a copy would run the policy.
        copy.deepcopy(loaded.model).requires_grad_(False) if lora is None else None,
        args,
        data_collator=partial(_collate, DataCollatorForPreference(pad_token_id=pad_id(loaded.chat))),
        train_dataset=_dataset(pairs),
        processing_class=loaded.chat.tokenizer,
        peft_config=lora,
        callbacks=[MetricsFile(run), *callbacks],
    )


def _dataset(pairs: Sequence[Pair]) -> Dataset:
    """DPOTrainer tokenises whatever it is given, and tokens may merge where prompt and response meet. So the texts it
    gets are empty, and our ids travel beside them to the collator.
    """
    empty = [""] * len(pairs)
    ids = [
        {"prompt_ids": list(p.prompt_ids), "chosen_ids": list(p.chosen_ids), "rejected_ids": list(p.rejected_ids)}
        for p in pairs
    ]
    return Dataset.from_dict({"prompt": empty, "chosen": empty, "rejected": empty, "ids": ids})


def _collate(collator: DataCollatorForPreference, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    return collator([{**example, **example["ids"]} for example in examples])
