"""Files in and out: JSON lines with line numbers in the errors, and writes that are whole or not there at all."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, TextIO

from pydantic import BaseModel

from selfjudge.errors import DataError, RunError

MAX_LINE = 64 * 2**20
"""Characters of a line at most."""
MAX_PACKED = 200
"""By how much gzip may have packed a file that unpacks to more than MAX_LINE bytes. Text is packed to a third or a
tenth; what is made to exhaust memory, to a thousandth."""
_PART = 2**20
"""Characters that are read at once."""


def open_text(path: Path) -> TextIO:
    """The file as UTF-8 text, unpacked if it ends in ``.gz``; newlines are left as they are.

    Raises:
        DataError: the file is missing, a folder, or not readable.
    """
    try:
        if path.suffix == ".gz":
            return gzip.open(path, "rt", encoding="utf-8-sig", newline="\n")
        return path.open(encoding="utf-8-sig", newline="\n")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; check the path.") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; name one data file in it.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}); check its permissions.") from None


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields lines of text with their numbers, from 1, newlines kept.

    Raises:
        DataError: as :func:`open_text`; or the file is not UTF-8 or damaged, or a line is far too long for a row.
    """
    with open_text(path) as handle:
        number = 0
        while line := _read(handle, path, lambda: handle.readline(MAX_LINE + 1), f", after line {number}"):
            number += 1
            if len(line) > MAX_LINE:
                raise DataError(f"{path}, line {number}: more than {MAX_LINE:,} characters; put one row on a line.")
            yield number, line


def read_text(path: Path) -> str:
    """Returns all text of a file.

    Raises:
        DataError: as :func:`open_text`; or the file is not UTF-8 or damaged.
    """
    with open_text(path) as handle:
        return "".join(iter(lambda: _read(handle, path, lambda: handle.read(_PART)), ""))


def _read(handle: TextIO, path: Path, read: Callable[[], str], where: str = "") -> str:
    """The next part of a text. Raises DataError where it cannot be read, or a packed file unpacks to far too much."""
    try:
        text = read()
    except UnicodeDecodeError:
        raise DataError(f"{path}{where}: not UTF-8 text; convert the file to UTF-8.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise DataError(f"{path}{where}: damaged gzip data; fetch or pack the file again.") from None
    if path.suffix == ".gz" and handle.buffer.tell() > max(MAX_LINE, MAX_PACKED * path.stat().st_size):
        raise DataError(
            f"{path}{where}: unpacks to more than {MAX_PACKED} times its size, as no data does; if it is what you "
            "want, unpack it first."
        )
    return text


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields ``(line number, row)`` for each non-blank line; the first line is number 1.

    Raises:
        DataError: the file is missing or unreadable, or a line is not a JSON object (file and line are named).
    """
    path = Path(path)
    for number, line in read_lines(path):
        if line.strip():
            yield number, _parse_line(line, path, number)


def _parse_line(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # besides bad syntax: a number of thousands of digits, deep nesting
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "too long a number or too deep a nesting"
        raise DataError(f"{path}, line {number}: not valid JSON ({reason}); correct or remove the line.") from None
    if not isinstance(row, dict):
        raise DataError(
            f"{path}, line {number}: expected a JSON object, found {json_type(row)}; put one row on a line."
        )
    return row


def json_type(value: object) -> str:
    """The JSON name of a value's type, with its article, for messages: ``a list``, ``a string``, ``null``..."""
    if value is None:
        return "null"
    names = {bool: "a boolean", str: "a string", int: "a number", float: "a number", dict: "an object"}
    return names.get(type(value), "a list" if isinstance(value, list | tuple) else type(value).__name__)


@contextmanager
def atomic_writer(path: str | Path, overwrite: bool = False) -> Iterator[TextIO]:
    """A UTF-8 text handle whose content appears at ``path`` only when the body ends without an error.

    Everything goes to a temporary file in the same folder, which is renamed at the end and removed if the body
    raises. A path ending in ``.gz`` is compressed, without a time stamp, so that equal content gives equal bytes.
    Missing parent folders are created.

    Raises:
        RunError: the file exists and ``overwrite`` is false, or it cannot be written there.
    """
    path = Path(path)
    _refuse(path, overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}); choose another output path.") from None
    try:
        with os.fdopen(descriptor, "wb") as binary:
            with _text(binary, compress=path.suffix == ".gz") as handle:
                yield handle
            binary.flush()
            os.fsync(binary.fileno())
        _refuse(path, overwrite)  # another process may have written it while the body ran
        os.chmod(name, 0o666 & ~_umask())  # mkstemp makes files private; an output is an ordinary file
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


def locked(handle: IO[Any]) -> bool:
    """Whether this process has, or now gets, the lock of an open file; it holds it until the file is closed.

    A file system without locks lets everybody in.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Writes one JSON object, in place of what is there, whole or not at all."""
    with atomic_writer(path, overwrite=True) as handle:
        json.dump(content, handle, indent=2)
        handle.write("\n")


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any] | BaseModel], overwrite: bool = False) -> int:
    """Writes one JSON line a row (``.jsonl`` or ``.jsonl.gz``), whole or not at all. Returns the number of rows.

    Raises:
        RunError: the file exists and ``overwrite`` is false, or it cannot be written there.
    """
    count = 0
    with atomic_writer(path, overwrite) as handle:
        for count, row in enumerate(rows, start=1):  # noqa: B007 - the last count is the result
            handle.write(json_line(row) + "\n")
    return count


def json_line(row: dict[str, Any] | BaseModel) -> str:
    """One row as one line of JSON, without the newline; text is kept readable (no ``\\u`` escapes)."""
    return row.model_dump_json() if isinstance(row, BaseModel) else json.dumps(row, ensure_ascii=False)


def _refuse(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise RunError(f"{path} is a folder; name a file to write.")
    if path.exists() and not overwrite:
        raise RunError(f"{path} already exists and is left as it is; choose another name or remove it first.")


@contextmanager
def _text(binary: IO[bytes], compress: bool) -> Iterator[TextIO]:
    if compress:
        with gzip.GzipFile(filename="", mode="wb", fileobj=binary, mtime=0) as packed, _wrap(packed) as handle:
            yield handle
    else:
        with _wrap(binary) as handle:
            yield handle


@contextmanager
def _wrap(binary: Any) -> Iterator[TextIO]:
    handle = TextIOWrapper(binary, encoding="utf-8", newline="\n")
    try:
        yield handle
        handle.flush()
    finally:
        handle.detach()  # so that the wrapper does not close the file under the caller's feet


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
