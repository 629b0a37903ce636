"""What a file calls its columns, and what of a row no format used."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from selfjudge.errors import DataError

HEAD_ROWS = 20
"""How many rows are looked at to know a file's columns and its format."""


@dataclass(frozen=True)
class Unused:
    """A column, or a field within one, that no format used: its name, in how many rows it is, and an example."""

    name: str
    rows: int
    example: str


def renamed(data: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Returns a row under our names for its columns. ``columns``: our name → the file's name.

    A column of the file that has one of our names and is not asked for stays, as ``NAME (the file's own)``.
    """
    if not columns:
        return data
    rest = {_kept(name, columns): value for name, value in data.items() if name not in columns.values()}
    return {**rest, **{ours: data.get(theirs) for ours, theirs in columns.items()}}


def _kept(name: str, columns: Mapping[str, str]) -> str:
    return f"{name} (the file's own)" if name in columns else name


def parse_columns(text: str | None) -> dict[str, str]:
    """Returns our name → the file's name from text such as ``prompt=question,chosen=better``; nothing from None.

    Raises:
        DataError: a part of the text is not such a pair, or two parts have the same name of ours.
    """
    columns: dict[str, str] = {}
    for part in text.split(",") if text is not None else ():
        ours, sign, theirs = (piece.strip() for piece in part.partition("="))
        if not ours or not sign or not theirs:
            raise DataError(f"--columns: {part!r} does not say which column holds what; write prompt=NAME.")
        if ours in columns:
            raise DataError(f"--columns names a column for `{ours}` twice; name one.")
        columns[ours] = theirs
    return columns


def check_columns(
    columns: Mapping[str, str], head: Sequence[Mapping[str, Any]], origin: str, known: Collection[str]
) -> None:
    """Passes names for columns that a format reads and the first rows have. ``known``: the names that formats read.

    Raises:
        DataError: any other name, or one column of the file for two of ours.
    """
    found = sorted({name for data in head for name in data})
    for ours, theirs in columns.items():
        if ours not in known:
            near = get_close_matches(ours, sorted(known), n=3) or ("prompt", "chosen", "rejected", "system", "history")
            raise DataError(f"{origin}: columns: no format reads `{ours}`; choose a name such as {', '.join(near)}.")
        if theirs not in found:
            raise DataError(
                f"{origin}: columns: the first rows have no `{theirs}` to be `{ours}`; choose from {', '.join(found)}."
            )
        twice = next((other for other in columns if other != ours and columns[other] == theirs), None)
        if twice:
            raise DataError(f"{origin}: columns: `{theirs}` is to be both `{ours}` and `{twice}`; name two columns.")


def under_our_names(
    rows: Iterator[tuple[int, dict[str, Any]]], columns: Mapping[str, str], origin: str, known: Collection[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Returns numbered rows under our names for their columns, see :func:`renamed`.

    Raises:
        DataError: as :func:`check_columns`, from the first ``HEAD_ROWS`` rows.
    """
    if not columns:
        return rows
    first = list(itertools.islice(rows, HEAD_ROWS))
    if first:
        check_columns(columns, [data for _, data in first], origin, known)
    return ((number, renamed(data, columns)) for number, data in itertools.chain(first, rows))


class Account:
    """Gathers what the rows of a source hold and no format used."""

    def __init__(self) -> None:
        """Begins with nothing."""
        self._rows: dict[str, int] = {}
        self._examples: dict[str, str] = {}

    def add(self, unused: Mapping[str, Any]) -> None:
        """Adds what one row left over: name → value."""
        for name, value in unused.items():
            self._rows[name] = self._rows.get(name, 0) + 1
            self._examples.setdefault(name, _example(value))

    def unused(self) -> tuple[Unused, ...]:
        """Returns what was left over, the most frequent first."""
        order = sorted(self._rows, key=lambda name: -self._rows[name])
        return tuple(Unused(name, self._rows[name], self._examples[name]) for name in order)


def _example(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"
