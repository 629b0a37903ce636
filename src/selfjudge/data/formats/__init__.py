"""The formats preference data comes in, and how one is told from another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfjudge.data.formats.base import Dropped, Format, Pairing, Pairs, Row, TieRule
from selfjudge.data.formats.canonical import RECORDS
from selfjudge.data.formats.hh import HH
from selfjudge.data.formats.judge import TWO_ANSWERS
from selfjudge.data.formats.messages import Reject
from selfjudge.data.formats.preference import PREFERENCE
from selfjudge.data.formats.ranked import RANKED
from selfjudge.data.formats.ultrafeedback import ULTRAFEEDBACK
from selfjudge.data.io import json_type
from selfjudge.errors import DataError

__all__ = [
    "FORMATS",
    "HEAD_ROWS",
    "Dropped",
    "Format",
    "Pairing",
    "Pairs",
    "Reject",
    "Row",
    "TieRule",
    "find_format",
    "recognise",
]

# Most specific first: every HH file, and every file of ours, would pass as a TRL preference file too.
FORMATS = {form.name: form for form in (RECORDS, HH, ULTRAFEEDBACK, *TWO_ANSWERS, PREFERENCE, RANKED)}

HEAD_ROWS = 20
"""How many rows are looked at to recognise a format."""


def recognise(head: Sequence[dict[str, Any]]) -> Format | None:
    """The first format that at least half of ``head`` fits, so that a few broken rows do not decide; None if none."""
    for form in FORMATS.values():
        if head and 2 * sum(form.fits(data) for data in head) >= len(head):
            return form
    return None


def find_format(head: Sequence[dict[str, Any]], origin: str, name: str = "auto") -> Format:
    """The format called ``name``, or with ``auto`` the one recognised in the first rows of ``origin``.

    Raises:
        DataError: no such name, none recognised, or a column that the format needs is in none of the rows.
    """
    if name != "auto" and name not in FORMATS:
        raise DataError(f"there is no data format {name!r}; choose auto or one of {', '.join(FORMATS)}.")
    form = recognise(head) if name == "auto" else FORMATS[name]
    found = sorted({column for data in head for column in data})
    if form is not None:
        _require_columns(form, found, origin)
        return form
    for nearly in reversed(FORMATS.values()):  # the most general first
        if len(nearly.columns) > 1 and len(nearly.missing(found)) == 1:
            _require_columns(nearly, found, origin)
    types = ", ".join(f"{column}: {json_type(value)}" for column, value in head[0].items())
    raise DataError(
        f"{origin}: no known preference format in its columns ({types}); "
        f"name the format if it is one of {', '.join(FORMATS)}, or convert the file to prompt, chosen, rejected."
    )


def _require_columns(form: Format, found: Sequence[str], origin: str) -> None:
    missing = form.missing(found)
    if missing:
        names = ", ".join(f"`{column}`" for column in missing)
        raise DataError(
            f"{origin}: format `{form.name}` needs the column {names}, which is missing; "
            f"found: {', '.join(found)}. Rename the columns or name another format."
        )
