"""Every file type gives the same rows; what cannot be read says where and why."""

import csv
import gzip
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from selfjudge.data.raw import position_word, read_rows, source_name
from selfjudge.errors import DataError

ROWS = [
    {"prompt": [{"role": "user", "content": f"q{i}"}], "chosen": f"good {i}", "rejected": "bad", "score": None}
    for i in range(3)
]


def write(path: Path, rows: list[Any]) -> Path:
    """Writes the rows in the file type that the name asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.name.endswith(".jsonl"):
        path.write_text(lines)
    elif path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.name.endswith(".json"):
        path.write_text(json.dumps(rows, indent=1))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet"])
def test_every_file_type_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROWS)
    assert list(read_rows(path)) == [(1, ROWS[0]), (2, ROWS[1]), (3, ROWS[2])]
    assert list(read_rows(path, limit=2)) == [(1, ROWS[0]), (2, ROWS[1])]
    assert source_name(path) == "a"


def test_a_limit_stops_before_later_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\nbroken\n')
    assert list(read_rows(path, limit=1)) == [(1, {"a": 1})]
    with pytest.raises(DataError, match="line 2"):
        list(read_rows(path))


def test_a_json_object_with_a_list(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"version": 1, "data": [{"a": 1}]}))
    assert list(read_rows(path)) == [(1, {"a": 1})]
    path.write_text(json.dumps({"train": [{"a": 1}], "test": [{"a": 2}]}))
    assert list(read_rows(path)) == [(1, {"a": 1})]
    assert list(read_rows(path, split="test")) == [(1, {"a": 2})]
    with pytest.raises(DataError, match="keys train, test"):
        list(read_rows(path, split="dev"))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ('[{"a": 1}, 5]', "item 2: expected a JSON object, found a number"),
        ('[{"a": 1},\n oops]', "line 2: not valid JSON"),
        ('{"a": 1}\n{"a": 2}', "rename the file to .jsonl"),
        ("[" + "9" * 5000 + "]", "too long a number"),
        ("[" * 100_000, "too deep a nesting"),
        ("5", "expected a list of rows, found a number"),
    ],
)
def test_bad_json(tmp_path: Path, content: str, what: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError) as caught:
        list(read_rows(tmp_path / "a.json"))
    assert what in str(caught.value)


@pytest.mark.parametrize("name", ["no.jsonl", "no.jsonl.gz", "no.json", "no.parquet", "no", "some/where/no"])
def test_a_missing_file_says_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        list(read_rows(tmp_path / name))


def test_foreign_and_damaged_files(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_text("a,b\n")
    with pytest.raises(DataError, match=r"not supported; use one of \.jsonl"):
        list(read_rows(tmp_path / "a.xlsx"))
    (tmp_path / "a.parquet").write_text("nonsense")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        list(read_rows(tmp_path / "a.parquet"))


def test_positions_are_named_after_the_file_type() -> None:
    assert [position_word(f"a.{end}") for end in ("jsonl", "jsonl.gz", "json", "parquet")] == [
        "line",
        "line",
        "item",
        "row",
    ]
    assert position_word("org/name") == "row"
    assert source_name("org/name") == "org/name"


def test_a_local_dataset_folder_goes_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    write(tmp_path / "set" / "helpful-base" / "train.jsonl.gz", [{"chosen": "a", "rejected": "b"}])
    write(tmp_path / "set" / "helpful-base" / "test.jsonl.gz", [{"chosen": "c", "rejected": "d"}])
    write(tmp_path / "set" / "harmless-base" / "train.jsonl.gz", [{"chosen": "e", "rejected": "f"}])
    assert list(read_rows(tmp_path / "set", "helpful-base")) == [(1, {"chosen": "a", "rejected": "b"})]
    assert list(read_rows(tmp_path / "set", "helpful-base", "test")) == [(1, {"chosen": "c", "rejected": "d"})]
    with pytest.raises(DataError, match="split nowhere"):
        list(read_rows(tmp_path / "set", "helpful-base", "nowhere"))


@pytest.mark.parametrize(("subset", "expected"), [("cfg", {"name": "cfg"}), ("dir", {"data_dir": "dir"}), (None, {})])
def test_a_hub_subset_is_a_config_or_a_folder(
    monkeypatch: pytest.MonkeyPatch, subset: str | None, expected: dict[str, str]
) -> None:
    import datasets

    asked: dict[str, Any] = {}

    class Builder:
        config = SimpleNamespace(data_files={"test": ["hf://datasets/org/name@main/a.parquet"]})

        def download_and_prepare(self) -> None: ...

        def as_dataset(self, split: str) -> list[dict[str, str]]:
            asked.update(split=split)
            return [{"a": "x"}]

    def load_dataset_builder(path: str, **options: Any) -> Builder:
        asked.update(options, path=path)
        return Builder()

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda path: ["cfg"])
    assert list(read_rows("org/name", subset, "test")) == [(1, {"a": "x"})]
    assert asked == {"path": "org/name", "split": "test", **expected}


def test_an_unreachable_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset_builder(path: str, **options: Any) -> None:
        raise ConnectionError("Couldn't reach 'org/name' on the Hub.\nmore\nlines")

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    with pytest.raises(DataError) as caught:
        list(read_rows("org/name"))
    assert "\n" not in str(caught.value)
    assert "Couldn't reach 'org/name'" in str(caught.value)
    assert "local file" in str(caught.value)


def test_csv_rows_are_texts_under_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('\ufeffprompt,chosen,rejected,id\r\n"a, ""b""\nc",x, y,\r\n\r\n1,é,"",7\r\n'.encode())
    assert list(read_rows(path)) == [
        (1, {"prompt": 'a, "b"\nc', "chosen": "x", "rejected": " y", "id": None}),
        (2, {"prompt": "1", "chosen": "é", "rejected": None, "id": "7"}),
    ]
    assert list(read_rows(path, limit=1))[-1][0] == 1
    assert source_name(path) == "a"
    assert position_word(path) == "row"


def test_the_index_that_pandas_writes_has_its_name_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(",difficulty\n0,1.5\n")
    assert list(read_rows(path)) == [(1, {"Unnamed: 0": "0", "difficulty": "1.5"})]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"prompt,chosen\na,b\na,b,c\n", r"row 2: 3 cells under 2 columns"),
        (b"prompt,chosen\na\n", r"row 1: 1 cells under 2 columns"),
        (b"prompt,prompt\na,b\n", r"name each column once"),
        (b"prompt,\na,b\n", r"name each column once"),
        (b'prompt,chosen\na,b\na,"b\n', r"after row 1: not valid CSV \(unexpected end of data\)"),
        (b"prompt,chosen\na," + b"b" * 131073 + b"\n", r"not valid CSV \(field larger than field limit"),
        (b"prompt,chosen\na,\xff\n", r"not UTF-8"),
    ],
)
def test_a_csv_that_cannot_be_read_says_where(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text)
    with pytest.raises(DataError, match=message):
        list(read_rows(path))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("suffix", "text", "word"),
    [
        (".jsonl", '{"a": "ü"}\n', "line"),
        (".ndjson", '{"a": "ü"}\n', "line"),
        (".json", '[{"a":\n "ü"}]', "item"),
        (".csv", "a\nü\n", "row"),
        (".tsv", "a\nü\n", "row"),
    ],
)
def test_files_of_text_may_be_packed(tmp_path: Path, suffix: str, text: str, word: str, packed: bool) -> None:
    path = tmp_path / f"x{suffix}{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert list(read_rows(path)) == [(1, {"a": "ü"})]
    assert (source_name(path), position_word(path)) == ("x", word)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".ndjson.gz", ".json.gz", ".csv.gz", ".tsv.gz"])
def test_a_damaged_packed_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(gzip.compress(os.urandom(100_000).hex().encode())[:5000])
    with pytest.raises(DataError, match="damaged gzip data; fetch or pack the file again"):
        list(read_rows(path))


def test_an_empty_csv_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("")
    assert list(read_rows(path)) == []


ANSWERS = [
    {"prompt": "a; b", "chosen": "x, y", "rejected": "z\tw"},
    {"prompt": "one", "chosen": "two", "rejected": "3"},
]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("quoted", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("index", [False, True])
def test_the_delimiter_of_a_csv_file_is_recognised(tmp_path: Path, delimiter: str, quoted: int, index: bool) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle, delimiter=delimiter, quoting=quoted)  # type: ignore[arg-type]
        writer.writerow([*([""] if index else []), "prompt", "chosen", "rejected"])
        for number, row in enumerate(ANSWERS):
            writer.writerow([*([number] if index else []), *row.values()])
    found = [row for _, row in read_rows(path)]
    assert found == [{**({"Unnamed: 0": str(i)} if index else {}), **row} for i, row in enumerate(ANSWERS)]


def test_rows_decide_where_two_delimiters_give_the_first_line_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('note, long;text\n"a, b";c\nd;"e, f, g"\n')
    assert list(read_rows(path)) == [
        (1, {"note, long": "a, b", "text": "c"}),
        (2, {"note, long": "d", "text": "e, f, g"}),
    ]
    path.write_text("prompt\nOne; two\nthree\n")  # one column: nothing to recognise
    assert [row for _, row in read_rows(path)] == [{"prompt": "One; two"}, {"prompt": "three"}]


def test_a_tsv_file_has_tabs(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("a, b;c\td\n1\t2, 3\n")
    assert list(read_rows(path)) == [(1, {"a, b;c": "1", "d": "2, 3"})]
    assert (source_name(path), position_word(path)) == ("a", "row")
    path.write_text("a,b\n1,2,3\n")
    assert list(read_rows(path)) == [(1, {"a,b": "1,2,3"})]


def test_a_semicolon_file_with_a_broken_row_is_still_one(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt;chosen\na;b\na;b;c\n")
    with pytest.raises(DataError, match="row 2: 3 cells under 2 columns"):
        list(read_rows(path))


def test_a_parquet_file_without_columns(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1, 2]}).select([]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="it has no columns; write the file again"):
        list(read_rows(tmp_path / "a.parquet"))


def test_a_missing_value_of_pandas_is_null(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": NaN, "b": 1.5, "c": "NaN"}\n')
    assert list(read_rows(tmp_path / "a.jsonl")) == [(1, {"a": None, "b": 1.5, "c": "NaN"})]


def test_spaces_around_the_names_of_a_csv_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt, chosen ,rejected\nq, x,y\n")
    assert list(read_rows(tmp_path / "a.csv")) == [(1, {"prompt": "q", "chosen": " x", "rejected": "y"})]
