r"""Anthropic HH transcripts: ``chosen`` and ``rejected`` are dialogues as text, turns opened by ``\n\nHuman:`` etc."""

from __future__ import annotations

import re
from typing import Any

from selfjudge.data.formats.base import Format, Pairing, Parsed, Row, make_record
from selfjudge.data.formats.messages import Reject, clean_text, split_sides
from selfjudge.records import Message

_FIRST = re.compile(r"\s*Human:")
_NEXT = {"user": re.compile(r"\n\nAssistant:"), "assistant": re.compile(r"\n\nHuman:")}


def is_transcript(value: Any) -> bool:
    """Whether a value is text that opens with a human turn and has an assistant turn."""
    return isinstance(value, str) and _FIRST.match(value) is not None and _NEXT["user"].search(value) is not None


def read_transcript(text: str) -> tuple[Message, ...]:
    """The turns of a transcript, white space around each removed.

    Turns alternate: within a human turn only a paragraph that starts with ``Assistant:`` opens the next turn, and
    the other way round. Any other ``Human:`` or ``Assistant:`` is part of what was said, and is kept.

    Raises:
        Reject: it does not open with a human turn.
    """
    first = _FIRST.match(text)
    if first is None:
        raise Reject("transcript does not start with a Human turn")
    turns: list[Message] = []
    role, start = "user", first.end()
    while True:
        marker = _NEXT[role].search(text, start)
        content = text[start : marker.start() if marker else len(text)].strip()
        turns.append(Message.model_validate({"role": role, "content": content}))
        if marker is None:
            return tuple(turns)
        role, start = ("assistant" if role == "user" else "user"), marker.end()


def _fits(data: dict[str, Any]) -> bool:
    return is_transcript(data.get("chosen")) and is_transcript(data.get("rejected"))


def _parse(row: Row, pairing: Pairing) -> Parsed:
    sides = [read_transcript(clean_text(row.column(name), name)) for name in ("chosen", "rejected")]
    yield make_record(row, *split_sides(*sides))


HH = Format("hh", ("chosen", "rejected"), _fits, _parse)
