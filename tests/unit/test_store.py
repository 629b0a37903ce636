"""Sequences that lie in Arrow files."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from selfjudge.data import store as store_module
from selfjudge.data.store import Cache, Stored, arrow_writer, joined, stored
from selfjudge.errors import RunError

SCHEMA = pa.schema([("name", pa.string()), ("number", pa.uint64())])


def as_pair(row: dict[str, Any]) -> tuple[str, int]:
    return row["name"], row["number"]


def written(path: Path, *rows: tuple[str | None, int]) -> Stored[tuple[str, int]]:
    with arrow_writer(path, SCHEMA) as write:
        for name, number in rows:
            write({"name": name, "number": number})
    return stored([path], as_pair)


ROWS = (("a", 1), ("b", 2**64 - 1), ("c", 0), ("b", 4), ("", 5))


@pytest.mark.parametrize("at_once", [1, 2, 3, 512])
def test_as_a_tuple(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(store_module, "_AT_ONCE", at_once)
    found = written(tmp_path / "x.arrow", *ROWS)
    assert len(found) == 5
    assert list(found) == list(ROWS)
    assert found == ROWS
    assert found == ROWS
    assert (found[0], found[-1], found[-5]) == (ROWS[0], ROWS[-1], ROWS[0])
    for part in (slice(None), slice(1, 3), slice(None, None, 2), slice(5, None), slice(9, 12), slice(None, -1)):
        assert found[part] == ROWS[part]
    assert found != ROWS[:-1]
    assert found != [*ROWS[:-1], ("", 6)]
    assert found != "abcbx"
    with pytest.raises(IndexError):
        found[5]
    assert ("c", 0) in found
    assert found.index(("b", 4)) == 3


def test_a_view_of_a_view(tmp_path: Path) -> None:
    found = written(tmp_path / "x.arrow", *ROWS)
    assert found.select([4, 0, 0]) == [ROWS[4], ROWS[0], ROWS[0]]
    assert found.select([4, 0, 3])[1:] == [ROWS[0], ROWS[3]]
    assert found[::2].select([2, 1]).built(lambda row: row["name"]) == ["", "c"]
    assert found.select([]) == []


def test_columns(tmp_path: Path) -> None:
    found = written(tmp_path / "x.arrow", ("a", 1), (None, 2), ("a", 3))
    assert found.numbers("number").tolist() == [1, 2, 3]
    assert found.given("name").tolist() == [True, False, True]
    assert found.texts("name") == ["a"]
    assert found[1:].numbers("number").tolist() == [2, 3]
    assert found[:0].numbers("number").tolist() == []
    assert found.select([2, 0]).numbers("number").tolist() == [3, 1]
    named = written(tmp_path / "y.arrow", *ROWS)
    assert named.equal("name", "b").tolist() == [False, True, False, True, False]


def test_no_rows(tmp_path: Path) -> None:
    found = written(tmp_path / "x.arrow")
    assert (len(found), list(found), found.numbers("number").tolist()) == (0, [], [])


def test_joined(tmp_path: Path) -> None:
    first, second = written(tmp_path / "x.arrow", *ROWS), written(tmp_path / "y.arrow", ("z", 9))
    both = joined([first[1:3], second, first[:0]])
    assert both == [*ROWS[1:3], ("z", 9)]
    assert both.numbers("number").tolist() == [2**64 - 1, 0, 9]


def test_a_failure_leaves_an_error_and_no_whole_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), arrow_writer(tmp_path / "x.arrow", SCHEMA) as write:
        write({"name": "a", "number": 1 // 0})


def test_a_temporary_cache_goes_with_the_last_sequence_in_it(tmp_path: Path) -> None:
    cache = Cache()
    folder = cache.folder("kind", 1)
    with arrow_writer(folder / "x.arrow", SCHEMA) as write:
        write({"name": "a", "number": 1})
    view: Any = stored([folder / "x.arrow"], as_pair, cache.owner)[:1]
    del cache
    gc.collect()
    assert view == [("a", 1)]
    assert folder.exists()
    del view
    gc.collect()
    assert not folder.exists()


def test_folders_are_told_apart_by_what_they_are_made_from(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c")
    same = cache.folder("rows", [1, "a"], None)
    assert same.is_dir()
    assert cache.folder("rows", [1, "a"], None) == same == Cache(tmp_path / "c").folder("rows", [1, "a"], None)
    others = {
        cache.folder("rows", [1, "b"], None),
        cache.folder("rows", [1, "a"], 0),
        cache.folder("x", [1, "a"], None),
    }
    assert len({same, *others}) == 4


def test_another_version_of_the_package_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path)
    before = cache.folder("rows", 1)
    monkeypatch.setattr(store_module, "_code", lambda: "other")
    assert cache.folder("rows", 1) != before


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be made"):
        Cache(tmp_path / "file" / "c").folder("rows", 1)
