"""How a chat template lets a model think: the variable that switches it, and the marks around a thought."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from selfjudge.errors import RowError
from selfjudge.templates.rendering import ChatTemplate

Thinking = Literal["off", "on"]
QUESTION, THOUGHT, ANSWER, NEXT = "ProbeQuestion1", "ProbeThought1", "ProbeAnswer1", "ProbeQuestion2"

# The variables that templates of today know, with their values for off and on.
_SWITCHES: tuple[tuple[str, Any, Any], ...] = (
    ("enable_thinking", False, True),
    ("thinking", False, True),
    ("thinking_mode", "disabled", "enabled"),
    ("thinking_budget", 0, None),
)
_EFFORTS = ("none", "no_think")
# For templates that leave thoughts out of every dialogue, and so do not show their marks.
_KNOWN = (
    ("<think>", "</think>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
)


@dataclass(frozen=True)
class ThoughtMarks:
    """What stands around a thought.

    ``open``: what a sample begins with when it thinks, or the end of a prompt that lets it. ``close``: what stands
    between a thought and the answer, white space included.
    """

    open: str
    close: str

    @property
    def end(self) -> str:
        """The first mark of ``close``: a thought is over where it stands."""
        return first_mark(pieces(self.close))

    def opens(self, text: str) -> bool:
        """Returns whether the text leaves a thought open at its end."""
        return text.rfind(self.open.strip()) > text.rfind(self.end)


def switches(template: ChatTemplate) -> dict[Thinking, dict[str, Any]]:
    """Returns the template's variables for thinking off and on; empty where it has no switch.

    A template that thinks as long as it is told nothing needs no variable to be switched on.
    """
    for name, off, on in _SWITCHES:
        if re.search(rf"\b{name}\b", template.source) and _varies(template, {name: off}, {name: on} if on else {}):
            return {"off": {name: off}, "on": {} if on is None else {name: on}}
    if re.search(r"\breasoning_effort\b", template.source):
        plain = _after_question(template, {})
        for effort in _EFFORTS:
            rendered = _after_question(template, {"reasoning_effort": effort})
            high = _after_question(template, {"reasoning_effort": "high"})
            if rendered is not None and rendered != high and plain in (rendered, high):
                return {
                    "off": {"reasoning_effort": effort},
                    "on": {} if plain != rendered else {"reasoning_effort": "high"},
                }
    return {"off": {}, "on": {}}


def thought_marks(template: ChatTemplate, switch: Mapping[Thinking, Mapping[str, Any]]) -> ThoughtMarks | None:
    """Returns the marks around a thought, or None for a template that knows no thoughts."""
    thought = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), THOUGHT)
    question, answer = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}
    try:
        shown = template.raw([question, {**answer, **thought}], generation_prompt=False, switch=switch["on"])
    except RowError:
        shown = ""
    begin, end = shown.find(THOUGHT), shown.rfind(ANSWER)
    if 0 <= begin < end:
        close = shown[begin + len(THOUGHT) : end]
        opening = _opening(template, between(shown, QUESTION, THOUGHT), switch)
        return ThoughtMarks(opening, close) if close.strip() else None
    for opening, closing in _KNOWN:
        if closing in template.source:
            lines = any(opening + end in template.source for end in ("\\n", "\n"))
            return ThoughtMarks(opening, f"\n{closing}\n\n" if lines else closing)
    return None


def _opening(template: ChatTemplate, header: str, switch: Mapping[Thinking, Mapping[str, Any]]) -> str:
    """Returns what begins a thought, from all that stands between a question and the thought.

    That is what the generation prompt does not have; where it has all of it, what answers without a thought do not.
    """
    prompts = [_after_question(template, switch[thinking]) for thinking in ("on", "off")]
    question, answer = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}
    try:
        # In the history of a dialogue answers stand without thoughts.
        chat = [question, answer, {"role": "user", "content": NEXT}]
        history = between(template.raw(chat, generation_prompt=False, switch=switch["on"]), QUESTION, ANSWER)
    except RowError:
        history = None
    on, off = prompts
    for known in (on, history, off):
        rest = unlike(known, header)[1] if known is not None else ""
        if rest.strip() and len(rest) < len(header):
            return header.removeprefix(known) if known and header.startswith(known) else rest
    return first_mark(reversed(pieces(header)))


def first_mark(found: Iterable[str]) -> str:
    """Returns the first piece that is more than white space, or nothing."""
    return next((piece for piece in found if piece.strip()), "")


def between(text: str, left: str, right: str) -> str:
    """Returns what stands between the last ``right`` and the last ``left`` before it."""
    end = text.rfind(right)
    return text[text.rfind(left, 0, end) + len(left) : end]


_PIECES = re.compile(r"(<[^<>\n]{1,60}>|\[[^\[\]\n]{1,60}\])")


def pieces(text: str) -> list[str]:
    """Returns the marks (in angle or square brackets) and the texts between them; nothing that is empty."""
    return [piece for piece in _PIECES.split(text) if piece]


def unlike(one: str, other: str) -> tuple[str, str]:
    """Returns what is left of two texts after their common beginning, in which no mark is cut in two."""
    a, b = pieces(one), pieces(other)
    same = 0
    while same < min(len(a), len(b)) and a[same] == b[same]:
        same += 1
    rest_a, rest_b = "".join(a[same:]), "".join(b[same:])
    while rest_a[:1] == rest_b[:1] and rest_a[:1] not in ("", "<", "["):
        rest_a, rest_b = rest_a[1:], rest_b[1:]
    return rest_a, rest_b


def _varies(template: ChatTemplate, off: Mapping[str, Any], on: Mapping[str, Any]) -> bool:
    """Returns whether the template renders a question otherwise with the one than with the other."""
    chat = [{"role": "user", "content": QUESTION}]
    try:
        return template.raw(chat, generation_prompt=True, switch=off) != template.raw(
            chat, generation_prompt=True, switch=on
        )
    except RowError:
        return False


def _after_question(template: ChatTemplate, switch: Mapping[str, Any]) -> str | None:
    try:
        text = template.raw([{"role": "user", "content": QUESTION}], generation_prompt=True, switch=switch)
    except RowError:
        return None
    return text[text.rfind(QUESTION) + len(QUESTION) :]
