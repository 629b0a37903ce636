"""What is judged and sampled from: comparisons and prompts. Unlike training rows, a bad one is an error, not a drop."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfjudge.data.columns import HEAD_ROWS, under_our_names
from selfjudge.data.eval_prompts import turn_text
from selfjudge.data.formats import COLUMNS, FORMATS, Dropped, Reject, Row, recognise
from selfjudge.data.formats.base import own_id
from selfjudge.data.formats.cells import read_turns
from selfjudge.data.formats.judge import TWO_ANSWERS, read_comparison
from selfjudge.data.formats.messages import check_turns, clean_text
from selfjudge.data.formats.prompt_columns import PROMPTS, find_prompt
from selfjudge.data.identity import first_of_each, prompt_key
from selfjudge.data.raw import RawRows, Source, origin_of, position_word, read_rows, source_name
from selfjudge.data.sources import load_preferences
from selfjudge.errors import DataError
from selfjudge.records import Comparison, Message

TURNS = "turns"
"""Where FastChat and Arena-Hard have their questions."""
CANDIDATES = "candidates"
"""Where a prompts file has answers that exist already."""


@dataclass(frozen=True)
class PromptRow:
    """A prompt to sample from; ``candidates`` are answers that exist already, or None."""

    id: str
    prompt: tuple[Message, ...]
    candidates: tuple[str, ...] | None = None


@dataclass(frozen=True)
class LoadedPrompts:
    """The prompts of a source, the format it was read in, and what was dropped (preference files only)."""

    prompts: tuple[PromptRow, ...]
    dropped: Sequence[Dropped]
    format: str
    rows: int


def load_comparisons(
    path: Source,
    *,
    columns: Mapping[str, str] | None = None,
    subset: str | None = None,
    split: str = "train",
    limit: int | None = None,
) -> tuple[Comparison, ...]:
    """Every row of a file of two answers (see :func:`selfjudge.data.formats.judge.read_comparison`).

    Rows from Python are taken too (see :func:`selfjudge.data.raw.read_rows`).
    The label may be missing; ``id`` defaults to the index (from 0) as text. ``columns``: our name for a column → the
    file's.

    Raises:
        DataError: the file cannot be read, is empty or has no such column, or a row is malformed (its line is named).
    """
    origin = origin_of(path)
    raw = under_our_names(read_rows(path, subset, split, limit), columns or {}, origin, COLUMNS)
    found = tuple(_comparison(row, origin) for row in _rows(raw, origin))
    if not found:
        raise DataError(f"{origin}: there is no row in it; check the file or the split.")
    return found


def load_prompts(
    path: Source,
    *,
    columns: Mapping[str, str] | None = None,
    subset: str | None = None,
    split: str = "train",
    limit: int | None = None,
) -> LoadedPrompts:
    """The prompts of a prompts file: ``prompt`` (text or messages), optional ``candidates`` (texts), optional ``id``.

    A preference or judge file gives its prompts, each distinct one once. A file of rated answers with a ``prompt`` is
    read as a prompts file. Rows from Python are taken too. ``limit`` counts rows read. ``columns``: our name for a
    column → the file's.

    Raises:
        DataError: the file cannot be read, is empty, has no ``prompt`` or no such column, or a row is malformed (its
            line is named).
    """
    origin = origin_of(path)
    raw = under_our_names(read_rows(path, subset, split, limit), columns or {}, origin, {*COLUMNS, TURNS, CANDIDATES})
    first = list(itertools.islice(raw, HEAD_ROWS))  # what a generator has given is not there a second time
    raw, head = itertools.chain(first, raw), [data for _, data in first]
    if not head:
        raise DataError(f"{origin}: there is no row in it; check the file or the split.")
    form = recognise(head)
    found_columns = sorted({column for data in head for column in data})
    if form in TWO_ANSWERS:
        pairs = [_comparison(row, origin) for row in _rows(raw, origin)]
        return LoadedPrompts(_distinct(PromptRow(pair.id, pair.prompt) for pair in pairs), (), form.name, len(pairs))
    if form is not None and not (form is FORMATS["ranked"] and "prompt" in found_columns):
        if isinstance(path, str | os.PathLike):
            loaded = load_preferences(path, format=form.name, columns=columns, subset=subset, split=split, limit=limit)
        else:
            loaded = load_preferences((data for _, data in raw), format=form.name)
        prompts = _distinct(PromptRow(record.id, record.prompt) for record in loaded.records)
        return LoadedPrompts(prompts, loaded.dropped, form.name, loaded.rows)
    if not {*PROMPTS, TURNS} & set(found_columns):
        raise DataError(
            f"{origin}: the column `prompt` is missing; found: {', '.join(found_columns)}. Rename one to `prompt`."
        )
    found = tuple(_prompt(row, origin) for row in _rows(raw, origin))
    return LoadedPrompts(found, (), "prompts", len(found))


def _rows(raw: RawRows, origin: str) -> Iterator[Row]:
    name = source_name(origin)
    for index, (line, data) in enumerate(raw):
        yield Row(data, line, index, name)


def _comparison(row: Row, origin: str) -> Comparison:
    try:
        return read_comparison(row)
    except Reject as error:
        raise _bad_row(row, origin, error) from None


def _prompt(row: Row, origin: str) -> PromptRow:
    try:
        prompt = find_prompt(row)
        if prompt is None:
            prompt = read_turns(row, _only_turn(row), TURNS, "user")
        check_turns(prompt)
        return PromptRow(own_id(row.data) or str(row.index), prompt, _candidates(row.data.get(CANDIDATES)))
    except Reject as error:
        raise _bad_row(row, origin, error) from None


def _only_turn(row: Row) -> Any:
    """The question of a benchmark's row, if it has but one."""
    turns = row.data.get(TURNS)
    if turns is None:
        raise Reject("no prompt")
    if not isinstance(turns, list) or len(turns) != 1:
        raise Reject(f"{TURNS} is not a list of one question; `selfjudge eval winrate` with a model asks several")
    return turn_text(turns[0], "a turn")


def _candidates(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value:
        raise Reject("candidates is not a list of at least one text")
    return tuple(clean_text(text, "a candidate") for text in value)


def _bad_row(row: Row, origin: str, error: Reject) -> DataError:
    return DataError(f"{origin}, {position_word(origin)} {row.line}: {error}; correct or remove this row.")


def _distinct(rows: Iterable[PromptRow]) -> tuple[PromptRow, ...]:
    """Each prompt once, as it is written first and under the id it has there."""
    return tuple(first_of_each(rows, lambda row: prompt_key(row.prompt)))
