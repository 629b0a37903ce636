"""Numbers in text, the scores beside two answers, and how strongly a label is held."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest
from test_data_raw import write

from selfjudge.data.formats.base import Row
from selfjudge.data.formats.numbers import to_number
from selfjudge.data.formats.scores import SCORES, read_scores
from selfjudge.data.formats.strength import from_ratings, from_scale, from_votes
from selfjudge.data.sources import load_preferences, write_records

CASES = Path(__file__).parents[2].parent / "shared" / "cases" / "05"


@pytest.mark.parametrize(("value", "number"), [(7, 7), ("7.0", 7), (" -2 ", -2), ("1e2", 100), (0, 0), (2.5, 2.5)])
def test_numbers_and_texts_that_are_numbers(value: Any, number: float) -> None:
    assert to_number(value) == number


@pytest.mark.parametrize("value", [True, None, "", "N/A", "7 points", "nan", "inf", math.inf, [1], "9" * 400, 10**400])
def test_all_else_is_no_number(value: Any) -> None:
    assert to_number(value) is None


def test_strengths_by_hand() -> None:
    assert [from_scale(p, 3) for p in (0, 1, -3, 9)] == pytest.approx([0.5, 2 / 3, 1, 1])
    assert from_ratings(4, 4) == 0.5
    assert from_ratings(5, 4) == pytest.approx(math.e / (1 + math.e))
    assert from_ratings(1e6, -1e6) == 1
    assert [from_votes(votes) for votes in ([-1, -3, 2], [1, 1], [1, 0], [1, -1])] == pytest.approx(
        [2 / 3, 1, 0.75, 0.5]
    )


def scored(*scores: Any, names: tuple[str, ...] = SCORES[0]) -> dict[str, Any]:
    return {"prompt": "Sky?", "chosen": "Blue.", "rejected": "Green!", **dict(zip(names, scores, strict=True))}


@pytest.mark.parametrize("names", SCORES)
@pytest.mark.parametrize("kind", [float, str])
def test_every_pair_of_score_columns_orders_the_answers(tmp_path: Path, names: tuple[str, str], kind: type) -> None:
    rows = [scored(kind(a), kind(b), names=names) for a, b in ((4, 2), (3, 3), (1, 2))]
    loaded = load_preferences(write(tmp_path / "a.jsonl", rows))
    assert loaded.reasons() == {"equal scores": 1, "chosen scored below rejected": 1}
    assert [record.strength for record in loaded.records] == [from_ratings(4, 2)]
    assert loaded.unused == ()
    tied = load_preferences(tmp_path / "a.jsonl", tie_rule="longer").records[1]
    assert (tied.chosen, tied.strength) == ("Green!", 0.5)


def test_a_margin_is_a_difference(tmp_path: Path) -> None:
    rows = [scored(margin, names=("margin",)) for margin in (1.5, "0", -2)]
    loaded = load_preferences(write(tmp_path / "a.jsonl", rows))
    assert [record.strength for record in loaded.records] == [from_ratings(1.5, 0)]
    assert loaded.reasons() == {"equal scores": 1, "chosen scored below rejected": 1}


@pytest.mark.parametrize("scores", [(3, None), (None, 3), (3, "good"), ("nan", 3)])
def test_a_score_alone_or_a_text_is_no_score_and_is_listed(tmp_path: Path, scores: tuple[Any, Any]) -> None:
    loaded = load_preferences(write(tmp_path / "a.jsonl", [scored(*scores)]))
    assert [record.strength for record in loaded.records] == [None]
    assert {item.name for item in loaded.unused} == {n for n, s in zip(SCORES[0], scores, strict=True) if s is not None}


def test_the_first_pair_of_numbers_counts() -> None:
    row = Row({**scored(1, None), "chosen_rating": "5", "rejected_rating": 2, "margin": 9}, 1, 0, "src")
    assert read_scores(row) == (5, 2)
    assert set(row.unused()) == {"prompt", "chosen", "rejected", "score_chosen", "margin"}


def test_a_csv_file_gives_what_the_same_jsonl_file_gives(tmp_path: Path) -> None:
    rows = [scored(5.0, 3.5), scored(2.0, 2.0), scored(1.0, 4.0)]
    with (tmp_path / "a.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    loaded = load_preferences(write(tmp_path / "a.jsonl", rows))
    assert load_preferences(tmp_path / "a.csv") == loaded
    assert len(loaded.records) == 1


def test_prepared_records_keep_their_strength(tmp_path: Path) -> None:
    loaded = load_preferences(write(tmp_path / "a.jsonl", [scored(4, 2), scored(None, None)]))
    write_records(loaded.records, tmp_path / "b.jsonl")
    again = load_preferences(tmp_path / "b.jsonl")
    assert (again.format, again.unused) == ("records", ())
    assert [record.strength for record in again.records] == [from_ratings(4, 2), None]


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not beside this checkout")
@pytest.mark.parametrize("name", ["scores.jsonl", "scores.csv", "scores_other.jsonl", "scores_rating.jsonl"])
def test_the_shared_cases(name: str) -> None:
    loaded = load_preferences(CASES / name)
    assert (loaded.rows, len(loaded.records), loaded.unused) == (6, 2, ())
    assert {record.strength for record in loaded.records} == {from_ratings(7, 5)}
