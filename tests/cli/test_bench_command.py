"""`selfjudge bench` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_bad_input import refused


@pytest.mark.parametrize("task", ["judge", "tournament", "sample"])
def test_figures_of_both_sides(run, tmp_path: Path, task: str) -> None:
    file = tmp_path / "figures.json"
    options = ("--shape", "tiny", "--size", "2", "--repeats", "1", "--against", "published", "--json", file)
    result = run("bench", task, *options)
    assert result.code == 0, result.err
    figures = json.loads(file.read_text())
    assert figures["unit"] == {"judge": "pairs/s", "tournament": "prompts/s", "sample": "tokens/s"}[task]
    assert figures["ratio"] == pytest.approx(figures["ours"] / figures["published"], rel=1e-6)  # one turn
    assert figures["share_of_ceiling"] > 0
    assert {"device", "dtype", "torch", "model", "task"} <= set(figures)
    assert ("peak_memory_ratio" in figures) == torch.cuda.is_available()
    assert "Ratio" in result.out


def test_a_real_model_and_real_pairs(run, tmp_path: Path, tiny_model_folder: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    row = {"prompt": "Name two things of the sea for Ada.", "response_a": "coral tide", "response_b": "um"}
    pairs.write_text("".join(json.dumps({**row, "id": str(i)}) + "\n" for i in range(3)))
    result = run("bench", "judge", "--model", tiny_model_folder, "--input", pairs, "--template", "world")
    assert result.code == 0, result.err
    assert "pairs/s" in result.out
    assert "Ratio" not in result.out


def test_bad_options_end_in_one_sentence(run, tmp_path: Path) -> None:
    refused(run("bench", "nap", "--shape", "tiny"), "There is no benchmark 'nap'")
    refused(run("bench", "judge", "--shape", "9b"), "There is no shape '9b'")
    there = tmp_path / "there.json"
    there.write_text("{}")
    refused(run("bench", "judge", "--shape", "tiny", "--json", there), "is already there")
    assert there.read_text() == "{}"
    assert run("bench", "judge", "--against", "magic").code == 2
    assert run("bench", "sample", "--input", there).code == 2
