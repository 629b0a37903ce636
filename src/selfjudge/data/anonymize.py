"""Personal data replaced by typed placeholders, row by row: ``Write to <EMAIL_1>, not to <EMAIL_2>.``

Within a row the same value has the same placeholder everywhere: what is found in one text is replaced in all others of
the row, also where it was not found by itself. So prompts shared by both sides stay shared.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from selfjudge.data.formats.messages import Reject, clean_text
from selfjudge.data.io import write_jsonl
from selfjudge.data.personal import KINDS, Finder
from selfjudge.data.raw import position_word, read_rows
from selfjudge.errors import DataError

FIXED = frozenset({"role", "label", "principle"})
"""Keys whose values are words of the formats."""

_PLACEHOLDER = re.compile(r"<([A-Z]+)_(\d+)>")
_NUMBERS = frozenset({"PHONE", "CARD", "IBAN", "SSN"})


class KindCount(BaseModel):
    """How much of one kind was replaced: ``values`` distinct within their row, at ``places``, in ``rows``."""

    values: int = 0
    places: int = 0
    rows: int = 0


class AnonymizeReport(BaseModel):
    """What was replaced. ``names``: the pipeline that names were found with; None: they were not looked for."""

    rows: int = 0
    rows_changed: int = 0
    kinds: dict[str, KindCount]
    names: str | None

    def add(self, places: Counter[str]) -> None:
        """Counts a row by placeholder → number of places."""
        self.rows += 1
        self.rows_changed += bool(places)
        kinds = {placeholder: _kind(placeholder) for placeholder in places}
        for placeholder, number in places.items():
            count = self.kinds[kinds[placeholder]]
            count.values += 1
            count.places += number
        for kind in set(kinds.values()):
            self.kinds[kind].rows += 1


def anonymize_file(
    source: str,
    output: Path,
    finder: Finder,
    *,
    subset: str | None = None,
    split: str = "train",
    limit: int | None = None,
    overwrite: bool = False,
    advance: Callable[[int], None] = lambda n: None,
) -> AnonymizeReport:
    """Writes the rows of a source without personal data, each with its own columns, and returns what was replaced.

    Args:
        source: as for :func:`selfjudge.data.raw.read_rows`.
        output: ``.jsonl`` or ``.jsonl.gz``; whole or not there.
        finder: finds what is replaced.
        subset, split, limit: as for ``read_rows``.
        overwrite: replace ``output``.
        advance: called with the number of rows just done.

    Raises:
        DataError: the source cannot be read or is empty, or a row holds text that is not valid Unicode.
        RunError: the output is there already, or cannot be written.
    """
    kinds = (*KINDS, *(("NAME",) if finder.names else ()))
    report = AnonymizeReport(kinds={kind: KindCount() for kind in kinds}, names=finder.names)

    def rows() -> Iterator[dict[str, Any]]:
        for line, row in read_rows(source, subset, split, limit):
            try:
                clean, places = anonymize_row(row, finder, line)
            except Reject as error:
                where = f"{source}, {position_word(source)} {line}"
                raise DataError(f"{where}: {error}; correct or remove this row.") from None
            report.add(places)
            yield clean
            advance(1)
        if not report.rows:
            raise DataError(f"{source}: there is no row in it; check the file or the split.")

    write_jsonl(output, rows(), overwrite)
    return report


def anonymize_row(row: dict[str, Any], finder: Finder, line: int) -> tuple[dict[str, Any], Counter[str]]:
    """Returns the row with placeholders, and how often each stands in it for something.

    All texts are searched, whatever column they are in, but for the words of the formats (:data:`FIXED`). Ids have to
    differ, so one with personal data becomes ``row-LINE``, and is not counted.

    Raises:
        Reject: a text is not valid Unicode.
    """
    rest = {key: value for key, value in row.items() if key != "id"}
    replace = _Replacement([clean_text(text, "a text") for text in _texts(rest)], finder)
    clean = _mapped(rest, replace)
    # The columns keep their order.
    return {key: _clean_id(row["id"], finder, line) if key == "id" else clean[key] for key in row}, replace.places


def _clean_id(value: Any, finder: Finder, line: int) -> Any:
    plain = isinstance(value, bool | int | float | None)
    return value if plain or not finder.find(clean_text(str(value), "id")) else f"row-{line}"


class _Replacement:
    """Replaces what was found in any text of a row in each of them."""

    def __init__(self, texts: list[str], finder: Finder) -> None:
        self.places: Counter[str] = Counter()
        self._placeholders: dict[str, str] = {}
        by_key: dict[tuple[str, str], str] = {}
        numbers = _used_numbers(texts)
        inside_words: set[str] = set()
        for text in texts:
            for found in finder.find(text):
                value = text[found.start : found.end]
                if value not in self._placeholders:
                    key = (found.kind, _same(found.kind, value))
                    if key not in by_key:
                        numbers[found.kind] += 1
                        by_key[key] = f"<{found.kind}_{numbers[found.kind]}>"
                    self._placeholders[value] = by_key[key]
                if _is_word_at(text, found.start - 1, found.start) or _is_word_at(text, found.end - 1, found.end):
                    inside_words.add(value)
        values = sorted(self._placeholders, key=len, reverse=True)
        patterns = [re.escape(v) if v in inside_words else _whole(v) for v in values]
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def __call__(self, text: str) -> str:
        return self._pattern.sub(self._one, text) if self._pattern else text

    def _one(self, match: re.Match[str]) -> str:
        placeholder = self._placeholders[match[0]]
        self.places[placeholder] += 1
        return placeholder


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in FIXED:
                yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
    elif not isinstance(value, bool | int | float | None):
        yield str(value)  # of parquet also dates and the like, which JSON has no type for


def _mapped(value: Any, replace: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {key: item if key in FIXED else _mapped(item, replace) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, replace) for item in value]
    return value if isinstance(value, bool | int | float | None) else replace(str(value))


def _used_numbers(texts: list[str]) -> Counter[str]:
    """Returns the highest number of each kind that the texts hold as a placeholder already."""
    used: Counter[str] = Counter()
    for text in texts:
        for kind, number in _PLACEHOLDER.findall(text):
            used[kind] = max(used[kind], int(number))
    return used


def _same(kind: str, value: str) -> str:
    """Returns what two ways to write the same value have in common."""
    return re.sub(r"[^\w+]", "", value) if kind in _NUMBERS else value.casefold()


def _is_word_at(text: str, i: int, j: int) -> bool:
    """Whether both characters, before and behind a border, are of a word: the border is inside one."""
    border = text[i : i + 1] + text[j : j + 1]
    return len(border) == 2 and i >= 0 and all(re.match(r"\w", c) for c in border)


def _whole(value: str) -> str:
    """Returns the pattern of a value that does not stand inside a word, so that Al is not found in Also."""
    start = r"(?<!\w)" if re.match(r"\w", value[0]) else ""
    end = r"(?!\w)" if re.match(r"\w", value[-1]) else ""
    return start + re.escape(value) + end


def _kind(placeholder: str) -> str:
    return placeholder[1:].rpartition("_")[0]
