"""The formats preference data comes in, and how one is told from another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfjudge.data.formats.base import Dropped, Format, Pairing, Pairs, Row, TieRule
from selfjudge.data.formats.canonical import RECORDS
from selfjudge.data.formats.hh import HH
from selfjudge.data.formats.judge import TWO_ANSWERS
from selfjudge.data.formats.messages import Reject
from selfjudge.data.formats.preference import CHOSEN, PREFERENCE, REJECTED, lacks_prompt
from selfjudge.data.formats.prompt_columns import HISTORY, PROMPTS, SYSTEMS
from selfjudge.data.formats.ranked import RANK_LISTS, RANKED, RATING_LISTS
from selfjudge.data.formats.scores import MARGIN, SCORES
from selfjudge.data.formats.suggest import columns_hint
from selfjudge.data.formats.ultrafeedback import ULTRAFEEDBACK
from selfjudge.data.io import json_type
from selfjudge.errors import DataError

__all__ = [
    "COLUMNS",
    "FORMATS",
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

COLUMNS = frozenset(
    ("id", "source", HISTORY, *PROMPTS, *SYSTEMS, *CHOSEN, *REJECTED, *RATING_LISTS, *RANK_LISTS, MARGIN)
).union(*SCORES, *(choice for form in FORMATS.values() for choice in form.choices()))
"""The names of columns that some format reads."""

ONE_ANSWER = frozenset((*PROMPTS, "output", "response", "answer", "text", "completion"))
"""Columns of data for SFT: where a file has no others, nothing in it compares two answers."""

RENAME = "Rename the columns or name another format"


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
        raise DataError(
            f"there is no data format {name!r}; choose auto or one of {', '.join(FORMATS)}; a function of "
            "your own is named module:function."
        )
    form = recognise(head) if name == "auto" else FORMATS[name]
    found = sorted({column for data in head for column in data})
    if form is not None:
        if form is not PREFERENCE or not any(form.fits(data) for data in head):  # which goes by several names
            _require_columns(form, found, origin)
        if form is PREFERENCE and all(lacks_prompt(data) for data in head):
            hint = columns_hint(head[0]) or "call the column with the prompt `prompt`"
            raise DataError(
                f"{origin}: no column here is known to hold the prompt, and it is cut out of the responses only where "
                f"no other column has text; {hint}."
            )
        return form
    raise DataError(f"{origin}: {_unknown(head, found)}.")


def _has_lists(data: dict[str, Any]) -> bool:
    """Whether a row has several answers in one column."""
    return any(isinstance(data.get(name), list) for name in ("output", "response", "answer"))


def _unknown(head: Sequence[dict[str, Any]], found: Sequence[str]) -> str:
    """Why no format fits, and what to do."""
    if (
        {"kto_tag", "completion"} & set(found)
        or any(isinstance(data.get("label"), bool) for data in head)
        or (set(found) - {"id", "source", *SYSTEMS, HISTORY} <= ONE_ANSWER and not any(map(_has_lists, head)))
    ):
        return "each row has one answer (data for KTO or SFT); give two answers to a prompt, the better and the worse"
    types = ", ".join(f"{column}: {json_type(value)}" for column, value in head[0].items())
    for nearly in reversed(FORMATS.values()):  # the most general first
        missing = nearly.missing(found)
        if len(nearly.columns) > 1 and len(missing) == 1:
            lacks = f"format `{nearly.name}` needs the column `{missing[0]}`, which is missing; "
            return f"{lacks}found: {', '.join(found)}. {_capital(columns_hint(head[0]) or RENAME)}"
    name_it = f"name the format if it is one of {', '.join(FORMATS)}"
    hint = columns_hint(head[0]) or "convert the file to prompt, chosen, rejected"
    return f"no known preference format in its columns ({types}); {hint}, or {name_it}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _require_columns(form: Format, found: Sequence[str], origin: str) -> None:
    missing = form.missing(found)
    if missing:
        names = ", ".join(f"`{column}`" for column in missing)
        raise DataError(
            f"{origin}: format `{form.name}` needs the column {names}, which is missing; "
            f"found: {', '.join(found)}. {RENAME}."
        )
