"""Judge files and prompt files: read in full, or an error that names the line."""

import json
from pathlib import Path
from typing import Any

import pytest

from selfjudge.data.prompts import PromptRow, load_comparisons, load_prompts
from selfjudge.data.sources import load_preferences
from selfjudge.errors import DataError
from selfjudge.records import Message

ASK = {"role": "user", "content": "Sky?"}


def jsonl(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    """The rows as a JSONL file, with a blank line before the last row, so that lines and indices differ."""
    lines = [json.dumps(row) for row in rows]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join([*lines[:-1], "", lines[-1]]) + "\n")
    return path


def pair(label: object = "A", **columns: object) -> dict[str, Any]:
    return {"prompt": "Sky?", "response_a": "blue", "response_b": "green", "label": label, **columns}


def user(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def test_comparisons_with_and_without_label_and_id(tmp_path: Path) -> None:
    unlabelled = {"prompt": [ASK], "response_a": "x", "response_b": ""}
    found = load_comparisons(jsonl(tmp_path, pair("tie", id="t"), pair(id=12), unlabelled))
    assert [(c.id, c.label, c.response_b) for c in found] == [
        ("t", "tie", "green"),
        ("12", "A", "green"),
        ("2", None, ""),
    ]
    assert found[2].prompt == user("Sky?")


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (pair("C"), "label is not A, B or tie"),
        (pair(prompt=""), "empty prompt"),
        (pair(response_b=None), "no response_b"),
        (pair(response_a=3), "response_a is not text"),
    ],
)
def test_a_bad_comparison_names_its_line(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError) as caught:
        load_comparisons(jsonl(tmp_path, pair(), pair(), row))
    assert f"in.jsonl, line 4: {what}" in str(caught.value)


def test_a_judge_file_as_training_pairs(tmp_path: Path) -> None:
    loaded = load_preferences(jsonl(tmp_path, pair("A"), pair("B"), pair("tie"), pair(None), pair("x")))
    assert loaded.format == "judge"
    assert [(record.chosen, record.rejected) for record in loaded.records] == [("blue", "green"), ("green", "blue")]
    assert [(d.line, d.reason) for d in loaded.dropped] == [
        (3, "label is tie"),
        (4, "no label"),
        (6, "label is not A, B or tie"),
    ]


def test_prompts_with_candidates(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"prompt": "a"}, {"prompt": [ASK], "candidates": ["x", ""], "id": "k"}, {"prompt": "a"})
    loaded = load_prompts(path)
    assert (loaded.format, loaded.rows) == ("prompts", 3)
    assert loaded.prompts == (
        PromptRow("0", user("a")),
        PromptRow("k", user("Sky?"), ("x", "")),
        PromptRow("2", user("a")),  # equal prompts of a prompts file are all answered
    )
    assert len(load_prompts(path, limit=1).prompts) == 1


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"prompt": " "}, "empty prompt"),
        ({"prompt": None}, "no prompt"),
        ({"prompt": "a", "candidates": []}, "candidates is not a list of at least one text"),
        ({"prompt": "a", "candidates": "x"}, "candidates is not a list of at least one text"),
        ({"prompt": "a", "candidates": ["x", 2]}, "a candidate is not text"),
    ],
)
def test_a_bad_prompt_names_its_line(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError) as caught:
        load_prompts(jsonl(tmp_path, {"prompt": "a"}, row))
    assert f"in.jsonl, line 3: {what}" in str(caught.value)


def test_preference_and_judge_files_give_each_prompt_once(tmp_path: Path) -> None:
    rows = [{"prompt": name, "chosen": "x", "rejected": "y", "id": f"{name}{i}"} for i, name in enumerate("aba")]
    loaded = load_prompts(jsonl(tmp_path, *rows, {"prompt": "c", "chosen": "x", "rejected": "x"}))
    assert (loaded.format, loaded.rows, len(loaded.dropped)) == ("preference", 4, 1)
    assert loaded.prompts == (PromptRow("a0", user("a")), PromptRow("b1", user("b")))
    judged = load_prompts(jsonl(tmp_path, pair(), pair("tie"), pair(prompt="Sea?")))
    assert (judged.format, [row.prompt for row in judged.prompts]) == ("judge", [user("Sky?"), user("Sea?")])


def test_no_prompt_column_and_no_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"column `prompt` is missing; found: ask"):
        load_prompts(jsonl(tmp_path, {"ask": "a"}, {"ask": "b"}))
    (tmp_path / "empty.jsonl").write_text("\n")
    for load in (load_prompts, load_comparisons, load_preferences):
        with pytest.raises(DataError, match="there is no row in it"):
            load(tmp_path / "empty.jsonl")


def test_prompts_under_other_names(tmp_path: Path) -> None:
    rows = [{"question": "a", "system": "s"}, {"instruction": "b", "input": "c"}, {"turns": [{"content": "d"}]}]
    found = load_prompts(jsonl(tmp_path, *rows)).prompts
    assert [[m.content for m in row.prompt] for row in found] == [["s", "a"], ["b\nc"], ["d"]]
    with pytest.raises(DataError, match=r"line 2: turns is not a list of one question"):
        load_prompts(jsonl(tmp_path, {"turns": ["a", "b"]}))


def test_sample_says_which_rows_give_no_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from selfjudge.cli.sample import _prompts

    path = jsonl(
        tmp_path, {"prompt": "a", "chosen": "x", "rejected": "y"}, {"prompt": "b", "chosen": "x", "rejected": "x"}
    )
    assert [row.prompt[0].content for row in _prompts(path, None)] == ["a"]
    assert capsys.readouterr().err == f"{path}: 1 rows give no prompt: identical responses\n"
