"""Rows of CSV files, with a comma, a semicolon or a tab between the cells."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfjudge.data.io import read_lines
from selfjudge.errors import DataError

DELIMITERS = (",", ";", "\t")
SAMPLE_ROWS = 20
"""How many rows below the header are looked at to tell the delimiter."""


def read_csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields rows under the names in the first line, numbered from 1; cells are text, an empty one is null.

    A first column without a name is ``Unnamed: 0``, as for pandas, which writes its index like that. The delimiter is
    the one of ``DELIMITERS`` that the first line and the rows after it have; in a ``.tsv`` file it is a tab.

    Raises:
        DataError: the file cannot be read, the first line does not name each column once, or a row has other cells.
    """
    delimiter = "\t" if path.name.removesuffix(".gz").endswith(".tsv") else _delimiter(path)
    number = 0
    try:
        reader = _reader(path, delimiter)
        header = [name.strip() for name in next(reader, [])]
        if header[:1] == [""]:
            header[0] = "Unnamed: 0"
        if not all(header) or len(set(header)) < len(header):
            raise DataError(f"{path}: the first line must name each column once; correct it.")
        for number, cells in enumerate(filter(None, reader), start=1):
            if len(cells) != len(header):
                raise DataError(
                    f"{path}, row {number}: {len(cells)} cells under {len(header)} columns; put a text with "
                    "commas, semicolons, tabs, quotes or line breaks in quotes, and double the quotes in it."
                )
            yield number, {name: cell or None for name, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        raise DataError(f"{path}, after row {number}: not valid CSV ({error}); correct it.") from None


def _reader(path: Path, delimiter: str) -> Iterator[list[str]]:
    return csv.reader((line for _, line in read_lines(path)), strict=True, delimiter=delimiter)


def _delimiter(path: Path) -> str:
    """The delimiter that gives the first rows as many cells as the header, and more than one; a comma if none does."""
    return max(DELIMITERS, key=lambda delimiter: _fit(path, delimiter))  # the first of those that fit equally well


def _fit(path: Path, delimiter: str) -> tuple[bool, int, int]:
    """(Whether the header has several columns, how many of the first rows have as many cells, how many columns)."""
    rows: list[list[str]] = []
    try:
        for cells in itertools.islice(_reader(path, delimiter), SAMPLE_ROWS + 1):
            rows.append(cells)
    except (csv.Error, DataError):
        pass  # the rows before it count; reading the file names what is wrong
    columns = len(rows[0]) if rows else 0
    return columns > 1, sum(len(cells) == columns for cells in rows[1:] if cells), columns
