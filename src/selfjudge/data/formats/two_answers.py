"""Two answers side by side in a row, neither of which is called the better one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from selfjudge.data.formats.base import Row
from selfjudge.data.formats.messages import Reject, clean_text, split_sides
from selfjudge.data.formats.pairs import Split, read_pair
from selfjudge.data.formats.prompt_columns import in_context
from selfjudge.records import Message

SIDES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("response_a", "response_b"): ("response_c",),
    ("response_A", "response_B"): ("response_C",),
    ("response1", "response2"): ("response0", "response3"),
    ("response_1", "response_2"): ("response_0", "response_3"),
    ("response_0", "response_1"): ("response_2",),
    ("output_1", "output_2"): ("output_0", "output_3"),
    ("answer_a", "answer_b"): ("answer_c",),
    ("answer_0", "answer_1"): ("answer_2",),
    ("conversation_a", "conversation_b"): ("conversation_c",),
    ("human_ref_A", "human_ref_B"): (),
}
"""The columns of two answers → those of further ones, beside which they are a list rather than a pair."""

_BETWEEN = "<extra_id_1>"
_SPEAKERS = {"User": "user", "Assistant": "assistant"}


def find_sides(data: Mapping[str, Any], among: Sequence[tuple[str, str]] = tuple(SIDES)) -> tuple[str, str] | None:
    """Returns the columns of a row's two answers, the first that are there of ``among``; None where none are."""

    def there(*names: str) -> list[bool]:
        return [data.get(name) is not None for name in names]

    found = (names for names in among if all(there(*names)) and not any(there(*SIDES[names])))
    return next(found, None)


def read_answers(row: Row, names: tuple[str, str]) -> Split:
    """The prompt and the two answers in the columns ``names``.

    Each is text or a conversation; where ``turn`` says how many turns of a conversation count, the rest is cut off.
    Three lists of texts, as LMSYS's Kaggle sets have them, are the turns of ``prompt`` and of both answers.

    Raises:
        Reject: a column is missing or cannot be read, or the two sides differ before the last answer.
    """
    lists = [_texts(row.data.get(name)) for name in ("prompt", *names)]
    if all(texts is not None for texts in lists):
        return _by_turns(row, names, [texts for texts in lists if texts is not None])
    for name in names:
        if isinstance(row.column(name), int | float):
            raise Reject(f"{name} is not text")
    prompt, first, second = read_pair(_cut(row, names), *names)
    return _extra_ids(prompt), first, second


def _texts(value: Any) -> list[str | None] | None:
    """A list of texts, which may be written as JSON; None for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, list | tuple) or not value:
        return None
    return list(value) if all(text is None or isinstance(text, str) for text in value) else None


def _by_turns(row: Row, names: tuple[str, str], lists: Sequence[list[str | None]]) -> Split:
    for name in ("prompt", *names):
        row.get(name)
    asked, *answers = lists
    if any(len(texts) != len(asked) for texts in answers):
        raise Reject(f"prompt, {names[0]} and {names[1]} differ in number of turns")
    sides = []
    for name, texts in zip(names, answers, strict=True):
        turns: list[Message] = []
        for question, answer in zip(asked, texts, strict=True):
            turns.append(Message(role="user", content=clean_text(question, "a turn of prompt")))
            turns.append(Message(role="assistant", content=clean_text(answer, f"a turn of {name}")))
        sides.append(tuple(turns))
    prompt, first, second = split_sides(*sides)
    return in_context(row, prompt), first, second


def _cut(row: Row, names: tuple[str, str]) -> Row:
    """The row with as much of two conversations as ``turn`` says, in pairs of a user's and an assistant's message."""
    turn = row.data.get("turn")
    sides = [row.data[name] for name in names]
    if not isinstance(turn, int) or isinstance(turn, bool) or turn < 1 or not all(isinstance(s, list) for s in sides):
        return row
    row.get("turn")
    return replace(row, data={**row.data, **{name: side[: 2 * turn] for name, side in zip(names, sides, strict=True)}})


def _extra_ids(prompt: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns of a prompt that is one text with NVIDIA's marks between turns, as HelpSteer has them."""
    if not prompt or f"\n{_BETWEEN}" not in prompt[-1].content:
        return prompt
    first, *rest = prompt[-1].content.split(f"\n{_BETWEEN}")
    turns = [Message(role="user", content=first)]
    for part in rest:
        speaker, _, text = part.partition("\n")
        if speaker not in _SPEAKERS:
            raise Reject(f"prompt has an unknown mark {_BETWEEN}{speaker[:20]}")
        turns.append(Message.model_validate({"role": _SPEAKERS[speaker], "content": text}))
    return (*prompt[:-1], *turns)
