"""One cell, in a process of its own: train, then measure. Its output goes to the cell's log."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import TrainerCallback

from selfjudge.baselines.run import WATCHED, run_baseline
from selfjudge.data.io import write_json
from selfjudge.evaluation.base_model import pretrain_world_model
from selfjudge.evaluation.world import TruthCurve
from selfjudge.recipes.schema import Recipe
from selfjudge.recipes.section import BUILTIN_WORLD
from selfjudge.study.cells import Cell, cell_recipe, study_of
from selfjudge.study.costs import costs
from selfjudge.study.measure import answer_prompts, choose_among, engine_of, judge_of, judge_pairs, sampling
from selfjudge.templates.template import load_templates
from selfjudge.training.jsft import run_jsft
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.self_training import run_self_training
from selfjudge.world.people import prompts as world_prompts

CURVE_PROMPTS = 200


def run_cell(cell: Cell, recipe: Recipe, threads: int, settings: str) -> None:
    """Runs a cell, or goes on with it, and writes ``cell.json`` when it is finished.

    Args:
        cell: the cell; those that it needs are finished.
        recipe: the study's recipe.
        threads: of torch, so that cells side by side do not fight over cores.
        settings: the cell's of :func:`selfjudge.study.cells.fingerprints`.
    """
    cell.folder.mkdir(parents=True, exist_ok=True)
    log_to(cell.folder / "log.txt")
    torch.set_num_threads(threads)
    if cell.section is None:
        _pretrain(cell)
        found: dict[str, object] = {"seconds": round(time.process_time(), 1)}
    elif cell.method == "best-of-n":
        spent = choose_among(cell, cell_recipe(recipe, cell))
        found = {"seconds": 0.0, "per_answer": {name: costs.model_dump() for name, costs in spent.items()}}
    else:
        found = _trained_and_measured(cell, cell_recipe(recipe, cell))
    _finish(cell, settings, found)


def _pretrain(cell: Cell) -> None:
    """Makes a base model of the small world, whole or not at all."""
    partial = cell.folder / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    pretrain_world_model(partial, cell.seed).rename(cell.folder / "run")
    shutil.rmtree(cell.folder / "partial.trainer", ignore_errors=True)


def _trained_and_measured(cell: Cell, recipe: Recipe) -> dict[str, object]:
    begin = time.process_time()
    curve = _curve(cell, recipe)
    run = RunFolder.finished(cell.folder / "run") or _train(cell, recipe, [curve] if curve else [])
    seconds = time.process_time() - begin - (curve.seconds if curve else 0)
    if "seconds" not in run.info:  # not of a run that was finished before
        run.update(seconds=round(seconds, 1))
    principles = len(load_templates(recipe.templates.set).templates)
    assert cell.section is not None
    return {
        "seconds": run.info["seconds"],
        "steps": run.info["steps"],
        "stopped": run.info.get("stopped"),
        "rate": study_of(recipe).rate_of(cell.name),
        "costs": costs(cell.section, recipe, run.info, principles).model_dump(),
        **_measured(cell, recipe),
    }


def log_to(file: Path) -> None:
    """Sends all output of this process to the end of a file."""
    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())


def _train(cell: Cell, recipe: Recipe, callbacks: Sequence[TrainerCallback]) -> RunFolder:
    folder = cell.folder / "run"
    resume = folder.exists()
    method = cell.method
    if method == "jsft":
        return run_jsft(recipe, folder, resume=resume)
    if method == "train":
        return run_self_training(recipe, folder, resume=resume, callbacks=callbacks)
    assert method != "best-of-n"
    return run_baseline(method, recipe, folder, resume=resume, callbacks=callbacks)


def _curve(cell: Cell, recipe: Recipe) -> TruthCurve | None:
    """Returns what measures along the training of one policy, by the truth and by the judge that trains it."""
    study, method, section = study_of(recipe), cell.method, cell.section
    assert section is not None
    watched = method in WATCHED or (method == "train" and recipe.self_training.rounds == 1)
    if not (section.curve and study.curve_every and study.prompts == BUILTIN_WORLD and watched):
        return None
    engine = engine_of(cell.other(section.needs()[0]) / "run", recipe, recipe.model.thinking)
    judge = None if method in ("dpo", "rlhf") else judge_of(engine, recipe)
    prompts = world_prompts(CURVE_PROMPTS, cell.seed, "curves")
    folder = RunFolder(cell.folder / "run", "train", {})
    return TruthCurve(
        engine,
        judge,
        prompts,
        sampling(recipe, cell),
        study.curve_every,
        lambda point: folder.append("curve.jsonl", point.row()),
    )


def _measured(cell: Cell, recipe: Recipe) -> dict[str, object]:
    """Measures what the method makes: a policy, a judge, or both."""
    method = cell.method
    found: dict[str, object] = {}
    is_policy = method != "reward-model" and not (method == "jsft" and recipe.jsft.rows == "judgment")
    if is_policy:
        answer_prompts(cell, recipe)
    if method in ("jsft", "train", "offline", "off-policy", "reward-model") and recipe.jsft.rows != "policy":
        judged = judge_pairs(cell, recipe)
        found = {"judge": {"right": judged.right, "summary": judged.summary}}
    return found


def _finish(cell: Cell, settings: str, found: dict[str, object]) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    method = "pretraining" if cell.section is None else cell.method
    what = {"cell": cell.name, "method": method, "seed": cell.seed, "settings": settings, "peak_bytes": int(peak)}
    write_json(cell.result, {**what, **found})
