"""Rows from Python where a path is taken: a list, a generator, a datasets.Dataset, records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from selfjudge.data.candidates import load_candidates
from selfjudge.data.eval_answers import load_answers
from selfjudge.data.eval_prompts import load_eval_prompts
from selfjudge.data.formats.base import PreferenceRecord
from selfjudge.data.io import write_jsonl
from selfjudge.data.judge_sets import load_judge_set
from selfjudge.data.prompts import load_comparisons, load_prompts
from selfjudge.data.sources import load_preferences
from selfjudge.data.store import Cache
from selfjudge.errors import DataError, RecipeError
from selfjudge.recipes.load import changed, load_recipe, of_rows

PAIRS = [{"prompt": f"Name {n}.", "chosen": f"{n} is it.", "rejected": f"Not {n}.", "note": n} for n in range(30)]
JUDGED = [{"prompt": f"Name {n}.", "response_a": f"{n}!", "response_b": "?", "label": "A"} for n in range(30)]
SCORED = [{"prompt": f"Name {n}.", "candidates": [f"{n}", "no"], "scores": [1, 0]} for n in range(30)]
ASKED = [{"prompt": f"Name {n}."} for n in range(30)]
ANSWERED = [{**row, "output": str(n)} for n, row in enumerate(ASKED)]

kinds = pytest.mark.parametrize("kind", [list, iter, Dataset.from_list], ids=["list", "generator", "Dataset"])
Kind = Callable[[list[dict[str, Any]]], Any]


@kinds
def test_pairs_are_read_as_from_a_file(tmp_path: Path, kind: Kind) -> None:
    write_jsonl(tmp_path / "rows.jsonl", PAIRS)
    found, expected = load_preferences(kind(PAIRS)), load_preferences(tmp_path / "rows.jsonl")
    assert (found.fingerprint, found.rows, found.format) == (expected.fingerprint, 30, "preference")
    assert [record.id for record in found.records[:2]] == ["rows-0", "rows-1"]
    assert found.unused == expected.unused
    assert len(load_preferences(kind(PAIRS), limit=7).records) == 7


@kinds
@pytest.mark.parametrize(
    ("load", "rows"),
    [
        (load_comparisons, JUDGED),
        (load_judge_set, JUDGED),
        (load_judge_set, PAIRS),
        (lambda source: load_prompts(source).prompts, ASKED),
        (lambda source: load_prompts(source).prompts, JUDGED),
        (lambda source: load_prompts(source).prompts, PAIRS),
        (load_candidates, SCORED),
        (load_eval_prompts, ASKED),
        (lambda source: load_answers(source, load_eval_prompts(ASKED)), ANSWERED),
    ],
)
def test_every_loader_takes_rows(
    tmp_path: Path, kind: Kind, load: Callable[[Any], Any], rows: list[dict[str, Any]]
) -> None:
    write_jsonl(tmp_path / "rows.jsonl", rows)
    found = load(kind(rows))
    assert len(found) == 30
    assert found == load(tmp_path / "rows.jsonl")


def test_records_are_rows_too() -> None:
    loaded = load_preferences(PAIRS)
    again = load_preferences(loaded.records)
    assert (again.format, again.fingerprint, again.unused) == ("records", loaded.fingerprint, ())
    assert all(isinstance(record, PreferenceRecord) for record in again.records)


def test_tuples_and_arrays_are_lists() -> None:
    row = {"prompt": "Say hi.", "responses": np.array(["No.", "Hello!"]), "scores": (np.float32(2.5), 9)}
    (record,) = load_preferences([row]).records
    assert (record.chosen, record.rejected) == ("Hello!", "No.")
    arrays = Dataset.from_list([{**row, "responses": ["No.", "Hello!"], "scores": [2.5, 9.0]}]).with_format("numpy")
    assert load_preferences(arrays).records[0].chosen == "Hello!"


def test_a_dataset_is_found_again_and_an_iterable_never_is(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")

    def made() -> int:
        return len(list((tmp_path / "cache").iterdir())) if (tmp_path / "cache").exists() else 0

    rows = [dict(row) for row in PAIRS]
    for text in ("One.", "Two."):
        rows[0]["chosen"] = text
        assert load_preferences(rows, cache=cache).records[0].chosen == text
    assert made() == 0
    dataset = Dataset.from_list(PAIRS)
    assert load_preferences(dataset, cache=cache) == load_preferences(dataset, cache=cache)
    assert made() == 1
    assert load_preferences(dataset.select([3]), cache=cache).records[0].chosen == "3 is it."
    assert made() == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows: there is no row in it"),
        ({"prompt": "a"}, "rows: found one dict, which is not a list of rows; give a datasets.Dataset"),
        (DatasetDict(train=Dataset.from_list(PAIRS)), "rows: found one DatasetDict, which is not a list of rows"),
        (3, "rows: found one int, which is not a list of rows"),
        ([PAIRS[0], "text"], "rows, row 2: expected a mapping, found a string"),
        ([{1: "a"}], "rows, row 1: expected a mapping, found a column whose name is not text"),
    ],
)
@pytest.mark.parametrize("load", [load_preferences, load_comparisons, load_prompts, load_judge_set, load_eval_prompts])
def test_what_is_no_row_is_an_error(load: Callable[[Any], Any], rows: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load(rows)
    # A loader of something else refuses the first row before it comes to the second.
    assert str(caught.value).startswith((message, "rows, row 1: no"))


def test_a_bad_row_is_named_by_its_number() -> None:
    with pytest.raises(DataError, match=r"^rows, row 2: no response_b; correct or remove this row\.$"):
        load_comparisons(iter([JUDGED[0], {**JUDGED[1], "response_b": None}]))


def test_rows_take_the_place_of_one_source() -> None:
    recipe = changed(load_recipe("demo"), ["data.sources.0.limit=5", "data.sources.0.format=judge"])
    (source,) = of_rows(recipe).data.sources
    assert (source.path, source.limit, source.format) == ("rows", 5, "judge")
    assert recipe.data.sources[0].path == "builtin:world"
    several = changed(recipe, ["data.sources=[{path: a.jsonl}, {path: b.jsonl}]"])
    with pytest.raises(RecipeError, match=r"rows take the place of data\.sources, and there are 2; leave one"):
        of_rows(several)


def test_the_recipe_of_a_run_on_rows_says_that_they_are_missing() -> None:
    with pytest.raises(DataError, match=r"^rows: these are rows that came from Python, not a file; give them again"):
        load_preferences("rows")
