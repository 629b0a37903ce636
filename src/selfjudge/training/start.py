"""The model that a stage starts from."""

from __future__ import annotations

from pathlib import Path

from selfjudge.engines.load import DtypeName, LoadedModel, load_model
from selfjudge.recipes.schema import LoraSection, Recipe
from selfjudge.training.lora import check_lora
from selfjudge.training.run_folder import template_date


def load_start(recipe: Recipe, path: str, lora: LoraSection | None, folder: str | Path | None = None) -> LoadedModel:
    """Loads the model at ``path`` as ``model.*`` of the recipe says, to be trained or to get the adapter ``lora``.

    ``folder``: of the run. Where it is resumed, the chat template writes the date on which it began.

    Raises:
        ModelError: as :func:`selfjudge.engines.load.load_model`.
        RecipeError: if the model does not take the adapter.
    """
    loaded = load_model(
        path,
        dtype=start_dtype(recipe, lora),
        chat_template=recipe.model.chat_template,
        attn_implementation=recipe.model.attn_implementation,
        seed=recipe.seed,
        thinking=recipe.model.thinking,
        today=template_date(folder) if folder else None,
    )
    check_lora(loaded.model, lora)
    return loaded


def start_dtype(recipe: Recipe, lora: LoraSection | None) -> DtypeName:
    """Returns the dtype of the weights that a stage trains, or puts an adapter on."""
    # All-weights training in bfloat16 would lose small updates; a frozen base under an adapter does not.
    return "float32" if recipe.model.dtype == "auto" and lora is None else recipe.model.dtype
