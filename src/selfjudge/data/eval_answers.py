"""Answers to evaluation prompts, in our own format and in those of AlpacaEval, FastChat (MT-Bench) and Arena-Hard."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selfjudge.data.eval_prompts import (
    PROMPT_COLUMNS,
    QUESTION_ID_COLUMNS,
    EvalPrompt,
    answer_rows,
    bad_row,
    dialogue_text,
    eval_prompt,
    missing,
    prompt_text,
    question_id,
    turn_text,
)
from selfjudge.data.formats import Reject, Row
from selfjudge.data.formats.messages import clean_text
from selfjudge.data.identity import prompt_key
from selfjudge.data.io import atomic_writer
from selfjudge.data.raw import Source, origin_of
from selfjudge.errors import DataError
from selfjudge.records import Message

ANSWER_COLUMNS = ("output", "winner", "answer", "response")
"""Where the text is: AlpacaEval's column, that of `selfjudge sample`, and two common names."""
TURN_COLUMNS = ("choices", "messages")
"""Where the turns are: in FastChat's and Arena-Hard v0.1's files, and in those of Arena-Hard v2."""


@dataclass(frozen=True)
class _Answers:
    """The answers of a file: by the key of their prompt, and turn by turn by the id of their question."""

    by_prompt: dict[bytes, str] = field(default_factory=dict)
    by_question: dict[str, tuple[str, ...]] = field(default_factory=dict)


def load_answers(path: Source, prompts: Sequence[EvalPrompt]) -> list[str]:
    """The answer of a file, or of rows from Python, to each of the prompts.

    A row has a prompt as :func:`selfjudge.data.eval_prompts.load_eval_prompts` reads it, and the answer as ``output``,
    ``winner``, ``answer`` or ``response``; it answers the prompt that reads the same. Or it has ``question_id``
    (FastChat, Arena-Hard v0.1) or ``uid`` (Arena-Hard v2), and the answers turn by turn in ``choices`` or ``messages``;
    it answers the prompt of that id, and of several choices the first is taken. An empty text is an answer.

    Raises:
        DataError: the file cannot be read, a row is malformed, or a prompt has no answer, two different ones, or not
            one to each of its turns.
    """
    answers, origin = _read(path), origin_of(path)
    if answers.by_question:
        _check_ids(origin, prompts, next(iter(answers.by_question)))
    found = [_answer_to(prompt, answers, origin) for prompt in prompts]
    unanswered = [prompt for prompt, text in zip(prompts, found, strict=True) if text is None]
    if unanswered:
        raise DataError(
            f"{origin} has no answer to {len(unanswered)} of {len(prompts)} prompts, the first of id "
            f"{unanswered[0].id!r}: answer them, or name the prompts that it answers."
        )
    return [text for text in found if text is not None]


def write_alpaca_outputs(path: Path, prompts: Sequence[EvalPrompt], answers: Sequence[str], generator: str) -> None:
    """Writes what AlpacaEval calls model outputs: a JSON list of ``instruction``, ``output`` and ``generator``.

    A prompt of several messages is written as text, with the roles named.

    Raises:
        RunError: the file cannot be written there.
    """
    rows = [
        {"instruction": prompt_text(p.prompt), "output": text, "generator": generator, "dataset": "selfjudge"}
        for p, text in zip(prompts, answers, strict=True)
    ]
    with atomic_writer(path, overwrite=True) as handle:
        json.dump(rows, handle, indent=2, ensure_ascii=False)
        handle.write("\n")


def _read(path: Source) -> _Answers:
    found = _Answers()
    for row in answer_rows(path):
        try:
            column = next((name for name in TURN_COLUMNS if row.data.get(name) is not None), None)
            if column is None or any(row.data.get(name) is not None for name in PROMPT_COLUMNS):
                key, text = prompt_key(eval_prompt(row).prompt), _answer(row)
                if found.by_prompt.setdefault(key, text) != text:
                    raise Reject("a second answer to the same prompt")
            else:
                question, turns = _question(row, column), _turns(row, column)
                if found.by_question.setdefault(question, turns) != turns:
                    raise Reject(f"a second answer to the question {question!r}")
        except Reject as error:
            raise bad_row(path, row, error) from None
    return found


def _check_ids(origin: str, prompts: Sequence[EvalPrompt], first: str) -> None:
    """Raises DataError unless every prompt can be found by the id of its question."""
    names = f"{', '.join(QUESTION_ID_COLUMNS[:-1])} or {QUESTION_ID_COLUMNS[-1]}"
    if all(prompt.question_id is None for prompt in prompts):
        raise DataError(
            f"{origin} names questions by their id, such as {first!r}, but no prompt has {names}: give the benchmark's "
            "file of questions as the prompts."
        )
    question, times = Counter(p.question_id for p in prompts if p.question_id is not None).most_common(1)[0]
    if times > 1:
        raise DataError(
            f"{origin} names questions by their id, but {times} prompts have the id {question!r}: give each its own."
        )


def _answer_to(prompt: EvalPrompt, answers: _Answers, origin: str) -> str | None:
    turns = answers.by_question.get(prompt.question_id or "")
    asked = 1 + len(prompt.later_turns)
    if turns is None:
        text = answers.by_prompt.get(prompt_key(prompt.prompt))
        if text is not None and not all(question in text for question in prompt.later_turns):
            raise DataError(
                f"{origin} has one answer to the prompt of id {prompt.id!r}, which has {asked} turns; give one answer "
                "to each turn as FastChat does (`choices`), or the text that `selfjudge eval winrate` writes."
            )
        return text
    if len(turns) != asked:
        raise DataError(
            f"{origin}, question {prompt.question_id!r}: the turns are {asked}, the answers {len(turns)}; give one "
            "answer to each turn, or name the prompts that it answers."
        )
    dialogue = [Message(role="assistant", content=turns[0])]
    for question, text in zip(prompt.later_turns, turns[1:], strict=True):
        dialogue += [Message(role="user", content=question), Message(role="assistant", content=text)]
    return dialogue_text(dialogue)


def _question(row: Row, column: str) -> str:
    question = question_id(row)
    if question is None:
        raise Reject(f"{column} without {', '.join(QUESTION_ID_COLUMNS)}, which say what question it answers")
    return question


def _turns(row: Row, column: str) -> tuple[str, ...]:
    """The answers of a row, one to each turn."""
    value = row.data[column]
    if column == "choices":
        value = value[0].get("turns") if isinstance(value, list) and value and isinstance(value[0], dict) else None
        what = "choices is not a list of objects with turns"
    else:
        what = "messages is not a list of messages, one of them the assistant's"
        are_messages = isinstance(value, list) and all(isinstance(message, dict) for message in value)
        value = [message for message in value if message.get("role") == "assistant"] if are_messages else None
    if not isinstance(value, list) or not value:
        raise Reject(what)
    return tuple(turn_text(turn, "an answer") for turn in value)


def _answer(row: Row) -> str:
    column = next((name for name in ANSWER_COLUMNS if row.data.get(name) is not None), None)
    if column is None:
        raise missing(row, ANSWER_COLUMNS)
    return clean_text(row.data[column], column)
