"""Reading with line numbers, writing whole or not at all."""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfjudge.data.io import atomic_writer, read_jsonl, write_jsonl
from selfjudge.errors import DataError, RunError
from selfjudge.records import Message


def write_and_raise(path: Path, error: BaseException) -> None:
    with atomic_writer(path, overwrite=True) as handle:
        handle.write("half a li")
        handle.flush()
        raise error


def test_lines_are_numbered_and_blank_ones_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n   \n{"a": "ü\\u2028"}\n', encoding="utf-8")
    assert list(read_jsonl(path)) == [(1, {"a": 1}), (4, {"a": "ü\u2028"})]


def test_a_unicode_line_separator_inside_a_string_does_not_end_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"a": "x\u2028y\x85z"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert list(read_jsonl(path)) == [(1, {"a": "x\u2028y\x85z"})]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize(
    ("line", "what"),
    [('{"a": 1', "not valid JSON"), ("[1]", "a list"), ("null", "found null"), ("9" * 5000, "too long")],
)
def test_a_malformed_line_is_named(tmp_path: Path, name: str, line: str, what: str) -> None:
    path = tmp_path / name
    content = ('{"a": 1}\n\n' + line + "\n").encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError) as caught:
        list(read_jsonl(path))
    assert str(path) in str(caught.value)
    assert "line 3" in str(caught.value)
    assert what in str(caught.value)


def test_missing_damaged_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.jsonl: there is no such file"):
        list(read_jsonl(tmp_path / "no.jsonl"))
    with pytest.raises(DataError, match="is a folder"):
        list(read_jsonl(tmp_path))
    (tmp_path / "latin.jsonl").write_bytes(b'{"a": "\xfc"}\n')
    with pytest.raises(DataError, match="not UTF-8"):
        list(read_jsonl(tmp_path / "latin.jsonl"))
    (tmp_path / "plain.jsonl.gz").write_bytes(b'{"a": 1}\n')
    with pytest.raises(DataError, match="damaged gzip"):
        list(read_jsonl(tmp_path / "plain.jsonl.gz"))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(os.urandom(100_000).hex().encode())[:5000])
    with pytest.raises(DataError, match="damaged gzip"):
        list(read_jsonl(tmp_path / "cut.jsonl.gz"))


@pytest.mark.parametrize("name", ["out.jsonl", "deep/er/out.jsonl.gz"])
def test_what_is_written_is_read_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert write_jsonl(path, [{"a": "ü"}, Message(role="user", content="x\ny")]) == 2
    assert [row for _, row in read_jsonl(path)] == [{"a": "ü"}, {"role": "user", "content": "x\ny"}]
    assert os.listdir(path.parent) == [path.name]
    assert path.stat().st_mode & 0o400  # an ordinary file, readable by its owner
    first = path.read_bytes()
    assert first.startswith(b"\x1f\x8b") == name.endswith(".gz")
    if name.endswith(".gz"):
        assert first[4:8] == bytes(4)  # no time stamp in the gzip header: equal content gives equal bytes
    write_jsonl(path, [{"new": 1}], overwrite=True)
    assert list(read_jsonl(path)) == [(1, {"new": 1})]


def test_no_rows_give_an_empty_file(tmp_path: Path) -> None:
    assert write_jsonl(tmp_path / "out.jsonl", []) == 0
    assert (tmp_path / "out.jsonl").read_bytes() == b""


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_half_written_when_the_body_raises(tmp_path: Path, name: str, error: type[BaseException]) -> None:
    with pytest.raises(error):
        write_and_raise(tmp_path / name, error())
    assert os.listdir(tmp_path) == []


def test_an_old_file_survives_a_failed_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    with pytest.raises(ValueError, match="stop"):
        write_and_raise(path, ValueError("stop"))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_an_existing_file_is_refused_before_the_body_runs(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    with pytest.raises(RunError, match="already exists"), atomic_writer(path):
        pytest.fail("the body must not run")
    assert path.read_text() == "old"
    with pytest.raises(RunError, match="is a folder"):
        write_jsonl(tmp_path, [], overwrite=True)


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"

    def rows() -> Iterator[dict[str, int]]:
        path.write_text("theirs")
        yield {"ours": 1}

    with pytest.raises(RunError, match="already exists"):
        write_jsonl(path, rows())
    assert path.read_text() == "theirs"
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_an_unwritable_place_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        write_jsonl(tmp_path / "file" / "out.jsonl", [])
