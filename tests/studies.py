"""A small study, and what its finished cells write."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from selfjudge.recipes.load import load_recipe
from selfjudge.recipes.schema import Recipe
from selfjudge.recipes.study import StudySection
from selfjudge.study import compare
from selfjudge.study.cells import Cell
from selfjudge.study.measure import Answer

CELLS = {
    "sft": {"method": "sft"},
    "jsft": {"method": "jsft"},
    "self": {"method": "train", "set": ["self_training.labels=soft"]},
    "again": {"method": "train", "start": "self"},
    "reward": {"method": "dpo"},
    "reward-model": {"method": "reward-model"},
    "rlhf": {"method": "rlhf"},
}


def study_recipe() -> Recipe:
    """Returns the demo's recipe with a study of these cells."""
    made = load_recipe("demo")
    made.study = StudySection.model_validate({"cells": CELLS, "limit": 3, "candidates": [1, 2]})
    return made


def written(cell: Cell, texts: list[str], values: list[float], file: str = "answers.jsonl", **result: Any) -> None:
    """Writes answers, each to a prompt and a task of its own, that beat the reference where their value is positive."""
    path = cell.folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        Answer(id=str(i), task=f"t{i}", prompt=f"p{i}", text=text, value=v, score=0.5 + (v > 0) / 2 - (v < 0) / 2)
        for i, (text, v) in enumerate(zip(texts, values, strict=True))
    ]
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows))
    content = {"cell": cell.name, "seconds": 10.0 * (1 + cell.seed), "peak_bytes": 2**30 * (1 + cell.seed), **result}
    cell.result.write_text(json.dumps(content))


def in_this_process(monkeypatch: pytest.MonkeyPatch, result_of: Callable[[Cell, Recipe], dict[str, Any]]) -> list[Cell]:
    """Lets ``result_of`` stand for all training and measuring: it returns what cell.json has to hold, or raises.

    Returns the list of cells that were begun, as it grows.
    """
    begun: list[Cell] = []

    def run_cell(cell: Cell, recipe: Recipe, threads: int, settings: str) -> None:
        begun.append(cell)
        assert all(cell.other(name).joinpath("cell.json").is_file() for name in cell.needs)
        cell.folder.mkdir(parents=True, exist_ok=True)
        cell.result.write_text(json.dumps({"settings": settings, "seconds": 1.0, **result_of(cell, recipe)}))

    @contextmanager
    def pool(jobs: int, threads: int) -> Iterator[ThreadPoolExecutor]:
        with ThreadPoolExecutor(jobs) as executor:
            yield executor

    monkeypatch.setattr("selfjudge.study.run_cell.run_cell", run_cell)
    monkeypatch.setattr(compare, "_pool", pool)
    return begun
