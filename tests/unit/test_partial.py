"""Outputs that grow batch by batch: what counts after an interruption, wherever it falls."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from selfjudge.data.partial import PartialOutput, journal_path, partial_path, read_journal
from selfjudge.errors import RunError

SETTINGS = {"--n": 3, "--input": "ab" * 32, "--dump": None}


def opened(*outputs: Path, overwrite: bool = False, date: str = "2025-01-02", **changes: object) -> PartialOutput:
    return PartialOutput(outputs, {**SETTINGS, **changes}, overwrite=overwrite, date=date)


def test_batches_come_to_their_place_together(tmp_path: Path) -> None:
    rows, ids = tmp_path / "made" / "rows.jsonl", tmp_path / "ids.jsonl.gz"
    output = opened(rows, ids)
    output.add([["ä", "b"], ["1", "2", "3"]], 2, note={"x": 0.1})
    assert partial_path(rows).read_text() == "ä\nb\n"
    assert partial_path(ids).read_text() == "1\n2\n3\n"
    output.add([["c"], []], 1, note=None)
    assert (output.rows, output.notes) == (3, [{"x": 0.1}, None])
    assert not rows.exists()
    output.finish()
    assert rows.read_text() == "ä\nb\nc\n"
    assert gzip.decompress(ids.read_bytes()) == b"1\n2\n3\n"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["ids.jsonl.gz", "made", "rows.jsonl"]


@pytest.mark.parametrize("cut", range(0, 12))
def test_after_a_cut_anywhere_whole_batches_are_left(tmp_path: Path, cut: int) -> None:
    """A batch counts if all of its bytes are there, in every file, and its line of the journal."""
    rows, ids = tmp_path / "rows", tmp_path / "ids"
    output = opened(rows, ids)
    output.add([["aa"], ["11", "12"]], 1, 1)
    output.add([["bb", "cc"], ["21"]], 2, 2)
    output.close()
    for file, sizes in ((partial_path(rows), [0, 3, 9]), (partial_path(ids), [0, 6, 9])):
        before = {p: p.read_bytes() for p in tmp_path.iterdir()}
        file.write_bytes(before[file][:cut])
        again = opened(rows, ids)
        whole = sum(size <= cut for size in sizes[1:])
        assert (again.rows, again.notes) == ([0, 1, 3][whole], [1, 2][:whole])
        again.close()
        assert partial_path(rows).read_bytes() == b"aa\nbb\ncc\n"[: [0, 3, 9][whole]]
        assert partial_path(ids).read_bytes() == b"11\n12\n21\n"[: [0, 6, 9][whole]]
        for path, content in before.items():
            path.write_bytes(content)


def test_a_torn_journal_loses_its_last_batch_at_most(tmp_path: Path) -> None:
    out = tmp_path / "out"
    output = opened(out)
    output.add([["a"]], 1, None)
    output.add([["b"]], 1, None)
    output.close()
    whole = journal_path(out).read_bytes()
    head, first, second = (len(line) for line in whole.splitlines(keepends=True))
    for length in range(len(whole) + 1):
        journal_path(out).write_bytes(whole[:length])
        partial_path(out).write_text("a\nb\n")
        if length < head:
            with pytest.raises(RunError, match="no journal to go on from"):
                opened(out)
            continue
        again = opened(out)
        assert again.rows == (length >= head + first) + (length >= head + first + second)
        again.add([["c"]], 1, None)
        again.close()
        found = read_journal(out)
        assert found is not None
        assert found.batches[-1].rows == again.rows
        assert partial_path(out).read_text() == "a\nb\n"[: 2 * (again.rows - 1)] + "c\n"


def test_a_command_killed_while_it_finishes_finishes_later(tmp_path: Path) -> None:
    rows, ids = tmp_path / "rows", tmp_path / "ids.gz"
    for name in ("unlink", "none"):
        output = opened(rows, ids, overwrite=True)
        output.add([["a"], ["1"]], 1, "x")
        kept = partial_path(rows).read_bytes()
        output.finish()
        # As it is between the first file's move and the second's.
        partial_path(rows).write_bytes(kept)
        lines = [{"settings": SETTINGS, "overwrite": False, "date": "2025-01-02"}]
        lines += [{"rows": 1, "sizes": [2, 2], "note": "x"}, {"finished": True}]
        journal_path(rows).write_text("".join(json.dumps(line) + "\n" for line in lines))
        if name == "unlink":
            rows.unlink()
        again = opened(rows, ids)
        assert (again.rows, again.notes) == (1, ["x"])
        again.finish()
        assert rows.read_text() == "a\n"
        assert gzip.decompress(ids.read_bytes()) == b"1\n"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["ids.gz", "rows"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"--n": 4}, "with --n 3, not 4"),
        ({"--n": None}, "with --n 3, which is left out now"),
        ({"--dump": "x"}, "without --dump"),
        ({"--more": 1}, "without --more"),
        ({"--input": "cd" * 32}, "with another --input"),
    ],
)
def test_other_settings_are_named(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    output = opened(tmp_path / "out")
    output.add([["a"]], 1, None)
    output.close()
    with pytest.raises(RunError) as refused:
        opened(tmp_path / "out", **changes)
    assert str(refused.value) == (
        f"{tmp_path}/out.partial was begun {said}: resume with the same, or begin anew with --overwrite."
    )
    assert partial_path(tmp_path / "out").read_text() == "a\n"
    opened(tmp_path / "out").close()


def test_two_processes_do_not_write_one_output(tmp_path: Path) -> None:
    first = opened(tmp_path / "out")
    for overwrite in (False, True):
        with pytest.raises(RunError, match=r"Another process is writing .*out: wait for it"):
            opened(tmp_path / "out", overwrite=overwrite)
    first.add([["a"]], 1, None)
    first.finish()
    assert (tmp_path / "out").read_text() == "a\n"


def test_an_output_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    output = opened(out)
    output.add([["a"]], 1, None)
    out.write_text("another's")
    with pytest.raises(RunError, match="out is there by now: move it away, and resume"):
        output.finish()
    output.close()
    with pytest.raises(RunError, match=r"out is there beside .*: move one of them away"):
        opened(out)
    assert out.read_text() == "another's"
    out.unlink()
    opened(out).finish()
    assert out.read_text() == "a\n"


def test_what_is_no_journal_is_refused_and_replaced_on_demand(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for content in (b"\n", b"[]\n", b"1\n2\n", b"\xff\n", b'{"settings": {}, "overwrite": 0, "date": ""}\n{}\n'):
        journal_path(out).write_bytes(content)
        with pytest.raises(RunError, match=r"journal cannot be read, so nothing can go on from it: begin anew"):
            opened(out)
    opened(out, overwrite=True).finish()
    assert out.read_text() == ""


def test_nothing_done_is_nothing_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    opened(out).close()
    assert read_journal(out) is None
    again = opened(out, **{"--n": 9})
    again.drop()
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match=r"cannot be written .*choose another output path"):
        opened(tmp_path / "file" / "out")
