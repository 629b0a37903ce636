"""Self-training: from a recipe and a JSFT model to a policy trained on its own judged samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from transformers import TrainerCallback, set_seed

from selfjudge.data.collate import JsftCollator
from selfjudge.data.load import PreparedData, prepare_data
from selfjudge.data.raw import Rows
from selfjudge.data.rows import DroppedRow
from selfjudge.engines.load import LoadedModel
from selfjudge.recipes.load import of_rows
from selfjudge.recipes.schema import Recipe
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.training.arguments import training_arguments
from selfjudge.training.assembly import self_judge_trainer
from selfjudge.training.jsft import jsft_rows
from selfjudge.training.pair_source import ON_POLICY, PairSource
from selfjudge.training.processes import main_first
from selfjudge.training.replay import Replay
from selfjudge.training.result import save_trained
from selfjudge.training.resumable import train
from selfjudge.training.rollout_engine import rollout_engine
from selfjudge.training.rounds import Round, run_rounds
from selfjudge.training.run_cache import run_cache
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.served_judge import served_judge
from selfjudge.training.stage import alike, earlier_result, pad_id, record_data
from selfjudge.training.start import load_start


def run_self_training(
    recipe: Recipe,
    output_dir: str | Path,
    *,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    source: PairSource = ON_POLICY,
    rows: Rows | None = None,
) -> RunFolder:
    """Trains the policy on its own judged samples, from the JSFT model. ``final/`` has the result (merged);
    with LoRA ``adapter/`` has the adapter alone, for use on top of the JSFT model. ``callbacks`` go to the Trainer.
    Another ``source`` of pairs takes the place of the policy's own samples, all else being equal.
    ``rows`` take the place of the recipe's source, as for :func:`run_jsft`.
    Of several rounds each has a run folder of its own in this one; see :func:`selfjudge.training.rounds.run_rounds`.

    Raises:
        SelfJudgeError: as :func:`run_jsft`.
    """
    recipe = recipe if rows is None else of_rows(recipe)
    section, folder = recipe.self_training, Path(output_dir)
    training_arguments("self_training", section.training, folder / "checkpoints", recipe.seed)  # joins the processes
    RunFolder.check(output_dir, source.stage, recipe, resume=resume)
    start = section.start or earlier_result(recipe, "jsft", "selfjudge jsft", "self_training.start")
    with run_cache(folder) as run_data:
        prepare = cache(partial(prepare_data, recipe.data, recipe.seed, run_data, rows))  # rows can be read once only
        one = partial(_run_round, recipe, callbacks, source, prepare)
        if section.rounds > 1 and source.on_policy:
            return run_rounds(recipe, folder, start, one, prepare, resume=resume)
        opened = partial(RunFolder.open, folder, source.stage, recipe, resume=resume)
        return one(Round(start, folder, recipe.seed, opened))


def _run_round(
    recipe: Recipe,
    callbacks: Sequence[TrainerCallback],
    source: PairSource,
    prepare: Callable[[], PreparedData],
    this: Round,
) -> RunFolder:
    section = recipe.self_training
    args = training_arguments("self_training", section.training, this.folder / "checkpoints", this.seed)
    set_seed(this.seed)
    loaded = main_first(lambda: load_start(recipe, this.start, section.policy_lora, this.folder))
    data = alike(main_first(prepare))
    prompts, dropped = main_first(lambda: source.prompts(recipe, data, loaded, args))
    replay, rows_dropped = main_first(lambda: replay_of(recipe, data, loaded))
    served = main_first(lambda: served_judge(section.judge))
    with rollout_engine(recipe, this.start, loaded, prompts, args.world_size) as engine:
        run = this.open()
        record_data(run, data, dropped, *rows_dropped, start=this.start, prompts=len(prompts))
        if engine is not None:
            run.update(**engine.record)
        trainer = self_judge_trainer(recipe, loaded, args, prompts, run, callbacks, engine, source, served, replay)
        train(trainer, run)
    templates = load_templates(recipe.templates.set)
    save_trained(trainer, loaded.chat.tokenizer, run.model, templates, keep_adapter=True)
    run.finish(steps=trainer.state.global_step, stopped=trainer.stop_reason)
    return run


def replay_of(
    recipe: Recipe, data: PreparedData, loaded: LoadedModel
) -> tuple[Replay | None, list[Sequence[DroppedRow]]]:
    """Returns the JSFT rows that the recipe replays, if any, and those left out."""
    if recipe.self_training.replay == 0:
        return None, []
    encoder = JudgmentEncoder(load_templates(recipe.templates.set), loaded.chat)
    rows, dropped = jsft_rows(recipe, data, loaded.chat, encoder, loaded.context)
    collator = JsftCollator(pad_id(loaded.chat), recipe.jsft.judgment_weight)
    return Replay(rows.examples, collator, recipe.self_training.replay), [dropped, rows.dropped]
