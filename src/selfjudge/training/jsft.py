"""JSFT: from a recipe to one model that is policy and judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, set_seed

from selfjudge.data.collate import ExampleDataset, JsftCollator
from selfjudge.data.counterfactual import counterfactuals
from selfjudge.data.encoded import Encoded, both, encode_judgment_rows, encode_policy_rows, encode_rows
from selfjudge.data.load import PreparedData, policy_records, prepare_data
from selfjudge.data.raw import Rows as GivenRows
from selfjudge.data.rows import DroppedRow, Row
from selfjudge.data.sources import given_records, split_by_prompt
from selfjudge.data.store import Stored, joined
from selfjudge.engines.load import LoadedModel
from selfjudge.errors import DataError
from selfjudge.recipes.load import of_rows
from selfjudge.recipes.schema import Recipe
from selfjudge.records import PreferenceRecord
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.training.arguments import training_arguments
from selfjudge.training.jsft_trainer import JsftTrainer
from selfjudge.training.packing import check_packing
from selfjudge.training.processes import main_first
from selfjudge.training.result import save_trained
from selfjudge.training.resumable import train
from selfjudge.training.run_cache import run_cache
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.stage import MetricsFile, alike, pad_id, record_data, with_lora
from selfjudge.training.start import load_start


def run_jsft(
    recipe: Recipe, output_dir: str | Path, *, resume: bool = False, rows: GivenRows | None = None
) -> RunFolder:
    """Trains π_ref: policy and judge in one model. The result is in ``final/``; a LoRA adapter is merged into it.

    ``rows`` (a ``datasets.Dataset`` or any iterable of mappings or records) take the place of the recipe's one source,
    whose format, columns, limit and use hold for them. They are read once; of several processes each gives all of them.
    To go on with the run give the same rows again.

    Raises:
        SelfJudgeError: for bad settings, data, models or folders; nothing is written in that case.
    """
    recipe = recipe if rows is None else of_rows(recipe)
    args = training_arguments("jsft", recipe.jsft.training, Path(output_dir) / "checkpoints", recipe.seed)
    RunFolder.check(output_dir, "jsft", recipe, resume=resume)
    set_seed(recipe.seed)
    loaded = main_first(lambda: load_start(recipe, recipe.model.path, recipe.jsft.lora, output_dir))
    if recipe.jsft.packing:
        check_packing(loaded.model)
    encoder = JudgmentEncoder(load_templates(recipe.templates.set), loaded.chat)
    with run_cache(output_dir) as cache:
        data = alike(main_first(lambda: prepare_data(recipe.data, recipe.seed, cache, rows)))
        made, dropped = main_first(lambda: jsft_rows(recipe, data, loaded.chat, encoder, loaded.context))
        run = RunFolder.open(output_dir, "jsft", recipe, resume=resume)
    record_data(run, data, dropped, made.dropped, rows={"policy": 0, "judgment": 0, **made.rows})
    trainer = jsft_trainer(recipe, loaded, args, made.examples, [MetricsFile(run)])
    train(trainer, run)
    # Merged, so that with the next adapter switched off the model is π_ref and not the raw base.
    save_trained(trainer, loaded.chat.tokenizer, run.model, encoder.templates)
    run.finish(steps=trainer.state.global_step)
    return run


def jsft_rows(
    recipe: Recipe, data: PreparedData, chat: ChatEncoder, encoder: JudgmentEncoder, context: int
) -> tuple[Encoded, list[DroppedRow]]:
    """Returns the rows that the recipe's ``jsft.rows`` asks for, and the pairs of which no rows were made.

    A row may be as long as data.max_length and the model's ``context`` allow. Rows that are in the data's cache are
    taken from there.

    Raises:
        DataError: if no row is left.
    """
    pairs, not_made = judgment_pairs(recipe, data) if recipe.jsft.rows != "policy" else (data.judgment, [])
    rows = _encoded(recipe, data, pairs, encoder, chat, min(recipe.data.max_length, context))
    if not rows.examples:
        found = sorted({*(d.reason for d in not_made), *rows.dropped.texts("reason")})
        reasons = ", ".join(found) or "the sources gave no records for them"
        raise DataError(f"No JSFT row is left ({reasons}): raise data.max_length or check data.sources.")
    return rows, not_made


def _encoded(
    recipe: Recipe,
    data: PreparedData,
    pairs: Stored[PreferenceRecord],
    encoder: JudgmentEncoder,
    chat: ChatEncoder,
    longest: int,
) -> Encoded:
    made_from, rationale = [data.made_from, recipe.jsft.counterfactual], recipe.templates.rationale
    if recipe.jsft.rows == "both" and pairs is data.policy:
        return encode_rows(pairs, encoder, chat, longest, made_from, data.cache, rationale=rationale)
    made: list[Encoded] = []
    if recipe.jsft.rows != "judgment":
        made.append(encode_policy_rows(policy_records(data.policy), chat, longest, data.made_from, data.cache))
    if recipe.jsft.rows != "policy":
        made.append(encode_judgment_rows(pairs, encoder, chat, longest, made_from, data.cache, rationale=rationale))
    return both(*made) if len(made) == 2 else made[0]


def judgment_pairs(recipe: Recipe, data: PreparedData) -> tuple[Stored[PreferenceRecord], list[DroppedRow]]:
    """Returns the pairs to judge, with their counterfactuals where the recipe wants them, and those not made.

    A copy whose prompt is held out stays out of training as the prompt itself does.
    """
    if not recipe.jsft.counterfactual:
        return data.judgment, []
    copies, dropped = counterfactuals(data.judgment)
    copies_to_train, _ = split_by_prompt(copies, recipe.data.held_out, recipe.seed)
    made = given_records(lambda: copies_to_train, "counterfactual", recipe.seed, data.made_from, cache=data.cache)
    return joined([data.judgment, made.records]), dropped


def jsft_trainer(
    recipe: Recipe,
    loaded: LoadedModel,
    args: Any,
    examples: Sequence[tuple[Row, ...]],
    callbacks: Sequence[TrainerCallback] = (),
) -> JsftTrainer:
    """Returns the trainer of ``examples``; its model has an adapter where the recipe asks for one."""
    return JsftTrainer(
        with_lora(loaded.model, recipe.jsft.lora, seed=recipe.seed),
        args,
        train_dataset=ExampleDataset(examples),
        data_collator=JsftCollator(pad_id(loaded.chat), recipe.jsft.judgment_weight, recipe.jsft.packing),
        processing_class=loaded.chat.tokenizer,
        callbacks=list(callbacks),
    )
