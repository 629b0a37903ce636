"""Files of runs as they are at this moment: some are being written to, and none may be read from outside the folder."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

CHUNK = 2**22
"""Bytes read at a time."""


def open_inside(path: Path, root: Path) -> int:
    """Opens an ordinary file for reading and returns its descriptor. ``root`` is a resolved folder.

    Raises:
        OSError: if it is not there, is a link or no ordinary file, or lies outside ``root`` because of a link above it.
    """
    if not path.parent.resolve().is_relative_to(root):
        raise PermissionError(f"{path} lies outside the directory of runs")
    # A pipe would be waited for, and a link could lead anywhere.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PermissionError(f"{path} is no ordinary file")
    return descriptor


def read_inside(path: Path, root: Path, most: int) -> str:
    """Returns the text of a file, at most ``most`` bytes of it; bytes that are no UTF-8 are marked as such.

    Raises:
        OSError: as :func:`open_inside`.
    """
    with os.fdopen(open_inside(path, root), "rb") as handle:
        return handle.read(most).decode("utf-8", "replace")


def whole(text: str) -> str:
    """Returns a text in which halves of characters, which JSON can hold and UTF-8 cannot, are marked as such."""
    return text.encode("utf-8", "replace").decode()


class Lines(NamedTuple):
    """What was read: ``size`` bytes. ``anew``: it does not go on from before, as the file is another one, or gone."""

    anew: bool
    rows: list[dict[str, Any]]
    size: int


class Tail:
    """The lines of a growing file of JSON objects, each given once.

    A last line without its end is left for later.

    Attributes:
        damaged: lines that were no JSON object.
        modified: when the file was last written to, in seconds since the epoch.
        position: bytes that were read.
        rest: bytes that are still to be read.
    """

    def __init__(self, path: Path, root: Path) -> None:
        """Reads nothing yet."""
        self._path = path
        self._root = root
        self._file: tuple[int, int] | None = None
        self.modified: float | None = None
        self.position = self.damaged = self.rest = 0

    def read(self) -> Lines:
        """Returns the objects of the next ``CHUNK`` bytes at most, whole lines only; of a missing file none."""
        try:
            with os.fdopen(open_inside(self._path, self._root), "rb") as handle:
                now = os.fstat(handle.fileno())
                file = (now.st_dev, now.st_ino)
                # Whoever resumes a run puts a shorter log in the place of the old one.
                anew = self._file is not None and (self._file != file or now.st_size < self.position)
                if anew:
                    self._begin()
                handle.seek(self.position)
                chunk = handle.read(CHUNK)
        except OSError:
            gone = self._file is not None
            self._begin()
            return Lines(gone, [], 0)
        end = chunk.rfind(b"\n") + 1
        if not end and len(chunk) == CHUNK:
            end = CHUNK  # a line that nobody can have meant; its parts are counted as damaged
        self._file, self.modified = file, now.st_mtime
        self.position += end
        self.rest = now.st_size - self.position if len(chunk) == CHUNK else 0
        lines = (line for line in chunk[:end].split(b"\n") if line.strip())
        return Lines(anew, [row for line in lines if (row := self._parsed(line)) is not None], end)

    def look(self) -> None:
        """Learns how much there is to read, and reads nothing."""
        try:
            self.rest = max(0, os.lstat(self._path).st_size - self.position)
        except OSError:
            self.rest = 0

    def _begin(self) -> None:
        self._file = self.modified = None
        self.position = self.damaged = self.rest = 0

    def _parsed(self, line: bytes) -> dict[str, Any] | None:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            return row
        self.damaged += 1
        return None
