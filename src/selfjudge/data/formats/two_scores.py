"""Two answers with a score each, of which the higher one is the label: SHP, WebGPT, and tables like them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from selfjudge.data.formats.base import Row
from selfjudge.data.formats.labels import LABEL_COLUMNS, Label
from selfjudge.data.formats.messages import Reject
from selfjudge.data.formats.numbers import to_number
from selfjudge.data.formats.prompt_columns import HISTORY
from selfjudge.data.formats.strength import from_ratings
from selfjudge.data.formats.two_answers import SIDES, find_sides
from selfjudge.records import Preferred

SHP_SIDES = ("human_ref_A", "human_ref_B")
_WORDS = ("score_", "score", "rating_", "rating")


def _beside(sides: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """The columns that may have the scores of two answers: ``score_a`` beside ``response_a``."""
    return tuple((word + sides[0][-1], word + sides[1][-1]) for word in _WORDS)


SCORE_COLUMNS = tuple(dict.fromkeys(name for sides in SIDES for pair in _beside(sides) for name in pair))


def higher_score(row: Row) -> Label | None:
    """Returns the answer with the higher score of the two beside them, or a tie.

    None where a row has no such scores, or says in another way which answer is better.
    """
    sides = find_sides(row.data)
    if sides is None or any(row.data.get(name) is not None for name in (*LABEL_COLUMNS, "chosen")):
        return None
    names = next((names for names in _beside(sides) if all(row.data.get(name) is not None for name in names)), None)
    if names is None:
        return None
    first, second = (to_number(row.get(name)) for name in names)
    if first is None or second is None:
        raise Reject(f"{' and '.join(names)} are not two numbers such as 7 or 7.5")
    return Label(_higher(first, second), from_ratings(max(first, second), min(first, second)))


def shp_label(row: Row) -> Label | None:
    """Returns the label of SHP: ``labels``, 1 for the first answer and 0 for the second.

    Its strength is the share of the answer's votes, ``score_A`` and ``score_B``, where both are above 0.
    """
    if row.data.get("labels") is None:
        return None
    number = to_number(row.get("labels"))
    if number not in (0, 1):
        raise Reject("labels is not 0 or 1")
    better: Preferred = "A" if number else "B"
    votes = [to_number(row.get(name)) for name in ("score_A", "score_B")]
    if not all(vote is not None and vote > 0 for vote in votes):
        return Label(better)
    first, second = (vote or 0.0 for vote in votes)
    if _higher(first, second) not in (better, "tie"):
        raise Reject("labels and scores disagree")
    return Label(better, max(first, second) / (first + second))


def with_prompt(row: Row) -> Row:
    """The row with its prompt where all sets have it: not in SHP's ``history`` nor within WebGPT's ``question``."""
    question = row.data.get("question")
    if isinstance(question, Mapping) and "full_text" in question:
        rest = {f"question.{name}": value for name, value in question.items() if name != "full_text"}
        row.ignored.update(rest)
        return replace(row, data={**row.data, "question": question["full_text"]})
    if SHP_SIDES[0] in row.data and isinstance(row.data.get(HISTORY), str):
        return replace(row, data={**row.data, HISTORY: None, "prompt": row.get(HISTORY)})
    return row


def _higher(first: float, second: float) -> Preferred:
    return "tie" if first == second else "A" if first > second else "B"
