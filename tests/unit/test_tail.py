"""Growing files: each line once, whole or not at all, and nothing from outside the directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from selfjudge.serving import tail
from selfjudge.serving.tail import Tail, open_inside


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path.resolve() / "log.jsonl"


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as handle:
        handle.write(text)


def test_each_line_is_given_once_and_half_a_line_later(log: Path) -> None:
    lines = Tail(log, log.parent)
    assert lines.read() == (False, [], 0)  # not there yet
    append(log, '{"a": 1}\n{"a": 2}\n{"a"')
    assert lines.read() == (False, [{"a": 1}, {"a": 2}], 18)
    assert lines.read().rows == []
    append(log, ": 3}\n")
    assert lines.read().rows == [{"a": 3}]
    assert (lines.position, lines.rest, lines.damaged) == (27, 0, 0)


def test_damaged_lines_are_counted_and_passed_over(log: Path) -> None:
    lines = Tail(log, log.parent)
    log.write_bytes(b'{"a": 1}\nnothing\n\n[1]\n\xff\xfe\n' + b"[" * 100_000 + b"\n" + b'{"a": 2}\r\n')
    assert lines.read().rows == [{"a": 1}, {"a": 2}]
    assert lines.damaged == 4


@pytest.mark.parametrize("longer", [False, True])
def test_a_file_put_in_its_place_is_read_from_the_beginning(log: Path, longer: bool) -> None:
    lines = Tail(log, log.parent)
    log.write_text('{"a": 1}\nbad\n{"a": 2}\n')
    lines.read()
    other = log.with_name("other")
    other.write_text('{"a": 1}\n' + '{"a": 3}\n' * (9 if longer else 1))
    other.replace(log)
    anew, rows, _ = lines.read()
    assert anew
    assert rows == [{"a": 1}] + [{"a": 3}] * (9 if longer else 1)
    assert lines.damaged == 0
    assert lines.read() == (False, [], 0)


def test_a_file_that_was_cut_or_is_gone_is_told(log: Path) -> None:
    lines = Tail(log, log.parent)
    append(log, '{"a": 1}\n{"a": 2}\n')
    lines.read()
    os.truncate(log, 9)
    assert lines.read() == (True, [{"a": 1}], 9)
    log.unlink()
    assert lines.read() == (True, [], 0)
    assert lines.modified is None
    assert lines.read() == (False, [], 0)


def test_a_long_file_is_read_in_pieces(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "CHUNK", 20)
    lines = Tail(log, log.parent)
    append(log, '{"a": 1}\n' * 5)
    lines.look()
    assert (lines.rest, lines.position) == (45, 0)
    assert [len(lines.read().rows) for _ in range(4)] == [2, 2, 1, 0]
    assert lines.rest == 0
    append(log, "x" * 45 + '\n{"a": 2}\n')  # longer than a piece: nobody meant it
    rows = [row for _ in range(5) for row in lines.read().rows]
    assert rows == [{"a": 2}]
    assert lines.damaged == 3


def test_links_pipes_and_folders_are_not_opened(tmp_path: Path) -> None:
    root, outside = tmp_path.resolve() / "root", tmp_path / "outside"
    for folder in (root, outside, root / "folder"):
        folder.mkdir()
    (outside / "file").write_text("secret")
    (root / "file").write_text("fine")
    (root / "link").symlink_to(outside / "file")
    (root / "linked").symlink_to(outside)
    os.mkfifo(root / "pipe")
    os.close(open_inside(root / "file", root))
    opened = len(os.listdir("/proc/self/fd"))
    for path in ("link", "linked/file", "pipe", "folder", "nothing"):
        with pytest.raises(OSError, match=path):
            open_inside(root / path, root)
    assert len(os.listdir("/proc/self/fd")) == opened
