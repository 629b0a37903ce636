"""The prompt of a row: which columns hold it, and what stands before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from selfjudge.data.formats.base import Row
from selfjudge.data.formats.cells import read_turns
from selfjudge.data.formats.literals import parse_list
from selfjudge.data.formats.messages import Reject, holds
from selfjudge.data.formats.rendered import is_rendered
from selfjudge.records import Message, Role

PROMPTS = (
    "prompt",
    "question",
    "query",
    "instruction",
    "messages",
    "conversations",
    "conversation",
    "context",
    "input",
)
"""The columns that may hold the prompt. The first one that holds anything does."""
SYSTEMS = ("system", "system_prompt", "system_message")
HISTORY = "history"
_MEANING = {
    **dict.fromkeys(("tools", "functions"), "tools"),
    **dict.fromkeys(("images", "image", "rejected_images"), "images"),
    **dict.fromkeys(("videos", "video"), "videos"),
    **dict.fromkeys(("audios", "audio"), "audio"),
}
"""Columns that change the meaning of a row and that no model here gets → what the row has."""
_NOTHING = ("[]", "{}", "null", "none", "nan")
"""How a table of texts writes down that there is nothing."""


@dataclass(frozen=True)
class Found:
    """A prompt and the columns that it is from; whether it is one plain text, and whether it has marks of turns."""

    turns: tuple[Message, ...]
    columns: tuple[str, ...]
    plain: bool
    rendered: bool


def find_prompt(row: Row) -> tuple[Message, ...] | None:
    """The prompt in the row's columns, with its system message and history, or None where no column holds one.

    Another column that may hold a prompt counts as used only where it is a copy.

    Raises:
        Reject: the prompt cannot be read, two system messages differ, or the row has tools, images, videos or audio.
    """
    found = prompt_column(row)
    return None if found is None else in_context(row, found.turns)


def prompt_column(row: Row) -> Found | None:
    """The prompt as its own column has it, without the columns that stand before it.

    Raises:
        Reject: it cannot be read.
    """
    name = _first(row)
    if name is None:
        return None
    value = row.get(name)
    turns = read_turns(row, value, name, "user")
    for other in PROMPTS:
        if row.data.get(other) == value:
            row.get(other)
    columns: tuple[str, ...] = (name,)
    if name == "instruction" and isinstance(value, str) and isinstance(row.data.get("input"), str):
        more = row.get("input")
        if more.strip():
            columns, turns = (name, "input"), read_turns(row, f"{value}\n{more}", name, "user")
    return Found(turns, columns, isinstance(value, str) and len(turns) == 1, is_rendered(value))


def in_context(row: Row, turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns of a conversation behind the system message and the history that columns of the row hold.

    Raises:
        Reject: two system messages differ, a column cannot be read, or the row has tools, images, videos or audio.
    """
    for name, what in _MEANING.items():
        value = row.get(name)
        if holds(value) and not (isinstance(value, str) and value.strip().lower() in _NOTHING):
            raise Reject(f"has {what}")
    own = [message for message in turns[:1] if message.role == "system"]
    system = list(dict.fromkeys([*_systems(row), *own]))
    if len(system) > 1:
        raise Reject("two system messages that differ")
    rest = turns[len(own) :]
    earlier = _history(row)
    return (*system, *(() if rest[: len(earlier)] == earlier else earlier), *rest)


def _first(row: Row) -> str | None:
    """The first prompt column that holds something, or else the first that is there at all."""
    there = [name for name in PROMPTS if row.data.get(name) is not None]
    return next((name for name in there if holds(row.data[name])), next(iter(there), None))


def _systems(row: Row) -> Iterator[Message]:
    for name in SYSTEMS:
        value = row.get(name)
        if holds(value):
            turns = read_turns(row, value, name, "system")
            if [message.role for message in turns] != ["system"]:
                raise Reject(f"{name} is not one system message")
            yield from turns


def _history(row: Row) -> tuple[Message, ...]:
    value: Any = row.get(HISTORY)
    if isinstance(value, str) and holds(value):
        value = parse_list(value, HISTORY)
    if not holds(value):
        return ()
    if isinstance(value, list) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        roles: tuple[Role, Role] = ("user", "assistant")
        sides = ((text, role) for pair in value for text, role in zip(pair, roles, strict=True))
        return tuple(turn for text, role in sides for turn in read_turns(row, text, HISTORY, role))
    return read_turns(row, value, HISTORY, "user")
