"""What every format shares: the raw row, the pairing settings, and the checks a pair has to pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from pydantic import ValidationError

from selfjudge.data.formats.messages import Reject, check_turns, clean_text, holds, is_text
from selfjudge.data.identity import folded
from selfjudge.errors import DataError
from selfjudge.records import OVERALL, Message, PreferenceRecord

TieRule = Literal["drop", "longer"]
Pairs = Literal["overall", "per_principle"]

INDEX_COLUMNS = ("Unnamed: 0", "__index_level_0__")
"""What pandas writes its index as: into a CSV file, where the column has no name, and into parquet."""


@dataclass(frozen=True)
class Dropped:
    """Something that was left out: a row, or one pair or completion of it. ``line`` is the row's position, from 1."""

    id: str
    line: int
    reason: str


@dataclass(frozen=True)
class Row:
    """One raw row: its columns, its position in the source (``line`` from 1, ``index`` from 0), the source's name.

    It keeps account of what is read. ``read`` has the columns that a format asked for; ``ignored`` has what it met
    within them and left out, such as a field of a message: its name (``chosen[].weight``) → its value.
    """

    data: dict[str, Any]
    line: int
    index: int
    source: str
    read: set[str] = field(default_factory=set, compare=False)
    ignored: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def key(self) -> str:
        """The row's own ``id``, else its index: what seeded draws depend on, so that renaming a file changes none."""
        return own_id(self.data) or str(self.index)

    @property
    def id(self) -> str:
        """The row's own ``id``, else the source's name and the index."""
        return own_id(self.data) or f"{self.source}-{self.index}"

    def column(self, name: str) -> Any:
        """The value of a column, which then counts as used.

        Raises:
            Reject: the row does not have it, or it is null.
        """
        value = self.get(name)
        if value is None:
            raise Reject(f"no {name}")
        return value

    def get(self, name: str) -> Any:
        """The value of a column, or None where the row does not have it. The column then counts as used."""
        self.read.add(name)
        return self.data.get(name)

    def unused(self) -> dict[str, Any]:
        """What the row holds and no format read: name → value.

        Empty columns and an index are left out.
        """
        used = {*self.read, *INDEX_COLUMNS}
        if own_id(self.data):
            used.add("id")
        if is_text(self.data.get("source")):
            used.add("source")
        rest = {name: value for name, value in self.data.items() if holds(value) and name not in used}
        return {**rest, **self.ignored}


@dataclass(frozen=True)
class Pairing:
    """How rated answers become pairs (method, section 1).

    ``tie_rule``: ``drop`` never pairs equal ratings; ``longer`` orders by (rating, length), as published.
    ``pairs``: ``overall`` compares mean ratings; ``per_principle`` adds a pair for every principle.

    Raises:
        DataError: an unknown value.
    """

    tie_rule: TieRule = "drop"
    pairs: Pairs = "overall"
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises DataError for an unknown value."""
        for name, value, known in (("tie_rule", self.tie_rule, TieRule), ("pairs", self.pairs, Pairs)):
            if value not in get_args(known):
                raise DataError(f"{name} is {value!r}; choose one of {', '.join(get_args(known))}.")


Parsed: TypeAlias = Iterator[PreferenceRecord | Dropped]


@dataclass(frozen=True)
class Format:
    """A way to write preferences down: its name, the columns it needs, and how rows are told apart and read.

    Where several columns do for one that is needed, ``columns`` has them all, the usual one first.
    ``fits`` says whether a row looks like this format; ``parse`` yields its records and raises Reject to drop it all.
    """

    name: str
    columns: tuple[str | tuple[str, ...], ...]
    fits: Callable[[dict[str, Any]], bool]
    parse: Callable[[Row, Pairing], Parsed]

    def missing(self, found: Collection[str]) -> tuple[str, ...]:
        """The columns that the format needs and that are not among ``found``."""
        return tuple(choice[0] for choice in self.choices() if not any(name in found for name in choice))

    def choices(self) -> tuple[tuple[str, ...], ...]:
        """The columns that do for each column that is needed."""
        return tuple((column,) if isinstance(column, str) else column for column in self.columns)


def own_id(data: dict[str, Any]) -> str | None:
    """The row's ``id`` column as text, or None where it has no usable one."""
    value = data.get("id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if is_text(value) else None


def invalid(error: ValidationError) -> Reject:
    """The reason to drop a row whose values do not make a record."""
    first = error.errors()[0]
    return Reject(f"not a valid record ({'.'.join(map(str, first['loc'][:1])) or 'prompt'}: {first['msg']})")


def make_record(
    row: Row,
    prompt: tuple[Message, ...],
    chosen: str,
    rejected: str,
    *,
    principle: str = OVERALL,
    rationales: tuple[str | None, str | None] = (None, None),
    id_suffix: str = "",
    strength: float | None = None,
) -> PreferenceRecord:
    """The canonical record of one pair; ``rationales`` belong to (chosen, rejected), ``strength`` to the label.

    Raises:
        Reject: the prompt or a response is empty or malformed, or the responses read the same.
    """
    check_turns(prompt)
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        if not clean_text(text, name).strip():
            raise Reject(f"empty {name} response")
    if folded(chosen) == folded(rejected):
        raise Reject("identical responses")
    source: Any = row.data.get("source")
    return PreferenceRecord(
        id=row.id + id_suffix,
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        principle=principle,
        chosen_rationale=rationales[0],
        rejected_rationale=rationales[1],
        strength=strength,
        source=source if is_text(source) else row.source,
    )
