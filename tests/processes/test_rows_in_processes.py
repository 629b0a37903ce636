"""Rows from Python in two real processes: each has all of them, and one run comes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from launch import job, launch, outcomes
from transformers import PreTrainedModel

from selfjudge.engines.load import load_model
from selfjudge.recipes.schema import Recipe
from selfjudge.training.jsft import run_jsft
from selfjudge.world.people import preference_records


@pytest.mark.slow
def test_two_processes_train_on_rows_as_one_does(
    tmp_path: Path,
    tiny_recipe: Callable[..., Recipe],
    distance: Callable[[PreTrainedModel, PreTrainedModel], float],
) -> None:
    rows = [record.model_dump() for record in preference_records(7, seed=0)]
    training = {"optim": "sgd", "learning_rate": 0.05, "save_strategy": "no", "max_steps": 2}
    one, two = (tiny_recipe(jsft={"training": {**training, "per_device_train_batch_size": size}}) for size in (8, 4))
    alone = run_jsft(one, tmp_path / "one", rows=iter(rows))
    same = job("jsft", two, tmp_path / "two", rows=rows)
    other = job("jsft", two, tmp_path / "other", **{"rows of 0": rows, "rows of 1": rows[::-1]})
    launch([same, other], 2)
    assert outcomes(same, 2) == ["done", "done"]
    info = json.loads((tmp_path / "two" / "run.json").read_text(encoding="utf-8"))
    assert (info["processes"], info["data"], info["rows"]) == (2, alone.info["data"], alone.info["rows"])
    assert distance(load_model(tmp_path / "two").model, load_model(alone.path).model) < 2e-6
    for told in outcomes(other, 2):
        assert told.startswith("RunError: The training processes have different rows: give each of them the same")
    assert not (tmp_path / "other").exists()
