"""What a file calls its columns, and what of a row no format used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Unused:
    """A column, or a field within one, that no format used: its name, in how many rows it is, and an example."""

    name: str
    rows: int
    example: str


def renamed(data: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Returns a row under our names for its columns. ``columns``: our name → the file's name."""
    if not columns:
        return data
    rest = {name: value for name, value in data.items() if name not in columns.values()}
    return {**rest, **{ours: data.get(theirs) for ours, theirs in columns.items()}}


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
