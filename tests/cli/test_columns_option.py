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


def test_judge_sample_and_eval_take_names(run: Callable[..., Any], runs: Path, write: Any, tmp_path: Path) -> None:
    rows = [{"ask": f"Name a fox, {i}.", "one": "fox", "two": "owl fox", "better": "A"} for i in range(3)]
    source, model = write("own.jsonl", rows), ("--model", runs / "jsft")
    names = ("--columns", "prompt=ask,response_a=one,response_b=two,label=better")
    out = [tmp_path / name for name in ("judged.jsonl", "answers.jsonl", "eval.json", "audit.json")]
    commands = (
        ("judge", "--output", out[0], *names),
        ("sample", "--output", out[1], "--n", "2", "--max-new-tokens", "4", "--columns", "prompt=ask"),
        ("eval", "judge", "--json", out[2], *names),
        ("eval", "audit", "--json", out[3], *names),
    )
    for command in commands:
        bare = [word for word in command if word not in ("--columns", command[-1])]
        refused = run(*bare, *model, "--input", source)
        assert (refused.code, refused.out) == (2, "")
        assert refused.err.startswith("Error: "), refused.err
        result = run(*command, *model, "--input", source)
        assert result.code == 0, result.err
    assert [row["id"] for row in map(json.loads, out[0].read_text().splitlines())] == ["0", "1", "2"]
    answers = [json.loads(line) for line in out[1].read_text().splitlines()]
    assert [row["prompt"][0]["content"] for row in answers] == [row["ask"] for row in rows]
    assert json.loads(out[2].read_text())["overall"]["pairs"] == 3
    assert json.loads(out[3].read_text())["summary"]["pairs"] == 3


@pytest.mark.parametrize("command", [("judge",), ("sample",), ("eval", "judge"), ("eval", "audit")])
def test_a_column_that_is_not_there_is_named_before_the_model_is_loaded(
    run: Callable[..., Any], source: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    output = ("--json" if command[0] == "eval" else "--output", tmp_path / "out")
    result = run(*command, "--model", "nowhere", "--input", source, *output, "--columns", "prompt=ask")
    assert (result.code, result.out, (tmp_path / "out").exists()) == (2, "", False)
    assert (
        "columns: the first rows have no `ask` to be `prompt`; choose from better_answer, other, question" in result.err
    )
