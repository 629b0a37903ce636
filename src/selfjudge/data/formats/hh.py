r"""Anthropic HH transcripts: ``chosen`` and ``rejected`` are dialogues as text, turns opened by ``\n\nHuman:`` etc."""

from __future__ import annotations

from typing import Any

from selfjudge.data.formats.base import Format, Pairing, Parsed, Row, make_record
from selfjudge.data.formats.message_fields import make_message
from selfjudge.data.formats.messages import clean_text
from selfjudge.data.formats.pairs import join_pair
from selfjudge.data.formats.rendered import is_transcript, read_transcript
from selfjudge.records import Message


def _fits(data: dict[str, Any]) -> bool:
    return is_transcript(data.get("chosen")) and is_transcript(data.get("rejected"))


def _parse(row: Row, pairing: Pairing) -> Parsed:
    yield make_record(row, *join_pair(row, *(_turns(row, name) for name in ("chosen", "rejected"))))


def _turns(row: Row, name: str) -> tuple[Message, ...]:
    turns = read_transcript(clean_text(row.column(name), name))
    return tuple(make_message(row, turn.role, turn.content, name) for turn in turns)


HH = Format("hh", ("chosen", "rejected"), _fits, _parse)
