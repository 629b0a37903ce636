"""Rows with placeholders: consistent within a row, loadable as before, whole or not there."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from test_data_raw import write

from selfjudge.data.anonymize import anonymize_file, anonymize_row
from selfjudge.data.candidates import load_candidates
from selfjudge.data.formats.messages import Reject
from selfjudge.data.personal import Finder
from selfjudge.data.sources import load_preferences
from selfjudge.errors import DataError

pytest.importorskip("presidio_analyzer", reason="the extra privacy is not installed")


@pytest.fixture(scope="module")
def finder() -> Finder:
    return Finder()


def clean(row: dict[str, Any], finder: Finder, line: int = 7) -> dict[str, Any]:
    return anonymize_row(row, finder, line)[0]


def test_one_value_has_one_placeholder_in_all_texts_of_a_row(finder: Finder) -> None:
    row = {
        "prompt": [{"role": "user", "content": "I am ada@example.com, call +44 20 7946 0958"}],
        "chosen": "Dear ADA@example.com (or bob@example.com): +442079460958?",
        "rejected": "bob@example.com is not ada@example.com",
        "score": 1.5,
        "label": "A",
    }
    clean_row, places = anonymize_row(row, finder, 1)
    assert clean_row == {
        "prompt": [{"role": "user", "content": "I am <EMAIL_1>, call <PHONE_1>"}],
        "chosen": "Dear <EMAIL_1> (or <EMAIL_2>): <PHONE_1>?",
        "rejected": "<EMAIL_2> is not <EMAIL_1>",
        "score": 1.5,
        "label": "A",
    }
    assert places == {"<EMAIL_1>": 3, "<EMAIL_2>": 2, "<PHONE_1>": 2}


class NamesByHand:
    """Finds Al where he is introduced, and nowhere else, as a recogniser may."""

    names = "by hand"

    def find(self, text: str) -> list[Any]:
        from selfjudge.data.personal import Found

        at = text.find("am Al")
        return [Found("NAME", at + 3, at + 5)] if at >= 0 else []


def test_what_is_found_once_is_replaced_everywhere_as_a_whole_word() -> None:
    row = {"prompt": "I am Al.", "chosen": "Al, also Alan", "rejected": "al"}
    assert clean(row, NamesByHand()) == {"prompt": "I am <NAME_1>.", "chosen": "<NAME_1>, also Alan", "rejected": "al"}


def test_what_is_found_inside_a_word_is_replaced_there_too() -> None:
    assert clean({"prompt": "我am Al是", "chosen": "是Al我"}, NamesByHand()) == {
        "prompt": "我am <NAME_1>是",
        "chosen": "是<NAME_1>我",
    }


def test_of_two_values_the_longer_is_replaced_first(finder: Finder) -> None:
    row = {"prompt": "b@example.com", "chosen": "b@example.com.au"}
    assert clean(row, finder) == {"prompt": "<EMAIL_1>", "chosen": "<EMAIL_2>"}


def test_the_words_of_the_formats_stay() -> None:
    row = {"prompt": [{"role": "Al", "content": "I am Al."}], "label": "Al", "principle": "Al"}
    assert clean(row, NamesByHand()) == row | {"prompt": [{"role": "Al", "content": "I am <NAME_1>."}]}


def test_placeholders_that_are_there_already_are_not_given_again(finder: Finder) -> None:
    row = {"prompt": "<EMAIL_2> and c@example.com", "chosen": "<EMAIL_1>"}
    assert clean(row, finder)["prompt"] == "<EMAIL_2> and <EMAIL_3>"
    assert anonymize_row(clean(row, finder), finder, 1)[1] == {}


def test_ids_stay_apart_and_columns_keep_their_order(finder: Finder) -> None:
    row = {"n": 1, "id": "ada@example.com", "to": {"id": "ada@example.com"}}
    assert list(clean(row, finder).items()) == [("n", 1), ("id", "row-7"), ("to", {"id": "<EMAIL_1>"})]
    assert clean({"id": 4111111111111111}, finder) == {"id": 4111111111111111}
    assert clean({"id": "a-1"}, finder) == {"id": "a-1"}


def test_other_types_and_bad_text(finder: Finder) -> None:
    row = {"when": datetime.date(2024, 5, 1), "n": None, "yes": True, "list": [1, "ada@example.com"]}
    assert clean(row, finder) == {"when": "2024-05-01", "n": None, "yes": True, "list": [1, "<EMAIL_1>"]}
    with pytest.raises(Reject, match="Unicode"):
        clean({"chosen": "\ud800"}, finder)


MAIL = "ada@example.com"
MESSAGES = [{"role": "user", "content": f"I am {MAIL}"}]
RATED = {"annotations": {"helpfulness": {"Rating": "5", "Rationale For Rating": f"Names {MAIL}."}}}
FORMATS = {
    "records": {"id": "a", "prompt": MESSAGES, "chosen": f"Hi {MAIL}", "rejected": "No", "principle": "overall",
                "chosen_rationale": None, "rejected_rationale": None, "source": "s"},
    "hh": {"chosen": f"\n\nHuman: I am {MAIL}\n\nAssistant: Hi {MAIL}",
           "rejected": f"\n\nHuman: I am {MAIL}\n\nAssistant: No"},
    "ultrafeedback": {"instruction": f"I am {MAIL}", "completions": [
        {"response": f"Hi {MAIL}", **RATED},
        {"response": "No", "annotations": {"helpfulness": {"Rating": "1"}}}]},
    "judge": {"id": "j", "prompt": f"I am {MAIL}", "response_a": f"Hi {MAIL}", "response_b": "No", "label": "A"},
    "preference": {"prompt": MESSAGES, "chosen": [{"role": "assistant", "content": f"Hi {MAIL}"}],
                   "rejected": [{"role": "assistant", "content": "No"}]},
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_stays_what_it_is(name: str, finder: Finder, tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.jsonl", [FORMATS[name]]), tmp_path / "out.jsonl"
    report = anonymize_file(str(source), output, finder)
    loaded = load_preferences(output)
    (record,) = loaded.records
    assert loaded.format == name
    assert [m.content for m in record.prompt] == ["I am <EMAIL_1>"]
    assert (record.chosen, record.rejected) == ("Hi <EMAIL_1>", "No")
    assert MAIL not in output.read_text()
    assert (report.rows, report.rows_changed, report.kinds["EMAIL"].rows) == (1, 1, 1)


def test_scored_candidates_stay_loadable(finder: Finder, tmp_path: Path) -> None:
    rows = [{"prompt": "Who?", "candidates": [MAIL, "no"], "scores": [1, 0]}]
    anonymize_file(str(write(tmp_path / "in.json", rows)), tmp_path / "out.jsonl.gz", finder)
    assert load_candidates(tmp_path / "out.jsonl.gz")[0].texts == ("<EMAIL_1>", "no")


def test_the_report_counts_by_hand(finder: Finder, tmp_path: Path) -> None:
    rows = [
        {"a": f"{MAIL} {MAIL}", "b": "bob@example.com"},
        {"a": MAIL, "b": "203.0.113.7"},
        {"a": "nothing", "b": "here"},
    ]
    done: list[int] = []
    source = str(write(tmp_path / "in.jsonl", rows))
    report = anonymize_file(source, tmp_path / "out.jsonl", finder, advance=done.append)
    assert (report.rows, report.rows_changed, report.names, sum(done)) == (3, 2, None, 3)
    counted = {kind: (c.values, c.places, c.rows) for kind, c in report.kinds.items() if c.rows}
    assert counted == {"EMAIL": (3, 4, 2), "IP": (1, 1, 1)}
    assert "NAME" not in report.kinds
    assert MAIL not in report.model_dump_json()


def test_a_bad_row_leaves_nothing_behind(finder: Finder, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"a": MAIL}) + "\n" + '{"a": "\\ud800"}\n')
    with pytest.raises(DataError, match="line 2: a text is not valid Unicode"):
        anonymize_file(str(source), tmp_path / "out.jsonl", finder)
    with pytest.raises(DataError, match="no row"):
        anonymize_file(str(write(tmp_path / "empty.jsonl", [])), tmp_path / "out.jsonl", finder)
    assert not (tmp_path / "out.jsonl").exists()
