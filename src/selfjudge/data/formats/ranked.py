"""Several answers to one prompt with ratings or ranks, such as Nectar: the best and a random worse one are a pair."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfjudge.data.formats.base import Dropped, Format, Pairing, Parsed, Row, make_record
from selfjudge.data.formats.cells import read_turns
from selfjudge.data.formats.literals import parse_list
from selfjudge.data.formats.messages import Reject, is_text
from selfjudge.data.formats.numbers import to_number
from selfjudge.data.formats.prompt_columns import find_prompt
from selfjudge.data.formats.ratings import Rated, choose_pair, ignore_fields
from selfjudge.data.formats.strength import from_ratings

LISTS = ("answers", "responses", "completions", "candidates", "samples", "generations")
TEXTS = ("response", "text", "answer", "content", "output")
RATINGS = ("score", "rating", "overall_score", "pm_score")
RANKS = ("rank",)
RATING_LISTS = ("scores", "ratings")
RANK_LISTS = ("ranks",)


@dataclass(frozen=True)
class _Numbers:
    """Where the ratings or ranks of answers are: the column or the field, and whether a small number is a good one."""

    name: str
    are_ranks: bool


def _fits(data: dict[str, Any]) -> bool:
    try:
        name, items = _answers(data)
        return name is not None and len(items) > 1 and _numbers(data, items) is not None
    except Reject:
        return False


def _parse(row: Row, pairing: Pairing) -> Parsed:
    name, items = _answers(row.data)
    if name is None:
        raise Reject("no list of answers")
    row.get(name)
    numbers = _numbers(row.data, items)
    if numbers is None:
        raise Reject("no ratings or ranks of the answers")
    prompt = find_prompt(row)
    if prompt is None:
        raise Reject("no prompt")
    rated: list[Rated] = []
    for index, (text, number) in enumerate(_numbered(row, name, items, numbers)):
        try:
            answer = _answer(row, text, name)
        except Reject as error:
            yield Dropped(f"{row.id}:completion-{index}", row.line, str(error))
        else:
            if number is not None:
                rated.append(Rated(answer, -number if numbers.are_ranks else number))
    best, worse = choose_pair(rated, pairing.tie_rule, random.Random(f"{pairing.seed}/{row.key}"))
    strength = None if numbers.are_ranks else from_ratings(best.rating, worse.rating)
    yield make_record(row, prompt, best.text, worse.text, strength=strength)


def _answers(data: dict[str, Any]) -> tuple[str | None, Sequence[Any]]:
    """The column that holds a list of texts or of objects, and the list; the list may be written in text."""
    for name in LISTS:
        items = _list(data.get(name), name)
        if items and (all(isinstance(item, dict) for item in items) or all(_is_plain(item) for item in items)):
            return name, items
    return None, ()


def _is_plain(item: Any) -> bool:
    return item is None or isinstance(item, str)


def _list(value: Any, name: str) -> Sequence[Any]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parse_list(value, name)
    return value if isinstance(value, list | tuple) else ()


def _numbers(data: dict[str, Any], items: Sequence[Any]) -> _Numbers | None:
    """Where the answers' ratings are, or else their ranks."""
    for are_ranks, fields, lists in ((False, RATINGS, RATING_LISTS), (True, RANKS, RANK_LISTS)):
        if isinstance(items[0], dict):
            names = [name for name in fields if any(to_number(item.get(name)) is not None for item in items)]
        else:
            names = [name for name in lists if any(to_number(n) is not None for n in _list(data.get(name), name))]
        if names:
            return _Numbers(names[0], are_ranks)
    return None


def _numbered(row: Row, column: str, items: Sequence[Any], numbers: _Numbers) -> list[tuple[Any, float | None]]:
    """Each answer with its number, None where it has none."""
    if isinstance(items[0], dict):
        texts = []
        for item in items:
            field = next((name for name in TEXTS if item.get(name) is not None), "")
            ignore_fields(row, column, item, (field, numbers.name))
            texts.append((item.get(field), to_number(item.get(numbers.name))))
        return texts
    values = _list(row.get(numbers.name), numbers.name)
    if len(values) != len(items):
        raise Reject(f"{column} and {numbers.name} differ in number")
    return [(text, to_number(value)) for text, value in zip(items, values, strict=True)]


def _answer(row: Row, value: Any, column: str) -> str:
    """The text of an answer.

    Raises:
        Reject: it is empty, not text, or a dialogue rather than one answer.
    """
    if not is_text(value):
        raise Reject("a completion is empty or not text")
    turns = read_turns(row, value, column, "assistant")
    if len(turns) != 1 or turns[0].role != "assistant":
        raise Reject("a completion is a dialogue rather than one answer")
    return turns[0].content


RANKED = Format("ranked", (LISTS,), _fits, _parse)
