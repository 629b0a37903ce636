"""What a chat template writes around an answer, found by rendering a probe answer and looking before and behind it."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from selfjudge.errors import ModelError, RowError
from selfjudge.templates.rendering import ChatTemplate
from selfjudge.templates.thinking import ANSWER, NEXT, QUESTION, ThoughtMarks, between, first_mark, pieces, unlike

# The white space that templates strip, if not all of it: with `strip()`, or `strip('\\n')`.
_SPACES = " \t\n"


@dataclass(frozen=True)
class TurnForm:
    """What stands around an answer, thinking off.

    ``lead``: between the template's generation prompt and the answer (an empty think block, a channel's name); it
    belongs to prompts. ``space``: spaces before the answer; they belong to it, as tokens begin with them. ``end``: what
    follows the answer, up to the token that ends the turn; empty where the tokenizer's end token has to be added.
    ``strips``: the characters that the template strips off an answer's left and right; None for all white space.
    """

    lead: str
    space: str
    end: str
    strips: tuple[str | None, str | None]

    def answer(self, text: str) -> str:
        """Returns an answer as it stands in a rendered dialogue, with what ends its turn."""
        left, right = self.strips
        return self.space + text.lstrip(left).rstrip(right) + self.end


def find_form(
    template: ChatTemplate,
    off: Mapping[str, Any],
    marks: ThoughtMarks | None,
    structure: re.Pattern[str],
    stops: Sequence[str],
    bos: str | None,
) -> TurnForm:
    """Returns the form of a template's answers.

    Args:
        template: a chat template.
        off: its variables for thinking off.
        marks: what stands around its thoughts.
        structure: finds the tokens that give chats their structure.
        stops: tokens that end a sample anyway.
        bos: the token that begins a text.

    Raises:
        ModelError: if it refuses a question with its answer, or leaves one of them out.
    """
    question = {"role": "user", "content": QUESTION}
    answered = [question, {"role": "assistant", "content": ANSWER}]
    try:
        before = template.raw([question], generation_prompt=True, switch=off)
        last = template.raw(answered, generation_prompt=False, switch=off)
        strips = _strips(template, question, off)
    except RowError as e:
        raise ModelError(
            f"The chat template of {template.name!r} cannot render a question and its answer "
            f"({' '.join(str(e.__cause__).split())[:200]}): set model.chat_template to a Jinja file of one that can."
        ) from e
    _check_probe(template.name, before, last)
    header = between(last, QUESTION, ANSWER)
    lead = _lead(before[before.rfind(QUESTION) + len(QUESTION) :], header, marks)
    final = last[last.rfind(ANSWER) + len(ANSWER) :]
    kept = lead.rstrip(" ")
    return TurnForm(
        kept,
        lead[len(kept) :],
        _end(final, header, _continued(template, answered, off), _beginnings(before, structure), structure, stops, bos),
        strips,
    )


def _check_probe(name: str, before: str, last: str) -> None:
    """Raises ModelError unless a question stands in its prompt, and an answer once and after its question."""
    for what, text, rendered in (("user", QUESTION, before), ("assistant", ANSWER, last)):
        if text not in rendered:
            raise ModelError(
                f"The chat template of {name!r} leaves out what the {what} says: set model.chat_template to "
                "a Jinja file of one that does not."
            )
    if last.count(ANSWER) != 1 or last.rfind(QUESTION) > last.rfind(ANSWER):
        raise ModelError(
            f"The chat template of {name!r} writes an answer twice, or before its question: set "
            "model.chat_template to a Jinja file of one that does not."
        )


def _strips(
    template: ChatTemplate, question: Mapping[str, str], off: Mapping[str, Any]
) -> tuple[str | None, str | None]:
    """Returns the characters that the template strips off an answer, see :class:`TurnForm`."""
    left, right = "", ""
    for space in _SPACES:
        chat = [question, {"role": "assistant", "content": f"{space * 3}{ANSWER}{space * 3}"}]
        spaced = template.raw(chat, generation_prompt=False, switch=off)
        left += "" if space * 3 + ANSWER in spaced else space
        right += "" if ANSWER + space * 3 in spaced else space
    return (None if left == _SPACES else left), (None if right == _SPACES else right)


def _lead(prompt: str, header: str, marks: ThoughtMarks | None) -> str:
    """Returns what to add to a generation prompt to reach the answer.

    Args:
        prompt: from the question to the end of the generation prompt.
        header: from the question to the answer in the rendered dialogue.
        marks: what stands around a thought.
    """
    if header.startswith(prompt):
        lead = header[len(prompt) :]
    else:
        extra, missing = unlike(prompt, header)
        closed = marks is None or marks.end in extra
        if first_mark(reversed(pieces(prompt))) == first_mark(reversed(pieces(header))):
            lead = ""
        elif extra.strip() and not closed:
            lead = marks.close if marks else ""
        else:
            lead = missing if missing.strip() else ""
    if marks is not None and marks.opens(prompt + lead):
        lead += marks.close
    return lead


def _continued(template: ChatTemplate, answered: list[dict[str, str]], off: Mapping[str, Any]) -> str:
    """Returns what stands between an answer and the question after it; nothing where one is refused."""
    try:
        more = template.raw([*answered, {"role": "user", "content": NEXT}], generation_prompt=False, switch=off)
    except RowError:
        return ""
    return between(more, ANSWER, NEXT) if ANSWER in more and NEXT in more else ""


def _end(
    final: str,
    header: str,
    continued: str,
    beginnings: Container[str],
    structure: re.Pattern[str],
    stops: Sequence[str],
    bos: str | None,
) -> str:
    """Returns what ends a turn.

    What follows the last answer and an answer in the middle alike; else what follows the last one; else what follows
    one in the middle. It ends with a token of the structure, and before whatever begins another turn.

    Args:
        final: what follows the last answer of a dialogue.
        header: what stands between a question and an answer.
        continued: what stands between an answer and another question.
        beginnings: tokens that begin turns.
        structure: finds the tokens that give chats their structure.
        stops: tokens that end a sample anyway.
        bos: the token that begins a text.
    """

    def through(text: str, length: int) -> str:
        end = 0
        for match in structure.finditer(text):
            begins = match.group() in beginnings and match.group() not in stops
            if begins or match.end() > length:
                break
            end = match.end()
            if match.group() in stops:
                break
        return text[:end]

    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(final, continued, strict=False)))
    found = through(final, alike)
    # Where the same follows a question, it is the prompt of an answer, which some templates write at any end.
    if found or (final != header and (found := through(final, len(final)))):
        return found
    # Some leave the end of the last turn open, and some begin the next turn with the token that ends this one (GLM).
    for text in (continued, final):
        match = structure.match(text.lstrip())
        if match and (match.group() != bos or match.group() in stops):
            return text[: len(text) - len(text.lstrip()) + match.end()]
    return ""


def _beginnings(before: str, structure: re.Pattern[str]) -> set[str]:
    """Returns the structural tokens at the very beginning of a rendered dialogue: they begin turns and end none."""
    found: set[str] = set()
    start = 0
    while match := structure.match(before, start):
        found.add(match.group())
        start = match.end()
        start += len(before[start:]) - len(before[start:].lstrip())
    return found
