"""Checkpoints: whole or not there, and known for damaged where they are."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from selfjudge.training.checkpoints import check, commit, newest, partial


def write(folder: Path, step: int, keep: int | None = None, logs: dict[str, int] | None = None) -> Path:
    """Commits a checkpoint of a file and a file in a folder."""
    written = partial(folder, step)
    (written / "deep").mkdir(parents=True)
    (written / "model.safetensors").write_bytes(b"weights of " + str(step).encode())
    (written / "deep" / "state.json").write_text("{}")
    (written / "training_args.bin").write_bytes(b"a pickle")
    commit(folder, step, logs or {}, keep)
    return folder / f"checkpoint-{step}"


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_the_manifest_has_every_file(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, 7, logs={"metrics.jsonl": 12})
    assert names(checkpoint) == ["deep", "manifest.json", "model.safetensors"]
    assert json.loads((checkpoint / "manifest.json").read_text()) == {
        "files": {
            "deep/state.json": {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()},
            "model.safetensors": {"bytes": 12, "sha256": hashlib.sha256(b"weights of 7").hexdigest()},
        },
        "logs": {"metrics.jsonl": 12},
    }
    assert names(tmp_path) == ["checkpoint-7"]
    found = newest(tmp_path)
    assert found is not None
    assert (found[0], found[1].logs) == (checkpoint, {"metrics.jsonl": 12})


def test_the_newest_are_kept_by_number(tmp_path: Path) -> None:
    for step in (80, 90, 100, 110):  # "90" > "110" as text
        write(tmp_path, step, keep=2)
    assert names(tmp_path) == ["checkpoint-100", "checkpoint-110"]
    write(tmp_path, 120)
    assert names(tmp_path) == ["checkpoint-100", "checkpoint-110", "checkpoint-120"]
    write(tmp_path, 130, keep=1)
    assert names(tmp_path) == ["checkpoint-130"]


def test_of_a_step_the_later_one_counts(tmp_path: Path) -> None:
    write(tmp_path, 5, logs={"metrics.jsonl": 1})
    write(tmp_path, 5, logs={"metrics.jsonl": 2})
    found = newest(tmp_path)
    assert found is not None
    assert found[1].logs == {"metrics.jsonl": 2}
    assert names(tmp_path) == ["checkpoint-5"]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[3] ^= 1
    file.write_bytes(content)


DAMAGES = [
    ("model.safetensors", cut, "model.safetensors has 8 bytes in place of 13"),
    ("model.safetensors", flip, "model.safetensors does not have its checksum"),
    ("deep/state.json", Path.unlink, "deep/state.json is missing"),
    ("manifest.json", Path.unlink, "it has no readable manifest.json"),
    ("manifest.json", cut, "it has no readable manifest.json"),
    ("manifest.json", lambda f: f.write_text("{}"), "it has no readable manifest.json"),
]


@pytest.mark.parametrize(("name", "damage", "why"), DAMAGES)
def test_a_damaged_one_is_named_and_skipped(
    tmp_path: Path, name: str, damage: Callable[[Path], object], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = write(tmp_path, 20)
    bad = write(tmp_path, 30)
    damage(bad / name)
    assert check(bad) == why
    with caplog.at_level(logging.WARNING):
        found = newest(tmp_path)
    assert found is not None
    assert found[0] == good
    assert f"{bad} is damaged ({why})" in caplog.text
    assert names(tmp_path) == ["checkpoint-20", "checkpoint-30.damaged"]
    # It does not count among those that are kept, so a good one is not deleted for it.
    write(tmp_path, 22, keep=2)
    assert names(tmp_path) == ["checkpoint-20", "checkpoint-22", "checkpoint-30.damaged"]


def test_all_damaged_is_none(tmp_path: Path) -> None:
    for step in (1, 2):
        cut(write(tmp_path, step) / "model.safetensors")
    assert newest(tmp_path) is None
    assert newest(tmp_path / "not-there") is None


@pytest.mark.parametrize("call", range(4))
def test_what_fails_leaves_the_earlier_ones(tmp_path: Path, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time something goes to the disk may fail: the files, the manifest, the folder."""
    import os

    write(tmp_path, 1)
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == call + 1:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, 2, keep=1)
    found = newest(tmp_path)
    assert found is not None
    assert found[0].name == "checkpoint-1"
