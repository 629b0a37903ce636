"""Test sets of judges: labelled pairs with the subset each is from."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from selfjudge.data.columns import HEAD_ROWS, under_our_names
from selfjudge.data.formats import COLUMNS, Dropped, Pairing, Reject, Row, find_format, recognise
from selfjudge.data.formats.judge import TWO_ANSWERS, read_comparison
from selfjudge.data.raw import Source, origin_of, position_word, read_rows, source_name
from selfjudge.errors import DataError
from selfjudge.records import Comparison, PreferenceRecord

SUBSETS = ("set", "subset")
"""The columns that say which part of a test set a row belongs to."""


@dataclass(frozen=True)
class JudgePair:
    """A pair put to the judge, and the name of the subset it is from."""

    comparison: Comparison
    subset: str


def load_judge_set(path: Source, columns: Mapping[str, str] | None = None) -> tuple[JudgePair, ...]:
    """Every row of a test set of judges, in its order.

    Taken are files of two answers with a label or without (judge files, JudgeBench, Chatbot Arena, HelpSteer, …; see
    :func:`selfjudge.data.formats.judge.read_comparison`), preference files such as RewardBench (``prompt``,
    ``chosen``, ``rejected``), and rows of either kind given in Python. The subset is the columns ``set`` and
    ``subset``, for JudgeBench ``source``, else the file's name, for rows ``rows``. :func:`as_comparison` draws which
    side of a preference is shown first. ``columns``: our name for a column → the file's.

    Raises:
        DataError: the file cannot be read or is empty, its format is not known, it has no such column, or a row is
            malformed (it is named).
    """
    origin = origin_of(path)
    raw = under_our_names(read_rows(path), columns or {}, origin, {*COLUMNS, *SUBSETS})
    first = list(itertools.islice(raw, HEAD_ROWS))
    head = [_as_judge_row(data) for _, data in first]
    if not head:
        raise DataError(f"{origin}: there is no row in it; check the file.")
    form = recognise(head)
    if form not in TWO_ANSWERS:  # those may do without a label here
        form = find_format(head, origin)
    name = source_name(origin)
    pairs: list[JudgePair] = []
    for index, (line, data) in enumerate(itertools.chain(first, raw)):
        row = Row(_as_judge_row(data), line, index, name)
        try:
            if form in TWO_ANSWERS:
                found = [read_comparison(row)]
            else:
                found = [as_comparison(r) for r in _records(form.parse(row, Pairing()))]
        except Reject as error:
            raise DataError(f"{origin}, {position_word(origin)} {line}: {error}; correct or remove this row.") from None
        pairs += [JudgePair(comparison, _subset(row.data) or name) for comparison in found]
    return tuple(pairs)


def as_comparison(record: PreferenceRecord) -> Comparison:
    """Returns the labelled pair of a record, chosen first or second by a hash of its id and both texts."""
    first = draw(record)[-1] % 2 == 0
    a, b = (record.chosen, record.rejected) if first else (record.rejected, record.chosen)
    return Comparison(id=record.id, prompt=record.prompt, response_a=a, response_b=b, label="A" if first else "B")


def draw(record: PreferenceRecord) -> bytes:
    """Returns 32 bytes that look random and depend on the record's id and texts alone."""
    return hashlib.sha256(f"{record.id}\n{record.chosen}\n{record.rejected}".encode()).digest()


def _records(parsed: Iterator[PreferenceRecord | Dropped]) -> Iterator[PreferenceRecord]:
    for item in parsed:
        if isinstance(item, Dropped):
            raise Reject(item.reason)
        yield item


def _as_judge_row(data: dict[str, Any]) -> dict[str, Any]:
    """A row as JudgeBench publishes it, with its id and its subset under the names that judge files have for them."""
    if not {"question", "response_A", "response_B"} <= data.keys():
        return data
    return {**data, "id": data.get("pair_id"), "subset": data.get("source")}


def _subset(data: dict[str, Any]) -> str:
    names = [data.get(name) for name in SUBSETS]
    return " / ".join(name for name in names if isinstance(name, str) and name)
