"""From a recipe's settings to those of the libraries: transformers.TrainingArguments (or a subclass) and peft's."""

from __future__ import annotations

import dataclasses
import difflib
import os
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import LoraConfig
from transformers import TrainingArguments

from selfjudge.errors import RecipeError
from selfjudge.recipes.schema import LoraSection

Arguments = TypeVar("Arguments", bound=TrainingArguments)

# Set by the stages themselves.
_OWN = {"output_dir", "seed", "data_seed", "remove_unused_columns", "push_to_hub", "resume_from_checkpoint"}
_DEFAULTS: dict[str, Any] = {
    "report_to": "none",
    "logging_steps": 10,
    "logging_first_step": True,
    "save_steps": 500,
    "save_total_limit": 2,
    "optim": "adamw_torch",
    # The filter waits for the device at every micro-batch, and hides a loss that is not a number.
    "logging_nan_inf_filter": False,
    # As TrainingArguments has them; TRL's configurations switch both on.
    "bf16": False,
    "gradient_checkpointing": False,
}


def lora_config(lora: LoraSection, task_type: str = "CAUSAL_LM") -> LoraConfig:
    """Returns peft's config of a recipe's LoRA section, for a causal LM or what else ``task_type`` names."""
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type=task_type,
    )


def training_arguments(
    section: str,
    values: dict[str, Any],
    output_dir: Path,
    seed: int,
    kind: type[Arguments] = TrainingArguments,  # type: ignore[assignment]
    **own: Any,
) -> Arguments:
    """Returns the arguments; the recipe's values win over our few defaults (no telemetry, two checkpoints kept).

    Args:
        section: whose ``training`` part it is, for messages.
        values: that part.
        output_dir: where checkpoints go.
        seed: of shuffling and the like.
        kind: TrainingArguments, or the configuration of another library's trainer that builds on it.
        own: what the stage sets itself and a recipe must not.

    Raises:
        RecipeError: for a name ``kind`` does not know (the nearest is suggested), one that the stage sets itself, or
            a value it refuses; if processes were started together and do not find each other.
    """
    known = {f.name for f in dataclasses.fields(kind) if f.init}
    values = _renamed(values, known)
    for name in values:
        if name in _OWN or name in own:
            raise RecipeError(f"{section}.training.{name} is set by the run itself: remove it.")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"see {kind.__module__.partition('.')[0]}.{kind.__name__}."
            raise RecipeError(f"unknown key '{section}.training.{name}'; {hint}")
    defaults = _renamed({**_DEFAULTS, "dataloader_pin_memory": torch.cuda.is_available()}, known)
    try:
        args = kind(output_dir=str(output_dir), seed=seed, remove_unused_columns=False, **{**defaults, **values, **own})
        # Several visible GPUs in one process would mean DataParallel, which this project does not use.
        args._n_gpu = min(args.n_gpu, 1)
    except (ValueError, TypeError, RuntimeError) as e:
        raise RecipeError(f"{section}.training: {' '.join(str(e).split())}") from e
    started = int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1
    if args.world_size < started:
        raise RecipeError(
            f"{started} processes were started, and each would train by itself: on CPUs set ACCELERATE_USE_CPU=true."
        )
    return args


def _renamed(values: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """Takes both names of a setting that transformers 5 is renaming, whichever the installed version knows."""
    old, new = "gradient_checkpointing", "activation_checkpointing"
    there, gone = (new, old) if new in known else (old, new)
    return {there + name.removeprefix(gone) if name.startswith(gone) else name: v for name, v in values.items()}
