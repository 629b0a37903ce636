"""Two responses to one prompt, however a row has the three."""

from __future__ import annotations

from selfjudge.data.formats.base import Row
from selfjudge.data.formats.cells import read_turns
from selfjudge.data.formats.messages import Reject, check_turns, split_sides
from selfjudge.data.formats.prompt_columns import PROMPTS, Found, in_context, prompt_column
from selfjudge.records import Message

Split = tuple[tuple[Message, ...], str, str]
"""A prompt, and the texts of two responses to it."""
NO_PROMPT = "no prompt column"
"""Why a row is dropped whose prompt may be in a column of another name."""
Turns = tuple[Message, ...]


def read_pair(row: Row, first: str, second: str) -> Split:
    """The prompt of a row and the texts of the responses in two of its columns.

    A response is text, a message, or a conversation: all of it with the prompt, or only what follows the prompt.

    Raises:
        Reject: a column is missing or cannot be read, there is no prompt, or the sides answer different prompts.
    """
    values = {name: row.column(name) for name in (first, second)}
    for name in PROMPTS:
        if isinstance(row.data.get(name), list) and row.data[name] in values.values():
            row.get(name)  # a copy of a side, as binarised UltraFeedback has it
    return join_pair(row, *(read_turns(row, value, name, "assistant") for name, value in values.items()))


def join_pair(row: Row, first: Turns, second: Turns, *, alone: bool = False) -> Split:
    """As :func:`read_pair`, for sides that were read already; ``alone``: they have the prompt, and no column has it.

    Raises:
        Reject: as there.
    """
    found = None if alone else prompt_column(row)
    if found is not None and found.turns in (first, second):  # a copy of one side, and so nothing of its own
        found = None
    prompt, *texts = split_sides(*(_conversation(row, found, side) for side in (first, second)))
    if not prompt and found is None:
        raise Reject(NO_PROMPT)
    prompt = in_context(row, prompt)
    check_turns(prompt)
    if found is not None and found.rendered:  # the white space after the mark of a turn is part of the mark
        texts = [text.strip() for text in texts]
    return prompt, texts[0], texts[1]


def _conversation(row: Row, found: Found | None, side: Turns) -> Turns:
    """The whole conversation of one side, whether or not the side repeats the prompt."""
    if found is None or not side:
        return side
    lead, rest = _without_system(found.turns), _without_system(side)
    if lead and rest[: len(lead)] == lead:
        return (*_system(found.turns, side), *rest)
    if side[0].role != "assistant" and (found.plain or (_answered(lead) and rest[: len(lead) - 1] == lead[:-1])):
        # As in TRL, a side that opens with its own user turn counts. The column is another text: the account lists it.
        row.ignored.update((column, row.data[column]) for column in found.columns)
        return side
    return found.turns + side


def _answered(turns: Turns) -> bool:
    return bool(turns) and turns[-1].role == "assistant"


def _without_system(turns: Turns) -> Turns:
    return turns[1:] if turns and turns[0].role == "system" else turns


def _system(*conversations: Turns) -> Turns:
    """The system message that conversations open with.

    Raises:
        Reject: they have different ones.
    """
    found = tuple(dict.fromkeys(turns[0] for turns in conversations if turns and turns[0].role == "system"))
    if len(found) > 1:
        raise Reject("two system messages that differ")
    return found
