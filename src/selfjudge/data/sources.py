"""Preference data from anywhere to canonical records, with an account of what was left out."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from selfjudge.data.columns import HEAD_ROWS, Account, Unused, under_our_names
from selfjudge.data.formats import (
    COLUMNS,
    Dropped,
    Format,
    Pairing,
    Pairs,
    Reject,
    Row,
    TieRule,
    find_format,
)
from selfjudge.data.formats.own import OwnFormat, Parse, own_format
from selfjudge.data.io import json_line, write_json, write_jsonl
from selfjudge.data.raw import RawRows, Source, origin_of, position_word, read_rows, source_name, source_state
from selfjudge.data.record_files import as_dropped, as_record, dropped_schema, record_row, record_schema, side
from selfjudge.data.store import Cache, Stored, arrow_writer, stored
from selfjudge.errors import DataError
from selfjudge.records import PreferenceRecord

_RECORDS, _DROPPED, _FACTS = "records.arrow", "dropped.arrow", "source.json"


@dataclass(frozen=True)
class Loaded:
    """What a source gave: its records, what was dropped, the format it was read in, and how many rows it has.

    Records and dropped rows lie in files (see :class:`selfjudge.data.store.Stored`), so their number costs no memory.
    ``fingerprint``: SHA-256 over the canonical record lines; equal exactly when the records are.
    ``unused``: the columns and fields that no record has anything of.
    """

    records: Stored[PreferenceRecord]
    dropped: Stored[Dropped]
    format: str
    rows: int
    fingerprint: str
    unused: tuple[Unused, ...] = ()

    def reasons(self) -> dict[str, int]:
        """How often each reason dropped something, the most frequent first."""
        return count_reasons(self.dropped)


def load_preferences(
    path: Source,
    *,
    format: str | Parse = "auto",
    columns: Mapping[str, str] | None = None,
    subset: str | None = None,
    split: str = "train",
    tie_rule: TieRule = "drop",
    pairs: Pairs = "overall",
    limit: int | None = None,
    seed: int = 0,
    cache: Cache | None = None,
) -> Loaded:
    """Loads preference data from a local file, a Hub id, a ``datasets.Dataset`` or any iterable of rows.

    See :func:`selfjudge.data.raw.read_rows` for the sources. ``format`` is recognised from the first rows unless named.
    It may be a function of your own, or its name ``module:function``: it gets a row (a dict) and gives its pairs, each
    a :class:`PreferenceRecord` or a mapping with ``prompt``, ``chosen``, ``rejected``; it raises :class:`Reject` to
    drop the row (see :mod:`selfjudge.data.formats.own`). ``columns`` says what the file calls a column: our name →
    the file's. ``tie_rule`` and ``pairs`` apply to rated answers (see
    :class:`selfjudge.data.formats.Pairing`); ``seed`` draws the worse answer of UltraFeedback pairs. ``limit`` reads
    at most so many rows from the start. A row that cannot be used is dropped under a named reason.

    The records are written into ``cache``; there they are found again as long as source, settings and the code of your
    function are the same. Where that cannot be known, as of a generator or a lambda, they lie in a temporary folder.

    Raises:
        DataError: the source cannot be read, its format is not known or lacks a column, your function fails, or no
            record is left.
    """
    pairing = Pairing(tie_rule, pairs, seed)
    own = own_format(format)
    read_as, origin = own or str(format), origin_of(path)
    if own and columns:
        raise DataError(f"{origin}: {own.name} reads the row under the file's own names; leave out `columns`.")
    state = source_state(path, subset, split)
    again = state is not None and (own is None or own.code is not None)  # whether these can be known again
    cache = cache if cache and again else Cache()
    made_from = [(own.name, own.code) if own else format, columns, subset, split, asdict(pairing), limit]
    folder = cache.folder("records", state, origin, *made_from)
    found = _open(folder, cache)
    if found is None:
        _read(read_rows(path, subset, split, limit), origin, read_as, columns or {}, pairing, folder)
        found = _open(folder, cache)
        assert found is not None
    return found


def given_records(
    make: Callable[[], Iterable[PreferenceRecord]], name: str, seed: int, *made_from: Any, cache: Cache
) -> Loaded:
    """Returns records that are made on the spot as those of a source. ``made_from``: what tells them from others."""
    folder = cache.folder("records", name, seed, *made_from)
    found = _open(folder, cache)
    if found is None:
        count, fingerprint = write_items(folder, make(), name, seed)
        write_json(folder / _FACTS, {"format": name, "rows": count, "fingerprint": fingerprint, "unused": []})
        found = _open(folder, cache)
        assert found is not None
    return found


def _read(
    raw: RawRows, origin: str, read_as: str | OwnFormat, columns: Mapping[str, str], pairing: Pairing, folder: Path
) -> None:
    """Reads a source into ``folder``."""
    rows = under_our_names(raw, columns, origin, COLUMNS)
    head = list(itertools.islice(rows, HEAD_ROWS))
    if not head:
        raise DataError(f"{origin}: there is no row in it; check the file or the split.")
    if isinstance(read_as, OwnFormat):
        form = read_as.of(origin, position_word(origin))
    else:
        form = find_format([data for _, data in head], origin, read_as)
    account = Account()
    count = 0

    def items() -> Iterator[PreferenceRecord | Dropped]:
        nonlocal count
        shown = tqdm(itertools.chain(head, rows), desc=f"Reading {origin}", unit=" rows", delay=3)
        for index, (line, data) in enumerate(shown):
            row = Row(data, line, index, source_name(origin))
            found = parse_row(row, form, pairing)
            if any(isinstance(item, PreferenceRecord) for item in found):  # of a dropped row the reason is told
                account.add(row.unused())
            count += 1
            yield from found

    records, fingerprint = write_items(folder, items(), origin, pairing.seed)
    if not records:
        reasons = count_reasons(stored([folder / _DROPPED], as_dropped))
        told = "; ".join(f"{number} x {reason}" for reason, number in reasons.items())
        raise DataError(
            f"{origin}: read as format `{form.name}`, none of its {count} rows can be used ({told}); "
            "correct the data or name another format."
        )
    unused = [asdict(item) for item in account.unused()]
    write_json(folder / _FACTS, {"format": form.name, "rows": count, "fingerprint": fingerprint, "unused": unused})


def parse_row(row: Row, form: Format, pairing: Pairing) -> list[PreferenceRecord | Dropped]:
    """Returns the records of a row, and what of it is dropped."""
    found: list[PreferenceRecord | Dropped] = []
    try:
        for item in form.parse(row, pairing):
            found.append(item)
    except Reject as error:
        found.append(Dropped(row.id, row.line, str(error) or "no reason was given"))
    return found


def write_items(folder: Path, items: Iterable[PreferenceRecord | Dropped], origin: str, seed: int) -> tuple[int, str]:
    """Writes records and dropped items into files of ``folder``. Returns the records' number and fingerprint."""
    count, digest = 0, hashlib.sha256()
    with (
        arrow_writer(folder / _RECORDS, record_schema()) as keep,
        arrow_writer(folder / _DROPPED, dropped_schema()) as drop,
    ):
        for item in items:
            if isinstance(item, Dropped):
                drop({"origin": origin, **asdict(item)})
            else:
                keep(record_row(item, seed))
                digest.update((json_line(item) + "\n").encode())
                count += 1
    return count, digest.hexdigest()


def _open(folder: Path, cache: Cache) -> Loaded | None:
    """Returns what was read before; None where nothing was, or where it is damaged."""
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        facts["unused"] = tuple(Unused(**item) for item in facts["unused"])
        records = stored([folder / _RECORDS], as_record, cache.owner)
        return Loaded(records, stored([folder / _DROPPED], as_dropped, cache.owner), **facts)
    except (OSError, ValueError, KeyError):  # pyarrow's errors are ValueErrors
        return None


def count_reasons(dropped: Iterable[Dropped]) -> dict[str, int]:
    """How often each reason occurs, the most frequent first."""
    return dict(Counter(item.reason for item in dropped).most_common())


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

    The side depends on the first user message (see :func:`selfjudge.data.identity.folded`) and the seed alone, so
    equal first messages never land on both sides, in whatever order, subset or source they come.

    Raises:
        DataError: ``held_out`` is not in 0..1.
    """
    below = held_out_below(held_out)
    parts: tuple[list[PreferenceRecord], list[PreferenceRecord]] = ([], [])
    for record in records:
        parts[side(record, seed) < below].append(record)
    return tuple(parts[0]), tuple(parts[1])


def held_out_below(held_out: float) -> int:
    """Returns below which :func:`selfjudge.data.record_files.side` a record is held out.

    Raises:
        DataError: ``held_out`` is not in 0..1.
    """
    if not 0 <= held_out <= 1:
        raise DataError(f"the held-out share is {held_out}; choose a number from 0 to 1.")
    return math.ceil(held_out * 2**64)
