"""One message as people write it: OpenAI's or ShareGPT's names, content in parts, fields beside the content."""

from __future__ import annotations

import re
from typing import Any

from selfjudge.data.formats.base import Row
from selfjudge.data.formats.messages import Reject, clean_text, holds
from selfjudge.records import Message, Role

ROLES: dict[str, Role] = {
    "user": "user",
    "human": "user",
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
    "system": "system",
    "developer": "system",
}
"""How files name the roles, in lower case → our name."""
TOOL_ROLES = {"tool", "function", "observation", "ipython", "function_call", "tool_call", "tool_response"}

_FIELDS = {
    **dict.fromkeys(("tool_calls", "function_call", "tool_call_id"), "tool calls"),
    **dict.fromkeys(("images", "image", "image_url"), "images"),
    **dict.fromkeys(("videos", "video", "video_url"), "videos"),
    **dict.fromkeys(("audios", "audio", "audio_url"), "audio"),
}
"""Fields that change the meaning of a message → what the message has."""
_PARTS = {
    **_FIELDS,
    **dict.fromkeys(("tool_use", "tool_result", "tool_call"), "tool calls"),
    "input_image": "images",
    "input_video": "videos",
    "input_audio": "audio",
}
_TEXT_PARTS = ("text", "input_text", "output_text")
_THOUGHT_PARTS = ("thinking", "reasoning")
_THOUGHT = re.compile(r"\s*<think>")


def is_message(value: Any) -> bool:
    """Whether a value is an object with a role that is known and something said or called."""
    if not isinstance(value, dict):
        return False
    role = _role(value)
    said = any(name in value for name in ("content", "value", "tool_calls", "function_call"))
    return said and (role in ROLES or role in TOOL_ROLES)


def read_message(row: Row, item: dict[str, Any], name: str, place: str) -> Message:
    """The message that an object of the column ``name`` is; ``place`` names it for the account (``chosen[]``).

    Thoughts and any other field beside role and content are left out, and the row's account says so.

    Raises:
        Reject: an unknown role, content that is not text, or tool calls, images, videos, audio.
    """
    role_field = "role" if item.get("role") is not None else "from"
    text_field = "content" if item.get("content") is not None else "value"
    for field, value in item.items():
        if field in (role_field, text_field) or not holds(value):
            continue
        if field in _FIELDS:
            raise Reject(f"{name} has {_FIELDS[field]}")
        row.ignored[f"{place}.{field}"] = value
    return make_message(row, _role(item), _text(row, item.get(text_field), name, place), name)


def make_message(row: Row, role: str, text: str, name: str) -> Message:
    """The message of a role as files name it; a thought before an assistant's answer is left out and accounted for.

    Raises:
        Reject: an unknown role, the role of a tool, text that is not valid Unicode, or a thought without an end.
    """
    if role in TOOL_ROLES:
        raise Reject(f"{name} has tool calls")
    if role not in ROLES:
        raise Reject(f"{name} has a message of an unknown role")
    ours = ROLES[role]
    text = clean_text(text, name)
    return Message(role=ours, content=_without_thought(row, text, name) if ours == "assistant" else text)


def _role(item: dict[str, Any]) -> str:
    role = item.get("role") if item.get("role") is not None else item.get("from")
    return role.strip().lower() if isinstance(role, str) else ""


def _text(row: Row, content: Any, name: str, place: str) -> str:
    """The text of a message's content: text, or parts of text put together."""
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list | tuple):
        return clean_text(content, f"a message of {name}")
    return "".join(_part_text(row, part, name, place) for part in content)


def _part_text(row: Row, part: Any, name: str, place: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise Reject(f"a message of {name} is not text")
    kind = part.get("type", "text")
    fields = {field: value for field, value in part.items() if field != "type" and holds(value)}
    found = next((_PARTS[word] for word in (kind, *fields) if isinstance(word, str) and word in _PARTS), None)
    if found:
        raise Reject(f"{name} has {found}")
    if kind in _THOUGHT_PARTS:
        row.ignored.update({f"{place}.content[].{field}": value for field, value in fields.items()})
        return ""
    if kind not in _TEXT_PARTS:
        raise Reject(f"{name} has content of an unknown type")
    text = clean_text(part.get("text"), f"a message of {name}")
    row.ignored.update({f"{place}.content[].{field}": value for field, value in fields.items() if field != "text"})
    return text


def _without_thought(row: Row, text: str, name: str) -> str:
    opens = _THOUGHT.match(text)
    if opens is None:
        if "</think>" in text and "<think>" not in text:
            raise Reject(f"{name} has a thought without a beginning")
        return text
    thought, end, answer = text[opens.end() :].partition("</think>")
    if not end:
        raise Reject(f"{name} has a thought without an end")
    if thought.strip():
        row.ignored[f"{name}: <think>"] = thought
    return answer.lstrip()
