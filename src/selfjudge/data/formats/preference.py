"""Preference pairs as TRL documents them: explicit or implicit prompt, conversational or plain.

Binarised UltraFeedback is one of these: the prompt as text, both sides as conversations that repeat it, and scores.
"""

from __future__ import annotations

import itertools
from typing import Any

from selfjudge.data.formats.base import Format, Pairing, Parsed, Row, make_record
from selfjudge.data.formats.messages import (
    Reject,
    clean_text,
    read_messages,
    read_prompt,
    split_sides,
    user_message,
)
from selfjudge.data.formats.rendered import is_transcript, read_transcript
from selfjudge.data.formats.scores import by_scores
from selfjudge.records import Message

Split = tuple[tuple[Message, ...], str, str]


def _fits(data: dict[str, Any]) -> bool:
    chosen, rejected = data.get("chosen"), data.get("rejected")
    return any(isinstance(chosen, kind) and isinstance(rejected, kind) for kind in (str, list))


def _parse(row: Row, pairing: Pairing) -> Parsed:
    prompt, chosen, rejected = row.get("prompt"), row.column("chosen"), row.column("rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        split = _split_texts(prompt, clean_text(chosen, "chosen"), clean_text(rejected, "rejected"))
    elif isinstance(chosen, list) and isinstance(rejected, list):
        sides = (read_messages(chosen, "chosen"), read_messages(rejected, "rejected"))
        split = split_sides(*(_conversation(prompt, side) for side in sides))
    else:
        raise Reject("chosen and rejected are not both text or both messages")
    pair, strength = by_scores(row, split, pairing.tie_rule)
    yield make_record(row, *pair, strength=strength)


def _split_texts(prompt: Any, chosen: str, rejected: str) -> Split:
    if prompt is not None:
        return read_prompt(prompt), chosen, rejected
    if is_transcript(chosen) and is_transcript(rejected):
        return split_sides(read_transcript(chosen), read_transcript(rejected))
    return split_common_prefix(chosen, rejected)


def split_common_prefix(chosen: str, rejected: str) -> Split:
    """Two texts as (shared prompt as one user message, chosen, rejected): cut at the last shared white space.

    Cutting inside a word would hand half of it to the prompt; the white space at the cut belongs to neither part.

    Raises:
        Reject: the texts are equal, or share no text that ends with white space.
    """
    if chosen == rejected:
        raise Reject("identical responses")
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
    shared = chosen[: sum(1 for _ in same)]
    cut = max((i for i, character in enumerate(shared) if character.isspace()), default=0)
    if not shared[:cut].strip():
        raise Reject("chosen and rejected share no prompt")
    return user_message(shared[:cut].strip()), chosen[cut:].strip(), rejected[cut:].strip()


def _conversation(prompt: Any, side: tuple[Message, ...]) -> tuple[Message, ...]:
    """The whole conversation of one side, whether or not the side repeats the prompt."""
    if prompt is None or not side:
        return side
    if isinstance(prompt, str):
        # As in TRL, a side that opens with its own user turn counts, and the prompt column is only a copy.
        return user_message(prompt) + side if side[0].role == "assistant" else side
    lead = read_messages(prompt, "prompt")
    return side if side[: len(lead)] == lead else lead + side


PREFERENCE = Format("preference", ("chosen", "rejected"), _fits, _parse)
