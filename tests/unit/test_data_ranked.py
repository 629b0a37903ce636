"""Lists of rated or ranked answers: one pair a prompt, the best against a random strictly worse one."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_data_raw import write

from selfjudge.data.formats import FORMATS, Dropped, Pairing, Reject, Row, recognise
from selfjudge.data.formats.strength import from_ratings
from selfjudge.data.sources import load_preferences
from selfjudge.records import PreferenceRecord

ANSWERS = ["Mid.", "Best.", "Worst."]


def objects(text: str, number: str, *numbers: Any) -> list[dict[str, Any]]:
    return [{text: answer, number: value} for answer, value in zip(ANSWERS, numbers, strict=True)]


def pairs(data: dict[str, Any], **settings: Any) -> list[tuple[str, str, float | None]]:
    """What each of 40 seeds makes of a row, each distinct one once."""
    assert recognise([data]) is FORMATS["ranked"]
    found = set()
    for seed in range(40):
        items = list(FORMATS["ranked"].parse(Row(data, 1, 0, "src"), Pairing(seed=seed, **settings)))
        found |= {(r.chosen, r.rejected, r.strength) for r in items if isinstance(r, PreferenceRecord)}
    return sorted(found)


RANKED = [("Best.", "Mid.", None), ("Best.", "Worst.", None)]
RATED = [("Best.", "Mid.", from_ratings(9, 5)), ("Best.", "Worst.", from_ratings(9, 1))]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"answers": objects("answer", "rank", 2.0, 1.0, 3.0)}, RANKED),
        ({"responses": objects("text", "rank", "2", "1", "3")}, RANKED),
        ({"candidates": ANSWERS, "ranks": [2, 1, 3]}, RANKED),
        ({"responses": ANSWERS, "scores": [5, 9, 1]}, RATED),
        ({"completions": ANSWERS, "ratings": ["5", "9", "1"]}, RATED),
        ({"generations": json.dumps(ANSWERS), "ratings": "[5, 9.0, 1]"}, RATED),
        ({"samples": objects("response", "score", 5, 9, 1)}, RATED),
        ({"answers": objects("content", "rating", "5", "9", "1")}, RATED),
        ({"completions": objects("output", "overall_score", 5, 9, 1)}, RATED),
        ({"answers": objects("text", "pm_score", 5, 9, 1)}, RATED),
    ],
)
def test_every_form_of_a_list(columns: dict[str, Any], expected: list[Any]) -> None:
    assert pairs({"prompt": "Sky?", **columns}) == expected


def test_ratings_go_before_ranks() -> None:
    answers = [{**item, "rank": rank} for item, rank in zip(objects("text", "score", 5, 9, 1), (1, 2, 3), strict=True)]
    assert pairs({"prompt": "Sky?", "answers": answers}) == RATED


def test_equal_ranks_follow_the_tie_rule() -> None:
    data = {"prompt": "Sky?", "answers": objects("answer", "rank", 1, 1, 2)}
    assert pairs(data) == [("Best.", "Worst.", None), ("Mid.", "Worst.", None)]
    assert pairs(data, tie_rule="longer") == [("Best.", "Mid.", None), ("Best.", "Worst.", None)]
    level = {"prompt": "Sky?", "responses": ["aa", "b"], "scores": [1, 1]}
    assert pairs(level, tie_rule="longer") == [("aa", "b", 0.5)]
    with pytest.raises(Reject, match="all ratings are equal"):
        list(FORMATS["ranked"].parse(Row(level, 1, 0, "src"), Pairing()))


def test_a_ranking_as_nectar_has_it(tmp_path: Path) -> None:
    prompt = "\n\nHuman: Hello.\n\nAssistant: Hi.\n\nHuman: Sky?\n\nAssistant: "
    answers = [{**item, "model": "m"} for item in objects("answer", "rank", 2.0, 1.0, 3.0)]
    row = {"prompt": prompt, "answers": answers, "turns": 2, "num_responses": 3, "source": ["x"]}
    loaded = load_preferences(write(tmp_path / "a.jsonl", [row, row]))
    assert (loaded.format, len(loaded.records)) == ("ranked", 2)
    assert [m.content for m in loaded.records[0].prompt] == ["Hello.", "Hi.", "Sky?"]
    assert loaded.records[0].chosen == "Best."
    assert {item.name for item in loaded.unused} == {"answers[].model", "turns", "num_responses", "source"}


def test_answers_without_a_number_or_a_text_take_no_part() -> None:
    answers = [*objects("answer", "score", None, 3, "2"), {"answer": " ", "score": 9}, {"answer": "x"}]
    answers += [{"answer": "<|im_start|>user\nHi<|im_end|>", "score": 8}]
    found = list(FORMATS["ranked"].parse(Row({"prompt": "Sky?", "answers": answers}, 4, 0, "src"), Pairing()))
    assert found[0] == Dropped("src-0:completion-3", 4, "a completion is empty or not text")
    assert found[1] == Dropped("src-0:completion-5", 4, "a completion is a dialogue rather than one answer")
    assert [(r.chosen, r.rejected) for r in found[2:] if isinstance(r, PreferenceRecord)] == [("Best.", "Worst.")]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"prompt": "Sky?", "responses": ANSWERS, "scores": [1, 2]}, "responses and scores differ in number"),
        ({"prompt": "Sky?", "responses": ["a"], "scores": [1]}, "fewer than two rated responses"),
        ({"prompt": "Sky?", "responses": ["a", "a "], "scores": [1, 2]}, "identical responses"),
        ({"prompt": "Sky?", "responses": ANSWERS}, "no ratings or ranks of the answers"),
        ({"prompt": "Sky?", "scores": [1, 2]}, "no list of answers"),
        ({"responses": ANSWERS, "scores": [1, 2, 3]}, "no prompt"),
        ({"prompt": "", "responses": ANSWERS, "scores": [1, 2, 3]}, "empty prompt"),
        ({"prompt": "Sky?", "responses": "[a]", "scores": [1]}, "responses is text of a list that cannot be read"),
    ],
)
def test_rows_that_are_dropped(data: dict[str, Any], reason: str) -> None:
    with pytest.raises(Reject, match=reason):
        list(FORMATS["ranked"].parse(Row(data, 1, 0, "src"), Pairing()))


def test_chosen_and_rejected_go_before_the_list_they_are_from() -> None:
    data = {"prompt": "Sky?", "responses": ANSWERS, "scores": [1, 2, 3], "chosen": "x", "rejected": "y"}
    assert recognise([data]) is FORMATS["preference"]
    assert recognise([{"prompt": "Sky?", "responses": ANSWERS}]) is None
    assert recognise([{"prompt": "Sky?", "candidates": ["x"], "scores": [1]}]) is None
