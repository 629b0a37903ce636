r"""Text that holds a dialogue: Anthropic's transcripts and ChatML are read, other chat templates are named."""

from __future__ import annotations

import re
from typing import Any

from selfjudge.data.formats.messages import Reject
from selfjudge.records import Message, Role

Turn = tuple[str, str]
"""A role as it is written, and its text."""

_FIRST = re.compile(r"\s*Human:")
_NEXT = {"user": re.compile(r"\n\nAssistant:"), "assistant": re.compile(r"\n\nHuman:")}
_HUMAN = "\n\nHuman:"

_ROLES = r"(?:system|developer|user|assistant|tool|function|observation)"
_CHATML = re.compile(rf"<\|im_start\|>\s*{_ROLES}\b")
_CHATML_TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>\s*|\Z)", re.DOTALL)
_CHATML_END = "<|im_end|>"

_OTHER = re.compile(
    r"\s*(?:<s>\s*)?(?:\[INST\]|\[SYSTEM_PROMPT\]|\[gMASK\]|<bos>|<BOS_TOKEN>|<start_of_turn>|<\|turn>|<｜[\w▁]+｜>"
    r"|<\|(?:begin_of_text|startoftext|start_header_id|header_start|start_of_role|start|system|user|assistant|human|bot"
    r"|im_system|im_user|START_OF_TURN_TOKEN)\|>)"
)
_OTHER_END = re.compile(
    r"(?:<\|(?:eot_id|eot|end|eom_id|endoftext|return)\|>|<end_of_turn>|<turn\|>|<｜end▁of▁sentence｜>)\Z"
)
_ANSWER_NEXT = re.compile(r"(?:\A|\s)(?:### ?(?:Response|Assistant|Output):?|ASSISTANT:|Assistant:|\[/INST\])\Z")


def is_transcript(value: Any) -> bool:
    """Whether a value is text that opens with a human turn and has an assistant turn."""
    return isinstance(value, str) and _FIRST.match(value) is not None and _NEXT["user"].search(value) is not None


def is_rendered(value: Any) -> bool:
    """Whether a value is text that :func:`read_rendered` reads as turns."""
    if not isinstance(value, str):
        return False
    return is_transcript(value) or value.startswith(_HUMAN) or _CHATML.search(value) is not None


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


def read_rendered(text: str, name: str, plain: Role) -> list[Turn]:
    """The turns that a text holds. A text without marks of turns is one turn of the role ``plain``.

    The mark that ends a turn in ChatML is taken off the end of a plain text. An empty turn of the assistant at the
    end of a prompt (``plain`` is ``user``) only asks for the answer, and is left out.

    Raises:
        Reject: the text is rendered with another chat template, or with ChatML of another form.
    """
    turns = _turns(text, name, plain)
    if plain == "user" and len(turns) > 1 and turns[-1][0] == "assistant" and not turns[-1][1].strip():
        return turns[:-1]
    return turns


def _turns(text: str, name: str, plain: Role) -> list[Turn]:
    if is_transcript(text) or (plain == "user" and text.startswith(_HUMAN)):
        return [(message.role, message.content) for message in read_transcript(text)]
    if plain == "assistant" and _NEXT["user"].match(text):
        return [(message.role, message.content) for message in read_transcript(f"Human:{text}")][1:]
    if _CHATML.search(text):
        return _chatml_turns(text, name, plain)
    while text.rstrip().endswith(_CHATML_END):
        text = text.rstrip().removesuffix(_CHATML_END)
    end = text.rstrip()[-40:]
    ends = _OTHER_END.search(end) or (end.endswith("</s>") and "<s>" not in text)
    if ends or _OTHER.match(text) or (plain == "user" and _ANSWER_NEXT.search(end)):
        raise Reject(f"{name} is text of another chat template")
    return [(plain, text)]


def _chatml_turns(text: str, name: str, plain: Role) -> list[Turn]:
    """The turns of ChatML. An answer may begin without a mark of its own, as the prompt ended with one."""
    text = text.lstrip() if text.lstrip().startswith("<|im_start|>") else f"<|im_start|>{plain}\n{text}"
    turns: list[Turn] = []
    position = 0
    while position < len(text):
        turn = _CHATML_TURN.match(text, position)
        if turn is None or "<|im_start|>" in turn[2]:
            raise Reject(f"{name} is ChatML that cannot be read")
        turns.append((turn[1], turn[2]))
        position = turn.end()
    return turns
