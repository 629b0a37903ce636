"""Checkpoints that are whole or not there, and that show whether they still are what was written.

A checkpoint is written to ``checkpoints/partial/``, gets a manifest with the size and checksum of each of its files,
and is renamed to ``checkpoints/checkpoint-STEP``. Older ones go only then.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from selfjudge.data.io import write_json

MANIFEST = "manifest.json"
_NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")

_logger = logging.getLogger(__name__)


class FileSum(BaseModel):
    """What a file must be."""

    model_config = ConfigDict(extra="forbid")

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """``files``: path in the checkpoint → what it must be. ``logs``: the bytes of each log that belong to it."""

    model_config = ConfigDict(extra="forbid")

    files: dict[str, FileSum]
    logs: dict[str, int]


def partial(folder: Path, step: int) -> Path:
    """Returns where the checkpoint of a step is written before it is committed."""
    return folder / "partial" / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def commit(folder: Path, step: int, logs: Mapping[str, int], keep: int | None) -> None:
    """Makes what was written to :func:`partial` the checkpoint of a step, then leaves the newest ``keep`` (None: all).

    Raises:
        OSError: if it cannot be written; earlier checkpoints are then as they were.
    """
    written = partial(folder, step)
    # A pickle of the settings, which nothing reads.
    (written / TRAINING_ARGS_NAME).unlink(missing_ok=True)
    files = {p.relative_to(written).as_posix(): p for p in sorted(written.rglob("*")) if p.is_file()}
    sums = {name: _written(file) for name, file in files.items()}
    write_json(written / MANIFEST, Manifest(files=sums, logs=dict(logs)).model_dump())
    _to_disk(written)
    final = folder / written.name
    if final.exists():
        final.rename(written.with_name("replaced"))
    written.rename(final)
    _to_disk(folder)
    _rotate(folder, keep)
    shutil.rmtree(written.parent)


def newest(folder: Path) -> tuple[Path, Manifest] | None:
    """Returns the newest checkpoint that is whole; newer ones are named in a warning and renamed to ``*.damaged``."""
    for path in reversed(_sorted(folder)):
        checked = check(path)
        if isinstance(checked, Manifest):
            return path, checked
        aside = path.with_name(f"{path.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        _logger.warning("The checkpoint %s is damaged (%s): it is skipped, and renamed to %s.", path, checked, aside)
    return None


def check(checkpoint: Path) -> Manifest | str:
    """Returns the manifest of a checkpoint that is as it was written, or what is wrong with it."""
    try:
        manifest = Manifest.model_validate_json((checkpoint / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return f"it has no readable {MANIFEST}"
    for name, expected in manifest.files.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected.bytes:
            return f"{name} has {file.stat().st_size} bytes in place of {expected.bytes}"
        if _sha256(file) != expected.sha256:
            return f"{name} does not have its checksum"
    return manifest


def step_of(checkpoint: Path) -> int:
    """Returns the step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _sorted(folder: Path) -> list[Path]:
    found = [p for p in folder.glob("*") if p.is_dir() and _NAME.fullmatch(p.name)]
    return sorted(found, key=step_of)


def _rotate(folder: Path, keep: int | None) -> None:
    """Deletes the oldest checkpoints; each is moved away first, so that none is ever half there."""
    for old in _sorted(folder)[:-keep] if keep else ():
        gone = folder / "partial" / f"old-{old.name}"
        old.rename(gone)
        shutil.rmtree(gone)


def _written(file: Path) -> FileSum:
    """Returns what a file is, once it is on the disk."""
    _to_disk(file)
    return FileSum(bytes=file.stat().st_size, sha256=_sha256(file))


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
