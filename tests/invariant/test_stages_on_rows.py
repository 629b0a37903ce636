"""Stages on rows from Python: the same run as on a file of them, also where they can be read once only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset
from transformers import PreTrainedModel

from selfjudge.data.io import read_jsonl, write_jsonl
from selfjudge.engines.load import load_model
from selfjudge.errors import RecipeError, RunError
from selfjudge.recipes.schema import Recipe
from selfjudge.training.jsft import run_jsft
from selfjudge.training.jsft_trainer import JsftTrainer
from selfjudge.training.self_training import run_self_training
from selfjudge.world.people import preference_records

Make = Callable[..., Recipe]
Distance = Callable[[PreTrainedModel, PreTrainedModel], float]
ROWS = [record.model_dump() for record in preference_records(24, seed=0)]
BAD = {**ROWS[0], "id": "bad", "rejected": ROWS[0]["chosen"]}
TRAINING = {"max_steps": 3, "save_steps": 1, "learning_rate": 1e-2}


@pytest.fixture
def recipe_of(tiny_recipe: Make) -> Make:
    """Makes recipes of three steps; of ``path``, or of the small world, which rows take the place of."""

    def make(path: Path | None = None, **more: Any) -> Recipe:
        source = {"path": str(path or "builtin:world"), "limit": 20}
        stages = {"jsft": {"training": TRAINING}, "self_training": {"training": TRAINING, **more}}
        return tiny_recipe(data={"sources": [source], "held_out": 0.3}, **stages)

    return make


@pytest.mark.parametrize("kind", [iter, Dataset.from_list], ids=["generator", "Dataset"])
def test_jsft(tmp_path: Path, recipe_of: Make, distance: Distance, kind: Callable[[Any], Any]) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", [BAD, *ROWS])
    of_file = run_jsft(recipe_of(tmp_path / "pairs.jsonl"), tmp_path / "file")
    of_rows = run_jsft(recipe_of(), tmp_path / "rows", rows=kind([BAD, *ROWS]))
    assert distance(load_model(of_file.path).model, load_model(of_rows.path).model) == 0
    assert list(of_rows.info["data"].values()) == list(of_file.info["data"].values())
    assert of_rows.info["records"] == {"rows": 19}  # the source's limit counts rows
    assert of_rows.info["rows"] == of_file.info["rows"]
    ((_, dropped),) = read_jsonl(of_rows.path / "dropped.jsonl")
    assert dropped == {"source": "rows", "id": "bad", "line": 1, "reason": "identical responses"}
    assert "| rows | 19 |" in (of_rows.model / "README.md").read_text()
    written = yaml.safe_load((of_rows.path / "recipe.yaml").read_text())
    assert [source["path"] for source in written["data"]["sources"]] == ["rows"]


def test_rounds_of_self_training_read_a_generator_once(tmp_path: Path, recipe_of: Make, distance: Distance) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", ROWS)
    settings = {"rounds": 2, "replay": 0.5, "lora": None}
    of_file = run_self_training(recipe_of(tmp_path / "pairs.jsonl", **settings), tmp_path / "file")
    of_rows = run_self_training(recipe_of(**settings), tmp_path / "rows", rows=iter(ROWS))
    assert distance(load_model(of_file.path).model, load_model(of_rows.path).model) == 0
    assert [r["judge"] for r in of_rows.info["rounds"]] == [r["judge"] for r in of_file.info["rounds"]]
    assert of_rows.info["rounds"][0]["judge"] is not None
    assert list(of_rows.info["data"]) == ["rows"]


def test_a_run_goes_on_with_the_same_rows_alone(
    tmp_path: Path, recipe_of: Make, distance: Distance, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, recipe, folder = run_jsft(recipe_of(), tmp_path / "whole", rows=ROWS), recipe_of(), tmp_path / "run"
    step, calls = JsftTrainer.training_step, []

    def cut(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(JsftTrainer, "training_step", cut)
        with pytest.raises(KeyboardInterrupt):
            run_jsft(recipe, folder, rows=iter(ROWS))
    with pytest.raises(RunError, match=r"was started with other settings of data\.sources"):
        run_jsft(recipe, folder, resume=True)
    with pytest.raises(RunError, match="was started with other rows: give the same rows"):
        run_jsft(recipe, folder, resume=True, rows=ROWS[::-1])
    run = run_jsft(recipe, folder, resume=True, rows=iter(ROWS))
    assert run.info["steps"] == 3
    assert distance(load_model(run.path).model, load_model(whole.path).model) == 0


@pytest.mark.parametrize("stage", [run_jsft, run_self_training])
def test_rows_for_several_sources_are_refused(tmp_path: Path, tiny_recipe: Make, stage: Callable[..., Any]) -> None:
    recipe = tiny_recipe(data={"sources": [{"path": "builtin:world"}, {"path": "a.jsonl"}]})
    with pytest.raises(RecipeError, match=r"^tiny: rows take the place of data\.sources, and there are 2"):
        stage(recipe, tmp_path / "run", rows=ROWS)
    assert not (tmp_path / "run").exists()
