r"""Anthropic HH transcripts: ``chosen`` and ``rejected`` are dialogues as text, turns opened by ``\n\nHuman:`` etc."""

from __future__ import annotations

from typing import Any

from selfjudge.data.formats.base import Format, Pairing, Parsed, Row, make_record
from selfjudge.data.formats.messages import clean_text, split_sides
from selfjudge.data.formats.rendered import is_transcript, read_transcript


def _fits(data: dict[str, Any]) -> bool:
    return is_transcript(data.get("chosen")) and is_transcript(data.get("rejected"))


def _parse(row: Row, pairing: Pairing) -> Parsed:
    sides = [read_transcript(clean_text(row.column(name), name)) for name in ("chosen", "rejected")]
    yield make_record(row, *split_sides(*sides))


HH = Format("hh", ("chosen", "rejected"), _fits, _parse)
