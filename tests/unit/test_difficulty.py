"""Difficulties of evaluation prompts: which row belongs to which prompt, and what is refused."""

from __future__ import annotations

import json

import pytest

from selfjudge.data.difficulty import load_difficulties
from selfjudge.data.eval_prompts import load_eval_prompts
from selfjudge.errors import DataError


def prompts_of(tmp_path, *rows):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_eval_prompts(path)


@pytest.mark.parametrize(
    "text",
    [
        "index,instruction_difficulty\n1,-0.5\n0,2.25\n2,9\n",  # AlpacaEval's instruction_difficulty.csv
        ",instruction_difficulty\n1,-0.5\n0,2.25\n2,9\n",  # pandas' index has no name
        # AlpacaEval's df_gamed.csv: two rows of each prompt.
        "model,index,preference,instruction_difficulty\na,0,0.1,2.25\na,1,,-0.5\nb,0,0.9,2.25\nb,1,0.2,-0.5\n",
        "difficulty\n2.25\n-0.5\n",  # by position
    ],
)
def test_prompts_without_an_id_have_their_position(tmp_path, text):
    path = tmp_path / "d.csv"
    path.write_text(text)
    prompts = prompts_of(tmp_path, {"instruction": "Name a fox."}, {"instruction": "Name an owl."})
    assert load_difficulties(path, prompts) == [2.25, -0.5]


def test_the_prompts_own_file_can_have_them(tmp_path):
    rows = [
        {"id": "x", "prompt": "Name a fox.", "difficulty": 1},
        {"id": 7, "prompt": "Name an owl.", "difficulty": 0.5},
    ]
    prompts = prompts_of(tmp_path, *rows)
    assert load_difficulties(tmp_path / "prompts.jsonl", prompts[::-1]) == [0.5, 1]


def test_prompts_of_one_id_have_the_rows_of_their_places(tmp_path):
    rows = [{"id": "x", "prompt": f"Name {n}.", "difficulty": n} for n in (3, 1, 2)]
    prompts = prompts_of(tmp_path, *rows, {"id": "y", "prompt": "Name none.", "difficulty": 0})
    assert load_difficulties(tmp_path / "prompts.jsonl", prompts) == [3, 1, 2, 0]
    assert load_difficulties(tmp_path / "prompts.jsonl", prompts[3:]) == [0]  # others are asked for by nobody
    one = tmp_path / "one.jsonl"
    one.write_text('{"id": "x", "difficulty": 5}\n{"id": "y", "difficulty": 6}\n')
    assert load_difficulties(one, prompts) == [5, 5, 5, 6]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"index": 1, "difficulty": 1}], "no difficulty of 1 of 1 prompts, the first of id '0'"),
        ([{"index": 0, "hardness": 1}], "line 1: none of the columns instruction_difficulty, difficulty"),
        ([{"index": 0, "difficulty": "hard"}], "line 1: difficulty is not a number"),
        ([{"index": 0, "difficulty": [1]}], "line 1: difficulty is not a number"),
        ([{"index": 0, "difficulty": "nan"}], "line 1: difficulty is not a number"),
        ([{"index": 0, "difficulty": 1}, {"index": 0, "difficulty": 2}], "line 2: another difficulty of prompt '0'"),
    ],
)
def test_bad_files_are_named(tmp_path, rows, words):
    prompts = prompts_of(tmp_path, {"prompt": "Name a fox."})
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=words):
        load_difficulties(path, prompts)
