"""What the methods share: settings, the models they start from, and how a run ends."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import check_target_module_exists
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from selfjudge.data.load import PreparedData
from selfjudge.data.rows import DroppedRow
from selfjudge.engines.load import LoadedModel
from selfjudge.errors import RecipeError
from selfjudge.recipes.schema import LoraSection, Recipe
from selfjudge.recipes.section import BUILTIN_WORLD
from selfjudge.training.arguments import Arguments, training_arguments
from selfjudge.training.lora import adapter_config
from selfjudge.training.merge import checked_merge
from selfjudge.training.result import save_trained
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.stage import earlier_result, record_data
from selfjudge.training.start import load_start

Item = TypeVar("Item")

# The rows are made here, with our own tokenisation: TRL is not to cut or join them, nor to change the tokenizer.
OWN_ROWS: dict[str, Any] = {"max_length": None, "eos_token": None, "chat_template_path": None}


def trl_arguments(
    recipe: Recipe, method: str, output_dir: str | Path, kind: type[Arguments], values: dict[str, Any], **own: Any
) -> Arguments:
    """Returns a TRL configuration as :func:`training_arguments` does; ``method`` is the recipe's key, ``own`` is set
    by the method itself.
    """
    checkpoints = Path(output_dir) / "checkpoints"
    return training_arguments(f"baselines.{method}", values, checkpoints, recipe.seed, kind, **own)


def sft_model(recipe: Recipe) -> str:
    """Returns the SFT model that the other methods start from.

    Raises:
        RunError: if there is none yet.
        RecipeError: if it is named and is the built-in model, of which no file could be the reference.
    """
    start = recipe.baselines.start
    if start == BUILTIN_WORLD:
        raise RecipeError(f"baselines.start={start} has random weights: name a trained model.")
    return start or earlier_result(recipe, "sft", "selfjudge baseline sft", "baselines.start")


def load_for_trl(recipe: Recipe, path: str, lora: LoraSection | None, folder: str | Path) -> LoadedModel:
    """Loads a model as :func:`load_start` does. An adapter on its output head is refused: TRL would not train it.

    Raises:
        ModelError: as :func:`load_start`.
        RecipeError: if the model does not take the adapter, or the adapter would be on the output head.
    """
    loaded = load_start(recipe, path, lora, folder)
    head = loaded.model.get_output_embeddings()
    name = next(name for name, module in loaded.model.named_modules() if module is head)
    if lora is not None and check_target_module_exists(adapter_config(loaded.model, lora), name):
        raise RecipeError(
            f"lora.target_modules: the trainer of this baseline would not train an adapter on {name}: leave {name} "
            "out, or set target_modules to all-linear, which leaves it out."
        )
    return loaded


def reward_path(recipe: Recipe) -> str:
    """Returns the reward model.

    Raises:
        RunError: if there is none yet.
    """
    command = "selfjudge baseline reward-model"
    return recipe.baselines.reward or earlier_result(recipe, "reward-model", command, "baselines.reward")


def peft_config(model: PreTrainedModel, lora: LoraSection | None, task_type: str = "CAUSAL_LM") -> LoraConfig | None:
    """Returns what a TRL trainer of the model takes as its ``peft_config``.

    With an adapter, the reference is the model without it.
    """
    return None if lora is None else adapter_config(model, lora, task_type)


def record(run: RunFolder, data: PreparedData, *dropped: Sequence[DroppedRow], **info: Any) -> None:
    """Writes what the run is made from, and TRL's version."""
    record_data(run, data, *dropped, trl=version("trl"), **info)


def merged(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Returns the model with its adapter, if it has one, merged into its weights; errors as :func:`checked_merge`."""
    return checked_merge(model) if isinstance(model, PeftModel) else model


def finish(trainer: Trainer, tokenizer: PreTrainedTokenizerBase, run: RunFolder, **outcome: Any) -> None:
    """Writes the trained model and marks the run as finished."""
    save_trained(trainer, tokenizer, run.model)
    run.finish(steps=trainer.state.global_step, **outcome)


def examples_per_step(args: TrainingArguments) -> int:
    """Returns how many examples an optimisation step takes, over all processes."""
    return int(args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size)


def total_steps(args: TrainingArguments, examples: int) -> int:
    """Returns the optimisation steps of a training on so many examples."""
    if args.max_steps > 0:
        return args.max_steps
    return max(1, math.ceil(args.num_train_epochs * math.ceil(examples / examples_per_step(args))))


def draw(items: Sequence[Item], n: int, seed: int) -> list[Item]:
    """Returns ``n`` items in a random order, each once before any comes a second time."""
    rng = random.Random(seed)
    drawn: list[Item] = []
    while len(drawn) < n:
        drawn += rng.sample(items, len(items))
    return drawn[:n]
