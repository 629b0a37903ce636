"""Preference data from anywhere to canonical records, with an account of what was left out."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfjudge.data.columns import Account, Unused, check_columns, renamed
from selfjudge.data.formats import (
    COLUMNS,
    HEAD_ROWS,
    Dropped,
    Format,
    Pairing,
    Pairs,
    Reject,
    Row,
    TieRule,
    find_format,
)
from selfjudge.data.io import json_line, write_jsonl
from selfjudge.data.raw import RawRows, read_rows, source_name
from selfjudge.errors import DataError
from selfjudge.records import PreferenceRecord


@dataclass(frozen=True)
class Loaded:
    """What a source gave: its records, what was dropped, the format it was read in, and how many rows it has.

    ``fingerprint``: SHA-256 over the canonical record lines; equal exactly when the records are.
    ``unused``: the columns and fields that no record has anything of.
    """

    records: tuple[PreferenceRecord, ...]
    dropped: tuple[Dropped, ...]
    format: str
    rows: int
    fingerprint: str
    unused: tuple[Unused, ...] = ()

    def reasons(self) -> dict[str, int]:
        """How often each reason dropped something, the most frequent first."""
        return count_reasons(self.dropped)


def load_preferences(
    path: str | Path,
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    subset: str | None = None,
    split: str = "train",
    tie_rule: TieRule = "drop",
    pairs: Pairs = "overall",
    limit: int | None = None,
    seed: int = 0,
) -> Loaded:
    """Loads preference data from a local file or a Hub id (see :func:`selfjudge.data.raw.read_rows`).

    ``format`` is recognised from the first rows unless named. ``columns`` says what the file calls a column: our name →
    the file's. ``tie_rule`` and ``pairs`` apply to rated answers (see
    :class:`selfjudge.data.formats.Pairing`); ``seed`` draws the worse answer of UltraFeedback pairs. ``limit`` reads
    at most so many rows from the start. A row that cannot be used is dropped under a named reason.

    Raises:
        DataError: the source cannot be read, its format is not known or lacks a column, or no record is left.
    """
    pairing = Pairing(tie_rule, pairs, seed)
    raw = read_rows(path, subset, split, limit)
    first = list(itertools.islice(raw, HEAD_ROWS))
    if not first:
        raise DataError(f"{path}: there is no row in it; check the file or the split.")
    check_columns(columns or {}, [data for _, data in first], str(path), COLUMNS)
    rows = ((line, renamed(data, columns or {})) for line, data in itertools.chain(first, raw))
    head = list(itertools.islice(rows, HEAD_ROWS))
    form = find_format([data for _, data in head], str(path), format)
    account = Account()
    records, dropped, count = _parse(itertools.chain(head, rows), form, pairing, source_name(path), account)
    if not records:
        reasons = "; ".join(f"{number} x {reason}" for reason, number in count_reasons(dropped).items())
        raise DataError(
            f"{path}: read as format `{form.name}`, none of its {count} rows can be used ({reasons}); "
            "correct the data or name another format."
        )
    return Loaded(tuple(records), tuple(dropped), form.name, count, fingerprint(records), account.unused())


def _parse(
    rows: RawRows, form: Format, pairing: Pairing, source: str, account: Account
) -> tuple[list[PreferenceRecord], list[Dropped], int]:
    records: list[PreferenceRecord] = []
    dropped: list[Dropped] = []
    count = 0
    for index, (line, data) in enumerate(rows):
        row = Row(data, line, index, source)
        count += 1
        before = len(records)
        try:
            for item in form.parse(row, pairing):
                if isinstance(item, Dropped):
                    dropped.append(item)
                else:
                    records.append(item)
        except Reject as error:
            dropped.append(Dropped(row.id, line, str(error)))
        if len(records) > before:  # of a row that is dropped the reason is told
            account.add(row.unused())
    return records, dropped, count


def count_reasons(dropped: Iterable[Dropped]) -> dict[str, int]:
    """How often each reason occurs, the most frequent first."""
    return dict(Counter(item.reason for item in dropped).most_common())


def fingerprint(records: Iterable[PreferenceRecord]) -> str:
    """SHA-256 (hex) over the records as canonical lines."""
    digest = hashlib.sha256()
    for record in records:
        digest.update((json_line(record) + "\n").encode())
    return digest.hexdigest()


def write_records(records: Iterable[PreferenceRecord], path: str | Path, overwrite: bool = False) -> int:
    """Writes canonical records as .jsonl or .jsonl.gz, whole or not at all. Returns how many.

    Raises:
        RunError: the file exists and ``overwrite`` is false, or it cannot be written there.
    """
    return write_jsonl(path, records, overwrite)


def split_by_prompt(
    records: Sequence[PreferenceRecord], held_out: float, seed: int = 0
) -> tuple[tuple[PreferenceRecord, ...], tuple[PreferenceRecord, ...]]:
    """``(train, held out)``: about the share ``held_out`` of the first user messages goes to the second part.

    The side depends on the first user message and the seed alone, so equal first messages never land on both
    sides, in whatever order, subset or source they come.

    Raises:
        DataError: ``held_out`` is not in 0..1.
    """
    if not 0 <= held_out <= 1:
        raise DataError(f"the held-out share is {held_out}; choose a number from 0 to 1.")
    parts: tuple[list[PreferenceRecord], list[PreferenceRecord]] = ([], [])
    for record in records:
        first = next(message.content for message in record.prompt if message.role == "user").strip()
        digest = hashlib.sha256(f"{seed}\n{first}".encode()).digest()
        parts[int.from_bytes(digest[:8], "big") < held_out * 2**64].append(record)
    return tuple(parts[0]), tuple(parts[1])
