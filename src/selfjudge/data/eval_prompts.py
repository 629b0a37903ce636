"""Evaluation prompts and answers to them, in our own format and in those of AlpacaEval and FastChat (MT-Bench)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfjudge.data.formats import Reject, Row
from selfjudge.data.formats.base import own_id
from selfjudge.data.formats.messages import clean_text, read_prompt
from selfjudge.data.io import atomic_writer
from selfjudge.data.raw import position_word, read_rows, source_name
from selfjudge.errors import DataError
from selfjudge.records import Message

PROMPT_COLUMNS = ("prompt", "instruction", "turns")
ANSWER_COLUMNS = ("output", "winner", "answer", "response")
"""Where the text is: AlpacaEval's column, that of `selfjudge sample`, and two common names."""


@dataclass(frozen=True)
class Instruction:
    """One of IFEval's verifiable instructions: its id, such as ``length_constraints:number_words``, and arguments."""

    id: str
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class EvalPrompt:
    """A prompt to compare systems on.

    ``later_turns``: what the user says after each answer (MT-Bench asks two turns). ``answer``: the known right answer.
    ``instructions``: what can be verified of an answer.
    """

    id: str
    prompt: tuple[Message, ...]
    later_turns: tuple[str, ...] = ()
    answer: str | None = None
    instructions: tuple[Instruction, ...] = ()


def load_eval_prompts(path: str | Path, limit: int | None = None) -> tuple[EvalPrompt, ...]:
    """The prompts of a file with ``prompt`` (text or messages), AlpacaEval's ``instruction`` or FastChat's ``turns``.

    ``turns`` beside ``prompt`` adds the later turns. For the checkers ``answer`` is kept, and IFEval's
    ``instruction_id_list`` and ``kwargs``. ``limit``: rows at most.

    Raises:
        DataError: the file cannot be read or is empty, a row is malformed, or two rows ask the same.
    """
    found: dict[tuple[object, ...], EvalPrompt] = {}
    for row in _rows(path, limit):
        try:
            prompt = _eval_prompt(row)
        except Reject as error:
            raise _bad_row(path, row, error) from None
        key = (prompt.prompt, prompt.later_turns)
        if key in found:
            raise _bad_row(path, row, Reject(f"the same prompt as that of id {found[key].id!r}"))
        found[key] = prompt
    if not found:
        raise DataError(f"{path}: there is no row in it; check the file.")
    return tuple(found.values())


def load_answers(path: str | Path, prompts: Sequence[EvalPrompt]) -> list[str]:
    """The answer of a file to each of the prompts: rows of a prompt as above and ``output``, ``winner``, ``answer`` or
    ``response``.

    Raises:
        DataError: the file cannot be read, a row is malformed, or a prompt has no answer or two different ones.
    """
    answers: dict[tuple[Message, ...], str] = {}
    for row in _rows(path):
        try:
            prompt, text = _eval_prompt(row).prompt, _answer(row)
        except Reject as error:
            raise _bad_row(path, row, error) from None
        if answers.setdefault(prompt, text) != text:
            raise _bad_row(path, row, Reject("a second answer to the same prompt"))
    missing = [prompt for prompt in prompts if prompt.prompt not in answers]
    if missing:
        raise DataError(
            f"{path} has no answer to {len(missing)} of {len(prompts)} prompts, the first of id {missing[0].id!r}: "
            "answer them, or name the prompts that it answers."
        )
    return [answers[prompt.prompt] for prompt in prompts]


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


def prompt_text(prompt: Sequence[Message]) -> str:
    """Returns a prompt as text: a single turn as it is, else every turn with its role."""
    return prompt[0].content if len(prompt) == 1 else transcript(prompt)


def transcript(messages: Sequence[Message]) -> str:
    """Returns a dialogue as text."""
    return "\n\n".join(f"{message.role.capitalize()}: {message.content}" for message in messages)


def _rows(path: str | Path, limit: int | None = None) -> list[Row]:
    name = source_name(path)
    return [Row(data, line, index, name) for index, (line, data) in enumerate(read_rows(path, limit=limit))]


def _eval_prompt(row: Row) -> EvalPrompt:
    column = next((name for name in PROMPT_COLUMNS if row.data.get(name) is not None), None)
    if column is None:
        raise Reject(f"none of the columns {', '.join(PROMPT_COLUMNS)}")
    turns = _turns(row.data.get("turns"))
    prompt = read_prompt(turns[0] if column == "turns" else row.data[column])
    answer = row.data.get("answer")
    return EvalPrompt(
        id=own_id(row.data) or own_id({"id": row.data.get("question_id")}) or str(row.index),
        prompt=prompt,
        later_turns=turns[1:],
        answer=str(answer) if isinstance(answer, str | int | float) else None,
        instructions=_instructions(row.data.get("instruction_id_list"), row.data.get("kwargs")),
    )


def _turns(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not value:
        raise Reject("turns is not a list of at least one text")
    return tuple(clean_text(turn, "a turn") for turn in value)


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


def _answer(row: Row) -> str:
    column = next((name for name in ANSWER_COLUMNS if row.data.get(name) is not None), None)
    if column is None:
        raise Reject(f"none of the columns {', '.join(ANSWER_COLUMNS)}")
    return clean_text(row.data[column], column)


def _bad_row(path: str | Path, row: Row, error: Reject) -> DataError:
    return DataError(f"{path}, {position_word(path)} {row.line}: {error}; correct or remove this row.")
