"""Whether a tokenizer and its chat template can be trained and read back: one question, one answer, two turns."""

from __future__ import annotations

from dataclasses import dataclass

from selfjudge.errors import RowError
from selfjudge.records import Message
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.dialogue import Turn

DIALOGUE = (
    Message(role="user", content="Name a tree."),
    Message(role="assistant", content="The oak."),
    Message(role="user", content="And a bird?"),
    Message(role="assistant", content="The owl, of course."),
)
"""What the check trains: an answer, and a second turn after it."""


_LONG = "\n".join(f"{i}. Is this a 'line', or \"more\" (a < b & c > d, {{e}}, 5 %)?" for i in range(40)) + "."


@dataclass(frozen=True)
class Finding:
    """One check: what it is about, what was found, and the sentence that says what is wrong, if anything is."""

    name: str
    found: str
    problem: str | None = None


def findings(chat: ChatEncoder) -> list[Finding]:
    """Returns the checks of a tokenizer and its chat template; none needs weights."""
    try:
        turns, rows = chat.turns(DIALOGUE), len(chat.dialogues(DIALOGUE))
    except RowError as e:
        # find_form has rendered a question and its answer already.
        turns, how = chat.turns(DIALOGUE[:2]), f"refused ({e}): only dialogues of one turn are trained"
    else:
        how = f"{rows} rows, a turn each (the template rewrites earlier turns)" if rows > 1 else "both turns in one row"
    answers = [message.content for message in DIALOGUE if message.role == "assistant"][: len(turns)]
    return [
        Finding("A second turn", how),
        _trained(chat, turns, answers),
        _read_back(chat, turns, answers),
        _own_ids(chat, turns),
        _whole(chat),
    ]


def _trained(chat: ChatEncoder, turns: list[Turn], answers: list[str]) -> Finding:
    texts = [_text(chat, turn.answer) for turn in turns]
    end = chat.form.end or chat.tokenizer.eos_token
    wrong = _first_unlike(chat, turns, texts, [answer + end for answer in answers])
    problem = f"a row would train {wrong[0]!r} in place of {wrong[1]!r}" if wrong else None
    return Finding("What is trained", " and ".join(map(repr, texts)), problem and _sentence(problem))


def _read_back(chat: ChatEncoder, turns: list[Turn], answers: list[str]) -> Finding:
    read = [chat.read(turn.answer, turn.prompt).text for turn in turns]
    wrong = _first_unlike(chat, turns, read, answers)
    problem = f"a sample of {wrong[1]!r} would be read as {wrong[0]!r}" if wrong else None
    unending = next((turn for turn in turns if turn.answer[-1] not in chat.stop_ids), None)
    if problem is None and unending is not None:
        problem = f"a row ends with {_text(chat, unending.answer[-1:])!r}, at which no sample stops"
    return Finding("What a sample says", " and ".join(map(repr, read)), problem and _sentence(problem))


def _first_unlike(
    chat: ChatEncoder, turns: list[Turn], found: list[str], expected: list[str]
) -> tuple[str, str] | None:
    """Returns the first text that ids have not given back, but for spaces, capitals and what the tokenizer lacks."""
    for turn, one, other in zip(turns, found, expected, strict=True):
        unknown = chat.tokenizer.unk_token_id in turn.answer
        if not unknown and "".join(one.split()).casefold() != "".join(other.split()).casefold():
            return one, other
    return None


def _whole(chat: ChatEncoder) -> Finding:
    """Looks for a long question in what the chat template makes of it."""
    text = chat.template.render(
        [Message(role="user", content=_LONG)], generation_prompt=True, switch=chat.switches["off"]
    )
    problem = None if _LONG in text else "it cuts or changes a long question"
    return Finding("A long question", "changed" if problem else "whole", problem and _sentence(problem))


def _own_ids(chat: ChatEncoder, turns: list[Turn]) -> Finding:
    """Compares a prompt's ids with the tokenizer's own of the same text."""
    text = chat.template.render(DIALOGUE[:1], generation_prompt=True, switch=chat.switches["off"]) + chat.form.lead
    same = chat.tokenizer(text, add_special_tokens=False)["input_ids"] == turns[0].prompt
    problem = None if same else "a prompt has other ids than the tokenizer's own of the same text"
    return Finding("Ids", "as the tokenizer's own" if same else "other ones", problem and _sentence(problem))


def _sentence(problem: str) -> str:
    return f"The chat template does not go with its tokenizer, {problem}: set model.chat_template to one that does."


def _text(chat: ChatEncoder, ids: list[int]) -> str:
    return str(chat.tokenizer.decode(ids, skip_special_tokens=False))
