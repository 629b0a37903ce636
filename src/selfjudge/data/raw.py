"""Raw rows, each with its position, from a Hub id, a local file, or Python."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from pydantic import BaseModel

from selfjudge.data.csv_files import read_csv
from selfjudge.data.io import json_type, read_jsonl, read_text
from selfjudge.data.plain import plain
from selfjudge.errors import DataError
from selfjudge.recipes.section import ROWS

if TYPE_CHECKING:
    from datasets import Dataset

RawRows = Iterator[tuple[int, dict[str, Any]]]
Rows: TypeAlias = Iterable[Mapping[str, Any] | BaseModel]
"""Rows in Python: a ``datasets.Dataset``, or any iterable of mappings or of records."""
Source: TypeAlias = str | Path | Rows
"""Where rows are from: a file's path, a Hub id, or the rows themselves."""

_TEXT = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
SUFFIXES = (*_TEXT, *(f"{suffix}.gz" for suffix in _TEXT), ".parquet")
"""The files that are read, by how their names end."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def read_rows(path: Source, subset: str | None = None, split: str = "train", limit: int | None = None) -> RawRows:
    """Yields ``(position, row)``: the line of a JSONL file, the number of the item or row of any other; both from 1.

    ``path`` is a local file (see ``SUFFIXES``), a local dataset folder, a Hub id ``org/name``, or the rows
    themselves: a ``datasets.Dataset``, or any iterable of mappings or records.
    ``subset`` (a config or a data directory) and ``split`` choose within a Hub dataset or folder; a JSON object with
    several lists is searched for ``split`` too. ``limit``: at most so many rows from the start.

    Raises:
        DataError: nothing there, not readable, a malformed line, an unsupported file type, or a row that is no mapping.
    """
    rows = _open(str(path), subset, split) if isinstance(path, str | os.PathLike) else _given_rows(path)
    return ((number, _without_nan(row)) for number, row in itertools.islice(rows, limit))


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    """The row with null for a cell that is no number and no text: pandas has NaN where a cell is empty."""
    missing = [name for name, value in row.items() if isinstance(value, float) and math.isnan(value)]
    return {**row, **dict.fromkeys(missing)} if missing else row


def origin_of(path: Source) -> str:
    """How messages and run folders call a source: a file's path or the Hub id; rows from Python are ``rows``."""
    return str(path) if isinstance(path, str | os.PathLike) else ROWS


def source_state(path: Source, subset: str | None = None, split: str = "train") -> list[Any] | None:
    """What tells a source from itself before a change: a file's place, size and time, or a dataset's own fingerprint.

    None for rows of which nothing tells: they can be others each time.

    Raises:
        DataError: as :func:`read_rows` for a dataset. A file that is missing is found out when it is read.
    """
    if not isinstance(path, str | os.PathLike):
        return [path._fingerprint] if _is_dataset(path) else None
    if Path(path).is_file():
        stat = Path(path).stat()
        return [str(Path(path).resolve()), stat.st_size, stat.st_mtime_ns]
    if Path(path).is_dir() or _HUB_ID.fullmatch(str(path)):
        return [_dataset(str(path), subset, split)._fingerprint]
    return []


def source_name(path: str | Path) -> str:
    """How records name the source: a file's name without its suffixes, the Hub id, or ``rows``."""
    name = Path(path).name
    return name.removesuffix(".gz").removesuffix(_suffix(name)) if _suffix(name) else str(path)


def position_word(path: str | Path) -> str:
    """What a row's position counts, for messages: ``line``, ``item`` or ``row``."""
    return {".jsonl": "line", ".ndjson": "line", ".json": "item"}.get(_suffix(str(path)), "row")


def _suffix(path: str) -> str:
    """What kind of file a path names, by its end without ``.gz``; an empty text for what is no file of ``SUFFIXES``."""
    return next((suffix.removesuffix(".gz") for suffix in SUFFIXES if path.endswith(suffix)), "")


def _open(path: str, subset: str | None, split: str) -> RawRows:
    file = Path(path)
    match _suffix(path):
        case ".jsonl" | ".ndjson":
            return read_jsonl(file)
        case ".json":
            return _json_rows(file, split)
        case ".csv" | ".tsv":
            return read_csv(file)
        case ".parquet":
            return _parquet_rows(file)
    if file.is_file():
        raise DataError(f"{path}: this file type is not supported; use one of {', '.join(SUFFIXES)}.")
    if file.is_dir() or _HUB_ID.fullmatch(path):
        return _dataset_rows(path, subset, split)
    if path == ROWS:
        raise DataError(f"{ROWS}: these are rows that came from Python, not a file; give them again as rows=....")
    raise DataError(f"{path}: there is no such file, and it does not look like a Hub id (org/name); check the path.")


def _given_rows(rows: Rows) -> RawRows:
    """Rows of Python objects, made plain. What the iterable itself raises is left as it is."""
    wanted = "give a datasets.Dataset, or an iterable of mappings from column to value"
    if isinstance(rows, Mapping) or not isinstance(rows, Iterable):
        raise DataError(f"{ROWS}: found one {type(rows).__name__}, which is not a list of rows; {wanted}.")
    for number, row in enumerate(rows.with_format(None) if _is_dataset(rows) else rows, start=1):
        content = plain(row)
        if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
            raise DataError(f"{ROWS}, row {number}: expected a mapping, found {_described(content)}; {wanted}.")
        yield number, content


def _described(row: Any) -> str:
    return "a column whose name is not text" if isinstance(row, dict) else json_type(row)


def _is_dataset(rows: Any) -> TypeGuard[Dataset]:
    library = sys.modules.get("datasets")  # whoever has a dataset has imported it, which takes a second or two
    return library is not None and isinstance(rows, library.Dataset)


def _json_rows(path: Path, split: str) -> RawRows:
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        hint = "; one row on each line is JSONL: rename the file to .jsonl" if error.msg == "Extra data" else ""
        raise DataError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}){hint}.") from None
    except (ValueError, RecursionError):
        raise DataError(f"{path}: too long a number or too deep a nesting for JSON rows; correct it.") from None
    for number, row in enumerate(_row_list(content, path, split), start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, item {number}: expected a JSON object, found {json_type(row)}.")
        yield number, row


def _row_list(content: Any, path: Path, split: str) -> list[Any]:
    """The list of rows in a JSON document: the document itself, or a list in it."""
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a list of rows, found {json_type(content)}.")
    lists = {name: value for name, value in content.items() if isinstance(value, list)}
    if split in lists:
        return lists[split]
    if len(lists) != 1:
        raise DataError(
            f"{path}: expected a list of rows, or an object with one such list; found an object with the keys "
            f"{', '.join(content)}. Name one of its lists as the split, or write one row a line as .jsonl."
        )
    return next(iter(lists.values()))


def _parquet_rows(path: Path) -> RawRows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.names:  # a damaged file may then promise any number of rows
                raise DataError(f"{path}: it has no columns; write the file again.")
            rows = (row for batch in file.iter_batches(batch_size=1024) for row in batch.to_pylist())
            yield from enumerate(rows, start=1)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; check the path.") from None
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # the latter two: a time out of range
        raise DataError(f"{path} cannot be read as parquet ({_first_line(error)}); write the file again.") from None


def _dataset_rows(path: str, subset: str | None, split: str) -> RawRows:
    for number, row in enumerate(_dataset(path, subset, split), start=1):
        yield number, dict(row)


def _dataset(path: str, subset: str | None, split: str) -> Dataset:
    import datasets

    try:
        folder = Path(path).is_dir()
        # By its full path: a folder called `json` or `text` is not the library's reader of that name.
        path = str(Path(path).resolve()) if folder else path
        options: dict[str, str] = {}
        if subset is not None:
            # A subset is a named config of some datasets and a folder of others (Anthropic/hh-rlhf).
            named = subset in datasets.get_dataset_config_names(path)
            options = {"name" if named else "data_dir": subset}
        builder = datasets.load_dataset_builder(path, **options)
        _check_files(builder.config.data_files or {}, path if folder else f"hf://datasets/{path}@")
        builder.download_and_prepare()
        return builder.as_dataset(split=split)
    except DataError:
        raise
    except Exception as error:  # the library lets errors of many libraries through, all of them about this source
        where = f"{path} (subset {subset or 'default'}, split {split})"
        raise DataError(
            f"{where}: no local file, and not loaded from the Hub ({_first_line(error)}); check the name, subset, "
            "split and the network, or give a local file."
        ) from None


def _check_files(data_files: Mapping[str, Sequence[str]], root: str) -> None:
    """Passes files within a dataset. Its card can name any: a file of this machine, or one on another host.

    Raises:
        DataError: for a file elsewhere.
    """
    inside = root if root.endswith("@") else f"{root}/"
    for file in (file for files in data_files.values() for file in files):
        if not file.startswith(inside) or ".." in file.split("/"):
            raise DataError(f"{root.rstrip('@')}: it names the file {file}, which is none of its own; do not use it.")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
