"""Which of a file's columns could be the prompt and the two responses, for messages that say how to name them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from selfjudge.data.formats.messages import holds
from selfjudge.data.formats.prompt_columns import PROMPTS

_LIKE = {
    "rejected": ("reject", "non_pref", "dispref", "wors", "los", "bad", "neg", "incorrect", "wrong", "other"),
    "chosen": ("chosen", "prefer", "better", "best", "win", "good", "pos", "accept", "correct", "right"),
    "prompt": (*PROMPTS, "ask", "user", "task", "title"),
}
"""Parts of names that tell a column's use, the most telling use first: `non_preferred` has `prefer` in it too."""


def text_columns(data: Mapping[str, Any]) -> list[str]:
    """The columns of a row that hold text or structure, numbers written as text left out."""
    return [name for name, value in data.items() if holds(value) and _is_text(value)]


def suggested_columns(data: Mapping[str, Any]) -> dict[str, str]:
    """Our name → the column of the row that fits it best, or a word in capitals; empty with fewer than three."""
    free = [name for name in text_columns(data) if not _is_name(name)]
    if len(free) < 3:
        return {}
    found: dict[str, str] = {}
    for ours in ("prompt", "chosen", "rejected"):
        if ours in free:
            found[ours] = ours
    for ours, parts in _LIKE.items():
        rest = [name for name in free if name not in found.values()]
        best = [name for part in parts for name in rest if part in name.lower()]
        if ours not in found and best:
            found[ours] = best[0]
    left = [name for name in free if name not in found.values()]
    if len(left) == 1 and len(found) == 2:  # else nothing tells which of the columns it is
        found |= {ours: left[0] for ours in ("chosen", "rejected", "prompt") if ours not in found}
    return {"prompt": "PROMPT", "chosen": "BETTER", "rejected": "WORSE"} | found


def _is_name(column: str) -> bool:
    """Whether a column says which row it is or where it is from, rather than what was said."""
    return column.lower() in ("source", "system", "history", "domain", "category") or column.lower().endswith("id")


def columns_hint(data: Mapping[str, Any]) -> str:
    """How to name the columns of a file, filled in with those of a row, or an empty text where they are too few."""
    columns = suggested_columns(data)
    named = {ours: theirs for ours, theirs in columns.items() if ours != theirs}
    if not named:
        return ""
    option = shlex.quote(",".join(f"{ours}={theirs}" for ours, theirs in named.items()))
    recipe = ", ".join(f"{ours}: {theirs}" for ours, theirs in named.items())
    return f"say which column holds what, such as `--columns {option}`, or `columns: {{{recipe}}}` in a recipe's source"


def _is_text(value: Any) -> bool:
    if isinstance(value, list | dict):
        return True
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False
