"""Dialogues: raw values to messages, and the rules that a dialogue has to keep."""

from __future__ import annotations

from typing import Any, TypeGuard

from selfjudge.records import Message


class Reject(Exception):
    """A row or pair that cannot be used. Its message is the reason under which it is counted."""


def is_text(value: Any) -> TypeGuard[str]:
    """Whether ``value`` is a non-empty string that can be written as UTF-8."""
    try:
        return bool(clean_text(value, "").strip())
    except Reject:
        return False


def holds(value: Any) -> bool:
    """Whether a value holds anything: null, blank text and empty lists or objects do not."""
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and not (isinstance(value, list | tuple | dict) and not value)


def clean_text(value: Any, name: str) -> str:
    """``value``, proven to be text that can be written as UTF-8.

    Raises:
        Reject: it is not a string, or holds half a surrogate pair.
    """
    if not isinstance(value, str):
        raise Reject(f"{name} is not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Reject(f"{name} is not valid Unicode") from None
    return value


def user_message(text: str) -> tuple[Message, ...]:
    """A prompt of one user message.

    Raises:
        Reject: the text is not valid Unicode.
    """
    return (Message(role="user", content=clean_text(text, "prompt")),)


def check_turns(prompt: tuple[Message, ...]) -> None:
    """Passes a prompt of an optional system message, then alternating turns from user to user, none of them empty.

    Raises:
        Reject: any other; the reason says which rule it breaks.
    """
    turns = prompt[1:] if prompt and prompt[0].role == "system" else prompt
    if not turns or (len(turns) == 1 and not turns[0].content.strip()):
        raise Reject("empty prompt")
    if any(not message.content.strip() for message in prompt):
        raise Reject("empty turn in the prompt")
    if any(message.role == "system" for message in turns):
        raise Reject("system message after the first turn")
    if any(message.role != ("user", "assistant")[i % 2] for i, message in enumerate(turns)):
        raise Reject("turns do not alternate between user and assistant")
    if turns[-1].role != "user":
        raise Reject("prompt does not end with a user turn")


def split_sides(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> tuple[tuple[Message, ...], str, str]:
    """Two conversations as (shared prompt, chosen response, rejected response).

    Raises:
        Reject: a side does not end with an assistant turn, or they differ before it.
    """
    if not chosen or not rejected or chosen[-1].role != "assistant" or rejected[-1].role != "assistant":
        raise Reject("a side does not end with an assistant turn")
    if chosen[:-1] != rejected[:-1]:
        raise Reject("sides differ before the last turn")
    return chosen[:-1], chosen[-1].content, rejected[-1].content
