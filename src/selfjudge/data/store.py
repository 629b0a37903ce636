"""Sequences that lie in Arrow files: memory-mapped, so that they cost no memory and all processes share them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from selfjudge.errors import RunError

if TYPE_CHECKING:  # importing them takes a second or two, which a command without data should not
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset

T = TypeVar("T")

_AT_ONCE = 512
"""Rows that are read or written together."""


class Stored(Sequence[T], Generic[T]):
    """A sequence whose items lie in an Arrow file, each made anew when it is asked for.

    A slice and :meth:`select` are views: they hold positions and no items.
    """

    def __init__(self, dataset: Dataset, build: Callable[[dict[str, Any]], T], owner: object = None) -> None:
        """Takes the rows, what makes an item of a row, and an object to keep alive as long as the files are needed."""
        self.dataset = dataset
        self.build = build
        self._owner = owner

    def __len__(self) -> int:
        """Returns the number of items."""
        return len(self.dataset)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Stored[T]: ...
    def __getitem__(self, place: int | slice) -> T | Stored[T]:
        """Returns an item, or a view of a slice."""
        if isinstance(place, slice):
            return self.select(range(*place.indices(len(self))) or range(0))
        return self.build(self.dataset[place])

    def __iter__(self) -> Iterator[T]:
        """Yields the items, read a few hundred at a time."""
        for table in self.dataset.with_format("arrow").iter(_AT_ONCE):
            yield from map(self.build, table.to_pylist())

    def __eq__(self, other: object) -> bool:
        """Whether ``other`` is a sequence of equal items."""
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def select(self, places: Iterable[int]) -> Stored[T]:
        """Returns a view of the items at these places, in this order."""
        return Stored(self.dataset.select(places), self.build, self._owner)

    def column(self, name: str) -> pa.ChunkedArray:
        """Returns a column of the rows; no other column is read."""
        return self.dataset.select_columns(name).with_format("arrow")[:][name]

    def numbers(self, name: str) -> np.ndarray[Any, Any]:
        """Returns a column of numbers."""
        found: np.ndarray[Any, Any] = self.column(name).to_numpy()
        return found

    def texts(self, name: str) -> list[str]:
        """Returns the distinct texts of a column."""
        return [text for text in self.column(name).unique().to_pylist() if text is not None]

    def given(self, name: str) -> np.ndarray[Any, Any]:
        """Returns whether a column holds something, for each row."""
        found: np.ndarray[Any, Any] = self.column(name).is_valid().to_numpy()
        return found

    def equal(self, name: str, value: str) -> np.ndarray[Any, Any]:
        """Returns whether a column holds ``value``, for each row."""
        import pyarrow.compute as pc

        found: np.ndarray[Any, Any] = pc.equal(self.column(name), value).to_numpy()
        return found

    def built(self, build: Callable[[dict[str, Any]], Any]) -> Stored[Any]:
        """Returns the same rows as other items."""
        return Stored(self.dataset, build, self._owner)


def joined(parts: Sequence[Stored[T]]) -> Stored[T]:
    """Returns sequences of the same kind, at least one, as one."""
    from datasets import concatenate_datasets

    owners = [part._owner for part in parts]
    return Stored(concatenate_datasets([part.dataset for part in parts]), parts[0].build, owners)


@contextmanager
def arrow_writer(path: Path, schema: pa.Schema) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What writes a row into a new Arrow file, a few hundred at a time. The file is there when the block has ended."""
    import pyarrow as pa

    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        rows: list[dict[str, Any]] = []

        def flush() -> None:
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
            rows.clear()

        def write(row: dict[str, Any]) -> None:
            rows.append(row)
            if len(rows) >= _AT_ONCE:
                flush()

        yield write
        flush()
    sync([partial])
    partial.replace(path)


def sync(files: Iterable[Path]) -> None:
    """Waits until files are on the disk, so that nothing that names them can outlive them."""
    for file in files:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def stored(paths: Sequence[Path], build: Callable[[dict[str, Any]], T], owner: object = None) -> Stored[T]:
    """Returns the items of Arrow files, which are mapped into memory and not read."""
    from datasets import Dataset, concatenate_datasets

    return Stored(concatenate_datasets([Dataset.from_file(str(path)) for path in paths]), build, owner)


class Cache:
    """A folder of prepared data, each kind of it under a key that tells what it was made from.

    Without a folder it is a temporary one, which is removed with the last sequence that lies in it.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        """Takes the folder; it is made when something is put into it."""
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="selfjudge-")
        self.path = Path(folder or self._temporary.name)  # type: ignore[union-attr]

    @property
    def owner(self) -> object:
        """What keeps the folder: for :class:`Stored`."""
        return self._temporary

    def folder(self, name: str, *made_from: Any) -> Path:
        """Returns the folder of what is made from ``made_from`` (JSON values) by this version of the package."""
        text = json.dumps([_code(), *made_from], sort_keys=True, default=str)
        path = self.path / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise RunError(f"{path} cannot be made ({e.strerror}): choose another output folder.") from e
        return path


@cache
def _code() -> str:
    """A hash of the package's files: what another version has prepared is not read."""
    digest = hashlib.sha256()
    for file in sorted(Path(str(resources.files("selfjudge"))).rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
