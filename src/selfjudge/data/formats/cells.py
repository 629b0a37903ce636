"""Whatever a cell holds, as messages."""

from __future__ import annotations

from typing import Any

from selfjudge.data.formats.base import Row
from selfjudge.data.formats.literals import parse_text
from selfjudge.data.formats.message_fields import is_message, make_message, read_message
from selfjudge.data.formats.messages import Reject, clean_text, holds
from selfjudge.data.formats.rendered import read_rendered
from selfjudge.records import Message, Role

_LISTS = ("messages", "conversations")


def read_turns(row: Row, value: Any, name: str, plain: Role) -> tuple[Message, ...]:
    """The messages in the cell of the column ``name``.

    A cell is plain text (one message of the role ``plain``), a list of messages, one message, an object with the list
    ``messages``, or text that holds any of these: as JSON, as Python, as a transcript, as ChatML. Fields of messages
    that are left out, thoughts among them, go into the row's account.

    Raises:
        Reject: anything else, text of another chat template, or a message with tool calls, images, videos or audio.
    """
    if value is None:
        raise Reject(f"no {name}")
    if isinstance(value, str):
        text = clean_text(value, name)
        held = parse_text(text, name)
        if not _is_structure(held):
            return tuple(make_message(row, role, said, name) for role, said in read_rendered(text, name, plain))
        value = held
    if isinstance(value, dict) and any(isinstance(value.get(key), list) for key in _LISTS):
        value = _list_within(row, value, name)
    if isinstance(value, dict):
        if not is_message(value):
            raise Reject(f"{name} is not a list of messages")
        return (read_message(row, value, name, name),)
    if not isinstance(value, list | tuple) or not all(isinstance(item, dict) for item in value):
        raise Reject(f"{name} is not a list of messages")
    turns = (read_message(row, item, name, f"{name}[]") for item in value)
    # Exports write an empty system message into every dialogue: it says nothing, as an empty column `system` does.
    return tuple(turn for turn in turns if turn.role != "system" or holds(turn.content))


def _is_structure(value: Any) -> bool:
    """Whether what a text holds is messages, rather than an answer that happens to be JSON."""
    if isinstance(value, dict):
        value = next((value[key] for key in _LISTS if isinstance(value.get(key), list)), [value])
    return isinstance(value, list) and bool(value) and all(is_message(item) for item in value)


def _list_within(row: Row, value: dict[str, Any], name: str) -> Any:
    """The list of messages in an object. Tools beside it change its meaning, other keys go into the account."""
    key = next(key for key in _LISTS if isinstance(value.get(key), list))
    for field, other in value.items():
        if field == key or not holds(other):
            continue
        if field in ("tools", "functions"):
            raise Reject("has tools")
        row.ignored[f"{name}.{field}"] = other
    return value[key]
