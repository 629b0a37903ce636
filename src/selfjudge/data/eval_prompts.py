"""Evaluation prompts, in our own format and in those of AlpacaEval, FastChat (MT-Bench) and Arena-Hard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfjudge.data.formats import Reject, Row
from selfjudge.data.formats.base import own_id
from selfjudge.data.formats.cells import read_turns
from selfjudge.data.formats.messages import check_turns, clean_text
from selfjudge.data.formats.prompt_columns import in_context
from selfjudge.data.identity import prompt_key, text_key
from selfjudge.data.raw import Source, origin_of, position_word, read_rows, source_name
from selfjudge.errors import DataError
from selfjudge.records import Message

PROMPT_COLUMNS = ("prompt", "instruction", "turns")
QUESTION_ID_COLUMNS = ("question_id", "uid", "id")
"""What names a question: FastChat's and Arena-Hard v0.1's column, Arena-Hard v2's, and our own."""


@dataclass(frozen=True)
class Instruction:
    """One of IFEval's verifiable instructions: its id, such as ``length_constraints:number_words``, and arguments."""

    id: str
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class EvalPrompt:
    """A prompt to compare systems on.

    ``later_turns``: what the user says after each answer (MT-Bench asks two turns). ``answer``: the known right answer.
    ``instructions``: what can be verified of an answer. ``question_id``: the name under which FastChat's and
    Arena-Hard's files answer it, None where the row has none.
    """

    id: str
    prompt: tuple[Message, ...]
    later_turns: tuple[str, ...] = ()
    answer: str | None = None
    instructions: tuple[Instruction, ...] = ()
    question_id: str | None = None


def load_eval_prompts(path: Source, limit: int | None = None) -> tuple[EvalPrompt, ...]:
    """The prompts of a file with ``prompt`` (text or messages), AlpacaEval's ``instruction`` or FastChat's ``turns``.

    A turn is text or, as Arena-Hard has it, an object with the text as ``content``. ``turns`` beside ``prompt`` adds
    the later turns. For the checkers ``answer`` is kept, and IFEval's ``instruction_id_list`` and ``kwargs``.
    Rows from Python are taken too. ``limit``: rows at most.

    Raises:
        DataError: the file cannot be read or is empty, a row is malformed, or two rows ask the same.
    """
    found: dict[bytes, EvalPrompt] = {}
    for row in answer_rows(path, limit):
        try:
            prompt = eval_prompt(row)
        except Reject as error:
            raise bad_row(path, row, error) from None
        key = prompt_key(prompt.prompt) + b"".join(map(text_key, prompt.later_turns))
        if key in found:
            raise bad_row(path, row, Reject(f"the same prompt as that of id {found[key].id!r}"))
        found[key] = prompt
    if not found:
        raise DataError(f"{origin_of(path)}: there is no row in it; check the file.")
    return tuple(found.values())


def prompt_text(prompt: Sequence[Message]) -> str:
    """Returns a prompt as text: a single turn as it is, else every turn with its role."""
    return prompt[0].content if len(prompt) == 1 else transcript(prompt)


def transcript(messages: Sequence[Message]) -> str:
    """Returns a dialogue as text."""
    return "\n\n".join(f"{message.role.capitalize()}: {message.content}" for message in messages)


def dialogue_text(turns: Sequence[Message]) -> str:
    """Returns what follows a prompt as text: a single answer as it is, else the dialogue from the first answer on."""
    first, *later = turns
    return "\n\n".join([first.content, transcript(later)]) if later else first.content


def answer_rows(path: Source, limit: int | None = None) -> list[Row]:
    """Returns the rows of a file of prompts or answers, or those given in Python.

    Raises:
        DataError: the file cannot be read.
    """
    name = source_name(origin_of(path))
    return [Row(data, line, index, name) for index, (line, data) in enumerate(read_rows(path, limit=limit))]


def eval_prompt(row: Row) -> EvalPrompt:
    """Returns the prompt of a row.

    Raises:
        Reject: the row has none, or it is malformed.
    """
    column = next((name for name in PROMPT_COLUMNS if row.data.get(name) is not None), None)
    if column is None:
        raise missing(row, PROMPT_COLUMNS)
    turns = _turns(row.data.get("turns"))
    value = turns[0] if column == "turns" else row.column(column)
    prompt = in_context(row, read_turns(row, value, column, "user"))
    check_turns(prompt)
    answer = row.data.get("answer")
    return EvalPrompt(
        id=own_id(row.data) or question_id(row) or str(row.index),
        prompt=prompt,
        later_turns=turns[1:],
        answer=str(answer) if isinstance(answer, str | int | float) else None,
        instructions=_instructions(row.data.get("instruction_id_list"), row.data.get("kwargs")),
        question_id=question_id(row),
    )


def question_id(row: Row) -> str | None:
    """Returns what a row names its question by, or None."""
    return next(filter(None, (own_id({"id": row.data.get(name)}) for name in QUESTION_ID_COLUMNS)), None)


def turn_text(value: Any, name: str) -> str:
    """Returns the text of a turn: text, or an object with it as ``content``, that too perhaps with an ``answer``.

    Raises:
        Reject: anything else.
    """
    for key in ("content", "answer"):
        value = value[key] if isinstance(value, dict) and key in value else value
    return clean_text(value, name)


def missing(row: Row, columns: Sequence[str]) -> Reject:
    """Returns the reason to refuse a row that has none of the columns."""
    found = [f"{name} (null)" if value is None else name for name, value in row.data.items()]
    return Reject(f"none of the columns {', '.join(columns)}; found: {', '.join(found) or 'no column'}")


def _turns(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not value:
        raise Reject("turns is not a list of at least one text")
    return tuple(turn_text(turn, "a turn") for turn in value)


def _instructions(ids: Any, kwargs: Any) -> tuple[Instruction, ...]:
    if ids is None:
        return ()
    if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
        raise Reject("instruction_id_list is not a list of texts")
    if not isinstance(kwargs, list) or len(kwargs) != len(ids) or not all(isinstance(k, dict) for k in kwargs):
        raise Reject("kwargs is not a list of one object to each of instruction_id_list")
    # As published, every row has the arguments of all instructions, those of others null.
    given = [{name: value for name, value in k.items() if value is not None} for k in kwargs]
    return tuple(Instruction(name, k) for name, k in zip(ids, given, strict=True))


def bad_row(path: Source, row: Row, error: Reject) -> DataError:
    """Returns the error that names a row of a file."""
    origin = origin_of(path)
    return DataError(f"{origin}, {position_word(origin)} {row.line}: {error}; correct or remove this row.")
