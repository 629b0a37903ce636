"""Outputs that grow beside their place until they are whole, so that an interrupted command can go on.

``OUTPUT.partial`` has the rows so far, as plain text. ``OUTPUT.partial.journal`` says in its first line what they are
made from, and in one line for each batch how much of the files belongs to it: what is after that is cut off.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from selfjudge.data.io import atomic_writer, locked
from selfjudge.errors import RunError

_ANEW = "begin anew with --overwrite"


@dataclass(frozen=True)
class Batch:
    """Rows that were written together. ``note``: what was said of them.

    ``rows`` (all so far), ``sizes`` (bytes of each file) and ``end`` (bytes of the journal) are those at its end.
    """

    rows: int
    sizes: tuple[int, ...]
    note: Any
    end: int


@dataclass(frozen=True)
class Journal:
    """What a journal says. ``settings``: what the rows are made from; ``head``: bytes of its first line.

    ``overwrite``: whether the outputs may be replaced. ``date``: on which the work began, as in ISO 8601. ``finished``:
    all rows are there, and some outputs may be in their place already.
    """

    settings: dict[str, Any]
    overwrite: bool
    date: str
    head: int
    batches: tuple[Batch, ...]
    finished: bool


def partial_path(output: Path) -> Path:
    """Returns where the rows of an output are until it is whole."""
    return output.with_name(f"{output.name}.partial")


def journal_path(output: Path) -> Path:
    """Returns where it is written what the rows of :func:`partial_path` are made from."""
    return output.with_name(f"{output.name}.partial.journal")


def read_journal(output: Path) -> Journal | None:
    """Returns the journal of an output that is not whole, or None where nothing of it is done yet.

    A last line that is torn, as its process was killed, does not count.

    Raises:
        RunError: if the file beside the output is no journal, or rows are there without one.
    """
    file, partial = journal_path(output), partial_path(output)
    try:
        lines = [line for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        found = _journal([json.loads(line) for line in lines], [len(line) for line in lines]) if lines else None
    except FileNotFoundError:
        found = None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise RunError(f"{file} cannot be read, so nothing can go on from it: {_ANEW}.") from None
    if found is None and _size(partial):
        raise RunError(f"{partial} is there, but no journal to go on from: choose another output, or {_ANEW}.")
    return found if found and (found.batches or found.finished) else None


def _journal(lines: Sequence[Any], lengths: Sequence[int]) -> Journal:
    head, *rest = lines
    finished = bool(rest) and "finished" in rest[-1]
    batches, end = [], lengths[0]
    for line, length in zip(rest[: len(rest) - finished], lengths[1:], strict=False):
        end += length
        batches.append(Batch(int(line["rows"]), tuple(map(int, line["sizes"])), line["note"], end))
    return Journal(
        dict(head["settings"]), bool(head["overwrite"]), str(head["date"]), lengths[0], tuple(batches), finished
    )


class PartialOutput:
    """Output files that grow batch by batch, and are put in their place when all of it is done.

    ``rows``: how many are done. ``notes``: what :meth:`add` was given with each batch.
    """

    def __init__(self, outputs: Sequence[Path], settings: Mapping[str, Any], *, overwrite: bool, date: str) -> None:
        """Goes on with the outputs where they were interrupted, or begins them.

        Args:
            outputs: the files; the first gives the journal its name.
            settings: what the rows are made from: name → value for JSON. The names are for messages, as ``--seed``.
            overwrite: begin anew, and replace the outputs in the end.
            date: the date of a new journal; one that is gone on with keeps its own.

        Raises:
            RunError: if the rows so far were made from something else, another process is writing them, or an output
                is in the way or cannot be written.
        """
        self.rows, self.notes = 0, list[Any]()
        self._outputs, self._overwrite, self._finished = tuple(outputs), overwrite, False
        self._handles: list[IO[bytes]] = []
        try:
            for output in outputs:
                output.parent.mkdir(parents=True, exist_ok=True)
            self._journal = self._opened(journal_path(outputs[0]))
            if not locked(self._journal):
                raise RunError(f"Another process is writing {outputs[0]}: wait for it, or choose another output.")
            found = None if overwrite else read_journal(outputs[0])
            if found is None:
                self._begin({"settings": settings, "overwrite": overwrite, "date": date})
            else:
                self._check(found, settings)
                self._go_on(found)
        except OSError as error:
            self.close()
            where = error.filename or outputs[0]
            raise RunError(f"{where} cannot be written ({error.strerror}); choose another output path.") from None
        except BaseException:
            self.close()
            raise

    @property
    def partial(self) -> Path:
        """Where the rows of the first output are."""
        return partial_path(self._outputs[0])

    def add(self, lines: Sequence[Iterable[str]], rows: int, note: Any) -> None:
        """Appends a batch: the lines of each file without their ends, the number of its rows, and a note for JSON.

        When it returns, the batch is on the disk.
        """
        for handle, texts in zip(self._handles[1:], lines, strict=True):
            handle.writelines(f"{text}\n".encode() for text in texts)
            _sync(handle)
        sizes = [handle.tell() for handle in self._handles[1:]]
        self._write({"rows": self.rows + rows, "sizes": sizes, "note": note})
        self.rows += rows
        self.notes.append(note)

    def finish(self) -> None:
        """Puts the files in their place, packed where their names end in ``.gz``, and removes the journal.

        Raises:
            RunError: if an output that was not there at the beginning is there now.
        """
        if not self._finished:
            for output in filter(Path.exists, () if self._overwrite else self._outputs):
                raise RunError(f"{output} is there by now: move it away, and resume to put the rows in its place.")
            self._write({"finished": True})
        # The one that names the journal comes last.
        for output in reversed(self._outputs):
            if partial_path(output).exists():
                _put_in_place(partial_path(output), output)
        journal_path(self._outputs[0]).unlink()
        self.close()

    def drop(self) -> None:
        """Removes what was written."""
        for file in (*map(partial_path, self._outputs), journal_path(self._outputs[0])):
            file.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Closes the files, to go on another time."""
        for handle in self._handles:
            with suppress(OSError):  # a disk that is full, of which there was an error before
                handle.close()

    def _opened(self, file: Path) -> IO[bytes]:
        self._handles.append(file.open("ab"))
        return self._handles[-1]

    def _begin(self, head: Mapping[str, Any]) -> None:
        _cut(self._journal, 0)
        for output in self._outputs:
            _cut(self._opened(partial_path(output)), 0)
        self._write(head)

    def _check(self, found: Journal, settings: Mapping[str, Any]) -> None:
        now = json.loads(json.dumps(settings))  # as it comes back from the journal
        if changed := _first_change(found.settings, now):
            raise RunError(f"{self.partial} was begun {changed}: resume with the same, or {_ANEW}.")
        for output in self._outputs:
            if output.exists() and not (found.overwrite or found.finished):
                raise RunError(f"{output} is there beside {self.partial}: move one of them away, or {_ANEW}.")

    def _go_on(self, found: Journal) -> None:
        """Cuts the files to the last batch that all of them have whole."""
        self._overwrite, self._finished = found.overwrite, found.finished
        batches = list(found.batches)
        if not found.finished:
            there = [_size(partial_path(output)) for output in self._outputs]
            while batches and any(has < size for has, size in zip(there, batches[-1].sizes, strict=True)):
                batches.pop()
            _cut(self._journal, batches[-1].end if batches else found.head)
            for i, output in enumerate(self._outputs):
                _cut(self._opened(partial_path(output)), batches[-1].sizes[i] if batches else 0)
        self.rows = batches[-1].rows if batches else 0
        self.notes = [batch.note for batch in batches]

    def _write(self, line: Mapping[str, Any]) -> None:
        self._journal.write(f"{json.dumps(line)}\n".encode())
        _sync(self._journal)


def _first_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Returns what differs, for a message: a value where it is short enough to be one, else the name alone."""
    for name in dict.fromkeys([*now, *before]):
        old, new = before.get(name), now.get(name)
        if old != new:
            if _is_digest(old) or _is_digest(new):
                return f"with another {name}"
            if old is None:
                return f"without {name}"
            return f"with {name} {old}, " + ("which is left out now" if new is None else f"not {new}")
    return None


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and not value.strip("0123456789abcdef")


def _put_in_place(partial: Path, output: Path) -> None:
    if output.suffix != ".gz":
        os.replace(partial, output)
        return
    with partial.open(encoding="utf-8", newline="\n") as rows, atomic_writer(output, overwrite=True) as packed:
        shutil.copyfileobj(rows, packed, 2**20)
    partial.unlink()


def _cut(handle: IO[bytes], size: int) -> None:
    handle.truncate(size)
    handle.seek(0, os.SEEK_END)


def _sync(handle: IO[bytes]) -> None:
    handle.flush()
    os.fsync(handle.fileno())


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
