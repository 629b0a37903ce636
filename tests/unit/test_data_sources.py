"""From any file to records: recognised, forced, counted, split by prompt, written and read back."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_data_raw import write

from selfjudge.data.sources import load_preferences, split_by_prompt, write_records
from selfjudge.errors import DataError, RunError
from selfjudge.records import Message, PreferenceRecord

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
TYPES = ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet"]


def annotation(rating: str) -> dict[str, Any]:
    names = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    return {name: {"Rating": rating, "Rationale": "r"} for name in names}


ASK = [{"role": "user", "content": "Sky?"}]
HH = "\n\nHuman: Sky?\n\nAssistant: "
ROWS: dict[str, dict[str, Any]] = {
    "hh": {"chosen": HH + "Blue.", "rejected": HH + "Green."},
    "ultrafeedback": {
        "source": "x",
        "instruction": "Sky?",
        "completions": [
            {"response": "Green.", "annotations": annotation("N/A") | {"honesty": {"Rating": "1", "Rationale": "r"}}},
            {"response": "Blue.", "annotations": annotation("5")},
        ],
    },
    "preference": {"prompt": ASK, "chosen": "Blue.", "rejected": "Green."},
    "judge": {"prompt": ASK, "response_a": "Green.", "response_b": "Blue.", "label": "B"},
    "records": {"id": "1", "prompt": ASK, "chosen": "Blue.", "rejected": "Green.", "principle": "overall"},
}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("format", list(ROWS))
def test_every_format_from_every_file_type(tmp_path: Path, name: str, format: str) -> None:
    path = write(tmp_path / name, [ROWS[format]] * 2)
    loaded = load_preferences(path)
    assert (loaded.format, loaded.rows, loaded.dropped) == (format, 2, ())
    for record in loaded.records:
        assert record.prompt == (Message(role="user", content="Sky?"),)
        assert (record.chosen, record.rejected) == ("Blue.", "Green.")
    if format != "records":
        assert [record.id for record in loaded.records] == ["a-0", "a-1"]
    assert load_preferences(path, format=format) == loaded


def test_a_few_broken_rows_at_the_start_do_not_decide(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"chosen": 5, "rejected": None}, {"oops": 1}, ROWS["hh"], ROWS["hh"]])
    loaded = load_preferences(path)
    assert (loaded.format, len(loaded.records)) == ("hh", 2)
    assert [(d.id, d.line, d.reason) for d in loaded.dropped] == [
        ("a-0", 1, "chosen is not text"),
        ("a-1", 2, "no chosen"),
    ]
    assert loaded.reasons() == {"chosen is not text": 1, "no chosen": 1}


@pytest.mark.parametrize(
    ("row", "format", "missing", "found"),
    [
        ({"prompt": "p", "chosen": "c"}, "auto", "`rejected`", "chosen, prompt"),
        ({"prompt": "p", "chosen": "c"}, "hh", "`rejected`", "chosen, prompt"),
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, "judge", "`response_a`, `response_b`, `label`", "chosen"),
        ({"prompt": "p", "response_a": "a", "response_b": "b"}, "auto", "`label`", "prompt, response_a"),
        ({"instruction": "p"}, "ultrafeedback", "`completions`", "instruction"),
    ],
)
def test_a_missing_column_is_named(tmp_path: Path, row: dict[str, Any], format: str, missing: str, found: str) -> None:
    with pytest.raises(DataError) as caught:
        load_preferences(write(tmp_path / "a.jsonl", [row]), format=format)
    assert f"needs the column {missing}, which is missing" in str(caught.value)
    assert f"found: {found}" in str(caught.value)


def test_unknown_formats_and_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no known preference format in its columns \\(words: a string\\)"):
        load_preferences(write(tmp_path / "a.jsonl", [{"words": "x"}]))
    for row in ({"text": "x"}, {"instruction": "q", "input": "", "output": "x"}, {"prompt": "q", "response": "x"}):
        with pytest.raises(DataError, match="each row has one answer"):
            load_preferences(write(tmp_path / "sft.jsonl", [row]))
    with pytest.raises(DataError, match="no data format 'hhh'; choose auto or one of records, hh"):
        load_preferences(write(tmp_path / "b.jsonl", [ROWS["hh"]]), format="hhh")
    with pytest.raises(DataError, match="chosen: a number, rejected: a number"):
        load_preferences(write(tmp_path / "c.jsonl", [{"chosen": 1, "rejected": 2}]))


def test_a_forced_format_wins_over_the_recognised_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{**ROWS["judge"], "chosen": "c", "rejected": "r"}])
    assert load_preferences(path).format == "judge"
    loaded = load_preferences(path, format="preference")
    assert (loaded.format, loaded.records[0].chosen) == ("preference", "c")
    with pytest.raises(DataError, match="1 x transcript does not start with a Human turn"):
        load_preferences(path, format="hh")


def test_nothing_left_lists_the_reasons(tmp_path: Path) -> None:
    same, empty = ({"prompt": p, "chosen": "x", "rejected": "x"} for p in ("p", ""))
    with pytest.raises(DataError) as caught:
        load_preferences(write(tmp_path / "a.jsonl", [same, empty, same]))
    assert "none of its 3 rows can be used (2 x identical responses; 1 x empty prompt)" in str(caught.value)


def test_the_fingerprint_is_that_of_the_written_file(tmp_path: Path) -> None:
    loaded = load_preferences(write(tmp_path / "a.json", [ROWS["preference"], ROWS["preference"]]))
    out = tmp_path / "out.jsonl"
    assert write_records(loaded.records, out) == 2
    assert hashlib.sha256(out.read_bytes()).hexdigest() == loaded.fingerprint
    again = load_preferences(out)
    assert (again.format, again.records, again.fingerprint) == ("records", loaded.records, loaded.fingerprint)
    with pytest.raises(RunError, match="already exists"):
        write_records(loaded.records[:1], out)
    assert len(out.read_text().splitlines()) == 2
    one = load_preferences(tmp_path / "a.json", limit=1)
    assert (one.rows, len(one.records)) == (1, 1)
    assert one.fingerprint != loaded.fingerprint


def test_settings_reach_the_parser(tmp_path: Path) -> None:
    tie = {"prompt": "p", "chosen": "a", "rejected": "bb", "score_chosen": 1, "score_rejected": 1}
    path = write(tmp_path / "a.jsonl", [tie])
    assert load_preferences(path, tie_rule="longer").records[0].chosen == "bb"
    with pytest.raises(DataError, match="1 x equal scores"):
        load_preferences(path)
    uf = write(tmp_path / "b.jsonl", [ROWS["ultrafeedback"]])
    assert [r.principle for r in load_preferences(uf, pairs="per_principle").records] == ["overall", "honesty"]


def record(first: str, index: int) -> PreferenceRecord:
    turns = [Message(role="system", content=str(index)), Message(role="user", content=first)]
    later = [Message(role="assistant", content="a"), Message(role="user", content=f"later {index}")]
    return PreferenceRecord(id=str(index), prompt=(*turns, *later), chosen="c", rejected="r")


def test_equal_first_messages_stay_on_one_side() -> None:
    records = [record(f"first {i % 500}", i) for i in range(1500)]
    train, held = split_by_prompt(records, 0.1, seed=3)
    assert len(train) + len(held) == 1500
    assert 0.06 < len(held) / 1500 < 0.14
    assert not {r.prompt[1].content for r in train} & {r.prompt[1].content for r in held}
    assert [r.id for r in train] == sorted((r.id for r in train), key=int)
    alone = [r for r in records if split_by_prompt([r], 0.1, seed=3)[1]]
    assert tuple(alone) == held  # the side does not depend on the other records
    assert split_by_prompt(records, 0.1, seed=4)[1] != held


def test_the_ends_of_the_share() -> None:
    records = [record(f"first {i}", i) for i in range(50)]
    assert split_by_prompt(records, 0.0) == (tuple(records), ())
    assert split_by_prompt(records, 1.0) == ((), tuple(records))
    with pytest.raises(DataError, match=r"held-out share is 1\.5"):
        split_by_prompt(records, 1.5)


def test_importing_the_loaders_stays_cheap() -> None:
    code = (
        "import sys, selfjudge.data.prompts, selfjudge.data.sources\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'pandas', 'pyarrow', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _shared_cases() -> list[tuple[str, int]]:
    manifest = SHARED / "MANIFEST.json"
    if not manifest.is_file():
        return []
    files = json.loads(manifest.read_text())["files"]
    return [(name, about["rows"]) for name, about in files.items() if name.startswith(("pref_", "judge_"))]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared research data is not beside this checkout")
@pytest.mark.parametrize(("name", "rows"), _shared_cases())
def test_real_files_load_and_every_row_is_accounted_for(name: str, rows: int) -> None:
    loaded = load_preferences(SHARED / name)
    assert loaded.format == ("judge" if name.startswith("judge_") else "preference")
    assert loaded.rows == rows
    assert len(loaded.records) + len(loaded.dropped) == rows
    known = {"label is tie", "identical responses", "empty chosen response", "empty rejected response"}
    assert set(loaded.reasons()) <= known
    if name.startswith("pref_"):
        assert len(loaded.dropped) <= 2
