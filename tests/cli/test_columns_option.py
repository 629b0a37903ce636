"""The commands on a file with columns of its own: named on the command line or in a recipe, and listed where unused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROWS = [
    {"question": "Sky?", "better_answer": "It is blue.", "other": "It is [green].", "topic": "[colour]"},
    {"question": "Sea?", "better_answer": "It is grey.", "other": "It is pink.", "topic": None},
]
COLUMNS = "prompt=question,chosen=better_answer,rejected=other"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_inspect_and_prepare_take_names_and_list_what_is_left(
    run: Callable[..., Any], source: Path, tmp_path: Path
) -> None:
    refused = run("data", "inspect", source)
    assert refused.code == 2
    assert f"`--columns {COLUMNS}`" in refused.err
    for result in (
        run("data", "inspect", source, "--columns", COLUMNS),
        run("data", "prepare", source, "--columns", COLUMNS, "--output", tmp_path / "out.jsonl"),
    ):
        assert result.code == 0, result.err
        listed = result.out.partition("Not used")[2].splitlines()[1:3]
        assert [line.split() for line in listed] == [
            ["column", "or", "field", "rows", "such", "as"],
            ["topic", "1", "[colour]"],
        ]
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["prompt"][0]["content"], row["chosen"]) for row in rows] == [
        ("Sky?", "It is blue."),
        ("Sea?", "It is grey."),
    ]
    again = run("data", "inspect", tmp_path / "out.jsonl")
    assert (again.code, "Not used" in again.out) == (0, False)


def test_names_that_cannot_be_read_end_in_one_sentence(run: Callable[..., Any], source: Path) -> None:
    result = run("data", "inspect", source, "--columns", "prompt")
    assert (result.code, result.out) == (2, "")
    assert result.err == "Error: --columns: 'prompt' does not say which column holds what; write prompt=NAME.\n"
