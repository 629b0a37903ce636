"""What all stages share: engines and data from the recipe, logs, and where results lie."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, TrainerCallback

from selfjudge.data.io import json_line
from selfjudge.data.load import PreparedData
from selfjudge.data.rows import DroppedRow
from selfjudge.errors import RunError
from selfjudge.recipes.schema import LoraSection, Recipe
from selfjudge.recipes.section import ROWS
from selfjudge.templates.chat import ChatEncoder
from selfjudge.training.lora import put_adapter
from selfjudge.training.processes import gather_objects, on_main
from selfjudge.training.run_folder import RunFolder, Stage

_logger = logging.getLogger(__name__)
_RESULTS: dict[Stage, str] = {"jsft": "JSFT", "sft": "SFT", "reward-model": "reward"}


def batching(recipe: Recipe) -> dict[str, Any]:
    """Returns the recipe's batching as arguments of an engine."""
    return {"token_budget": recipe.judge.token_budget, "batch_size": recipe.judge.batch_size}


def pad_id(chat: ChatEncoder) -> int:
    """Returns the id that fills short rows."""
    return int(chat.tokenizer.pad_token_id)


def with_lora(model: PreTrainedModel, lora: LoraSection | None, *, seed: int) -> PreTrainedModel | PeftModel:
    """Returns the model with a fresh adapter drawn from ``seed``, or as it is where the recipe wants none.

    Raises:
        RecipeError: as :func:`selfjudge.training.lora.put_adapter`.
    """
    if lora is None:
        return model
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # A fresh adapter is in training mode, whatever its base is in.
        return put_adapter(model, lora).train(model.training)


def alike(data: PreparedData) -> PreparedData:
    """Passes data that all training processes have.

    Raises:
        RunError: on all of them, if one has other records, as rows from Python can be.
    """
    told = gather_objects(data.fingerprints)
    if any(other != told[0] for other in told):
        raise RunError("The training processes have different rows: give each of them the same, in the same order.")
    return data


def record_data(run: RunFolder, data: PreparedData, *dropped: Sequence[DroppedRow], **info: Any) -> None:
    """Writes dropped.jsonl, and the data's fingerprints with ``info`` into run.json; tells of columns not used.

    Raises:
        RunError: the run goes on with other data than it was started with.
    """
    before = run.info.get("data", data.fingerprints)
    changed = sorted(name for name in {*before, *data.fingerprints} if before.get(name) != data.fingerprints.get(name))
    if changed:
        names = ", ".join(changed)
        what = "rows: give the same rows" if ROWS in changed else f"data in {names}: put it back as it was"
        raise RunError(f"The run in {run.path} was started with other {what}, or choose another output folder.")

    def write() -> None:
        for source, left in data.unused:
            _logger.warning("%s: not used: %s in %d rows, such as: %s", source, left.name, left.rows, left.example)
        path = run.path / "dropped.jsonl"
        path.unlink(missing_ok=True)
        if count:
            with path.open("w", encoding="utf-8") as handle:
                for source, item in data.dropped:
                    handle.write(json_line({"source": source, **asdict(item)}) + "\n")
                for row in chain(*dropped):
                    handle.write(json_line(asdict(row)) + "\n")

    count = len(data.dropped) + sum(map(len, dropped))
    on_main(write)
    unused = [{"source": source, "name": left.name, "rows": left.rows} for source, left in data.unused]
    run.update(data=data.fingerprints, records=data.records, dropped=count, unused=unused, **info)


class MetricsFile(TrainerCallback):
    """Appends every log line to the run's metrics.jsonl."""

    def __init__(self, run: RunFolder, first_step: int = 0) -> None:
        """Takes the run, and the steps of it that were taken before this training."""
        self._run = run
        self._first_step = first_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Writes one line."""
        if state.is_world_process_zero and logs:
            self._run.append("metrics.jsonl", {"step": self._first_step + state.global_step, **logs})


def earlier_result(recipe: Recipe, stage: Stage, command: str, key: str) -> str:
    """Returns the finished run of an earlier stage of the same recipe.

    Raises:
        RunError: if it is not there; ``command`` makes it, and ``key`` names another in the recipe.
    """
    start = default_output_dir(recipe, stage)
    if not (start / "final").is_dir():
        raise RunError(
            f"There is no {_RESULTS[stage]} model at {start}: run `{command}` with this recipe first, or name one by "
            f"--set {key}=FOLDER."
        )
    return str(start)


def default_output_dir(recipe: Recipe, stage: Stage) -> Path:
    """Returns where a stage of a recipe goes unless told otherwise: runs/NAME/STAGE."""
    return Path("runs") / recipe.name / stage
