"""Which of two answers a row says is better, in the spellings of the sets in use."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from selfjudge.data.formats.base import Row
from selfjudge.data.formats.messages import Reject
from selfjudge.data.formats.numbers import to_number
from selfjudge.data.formats.strength import from_scale, from_votes
from selfjudge.records import Preferred

LABEL_COLUMNS = ("label", "winner", "preference", "preferred")
SCALE_COLUMNS = ("overall_preference", "preference_strength")
SCALE = 3
"""HelpSteer's preferences go from -3 (the first answer is much better) to 3 (the second is)."""

_WORDS: dict[Preferred, tuple[str, ...]] = {
    "A": ("a", "modela", "responsea", "answera", "assistanta", "a>b", "a>>b"),
    "B": ("b", "modelb", "responseb", "answerb", "assistantb", "b>a", "b>>a"),
    "tie": ("tie", "a=b", "bothbad", "tiebothbad"),
}
_PREFERRED = {word: label for label, words in _WORDS.items() for word in words}
_NO_MATTER = re.compile(r"[\s_()\[\]]")
_ANNOTATOR = re.compile(r"annotator_?\d+")


@dataclass(frozen=True)
class Label:
    """The better of two answers, or a tie, and how strongly the label is held where the row tells."""

    preferred: Preferred
    strength: float | None = None


ReadLabel: TypeAlias = Callable[[Row], Label | None]
"""Returns a row's label, or None where the row has no label of this kind. Raises Reject for a malformed one."""


def words_in(*columns: str) -> ReadLabel:
    """Returns a reader of labels as words, from the first of ``columns`` that a row has: ``A``, ``model_b``, ``tie``.

    Upper and lower case, white space, ``_`` and brackets make no difference. Numbers are refused, as sets count
    from 0 or from 1.
    """

    def read(row: Row) -> Label | None:
        name = _present(row, columns)
        if name is None:
            return None
        value = row.get(name)
        word = _NO_MATTER.sub("", value.lower()) if isinstance(value, str) else ""
        if word not in _PREFERRED:
            raise Reject(f"{name} is not A, B or tie")
        return Label(_PREFERRED[word])

    return read


def one_of_three(row: Row) -> Label | None:
    """Returns the label of LMSYS's Kaggle sets: one 1 in ``winner_model_a``, ``winner_model_b``, ``winner_tie``."""
    columns = ("winner_model_a", "winner_model_b", "winner_tie")
    if _present(row, columns) is None:
        return None
    flags = [_flag(row.get(name)) for name in columns]
    if sorted(flags, key=str) != [0, 0, 1]:
        raise Reject(f"{', '.join(columns)} are not one 1 and two 0")
    return Label(("A", "B", "tie")[flags.index(1)])


def on_scale(row: Row) -> Label | None:
    """Returns the label of HelpSteer: a preference from -3 to 3, below 0 for the first answer, and its strength."""
    name = _present(row, SCALE_COLUMNS)
    if name is None:
        return None
    preference = to_number(row.get(name))
    if preference is None or abs(preference) > SCALE:
        raise Reject(f"{name} is not a number from -{SCALE} to {SCALE}")
    return Label(_side(preference), from_scale(preference, SCALE))


def single_votes(row: Row) -> Label | None:
    """Returns the label of HelpSteer's single annotators, ``individual_preference``: the side with the most votes."""
    values = row.data.get("individual_preference")
    if not isinstance(values, list | tuple) or not values:
        return None
    row.get("individual_preference")
    scores = [to_number(value.get("score") if isinstance(value, dict) else value) for value in values]
    if any(score is None or abs(score) > SCALE for score in scores):
        raise Reject(f"individual_preference has a score that is not a number from -{SCALE} to {SCALE}")
    return _most([score for score in scores if score is not None])


def annotators(row: Row) -> Label | None:
    """Returns the label of PandaLM: the votes ``annotator1``, ``annotator2``, …, 0 for a tie, 1 or 2 for an answer."""
    columns = [name for name in row.data if _ANNOTATOR.fullmatch(name) and row.data[name] is not None]
    votes = []
    for name in columns:
        number = to_number(row.get(name))
        if number not in (0, 1, 2):
            raise Reject(f"{name} is not 0, 1 or 2")
        votes.append((0, -1, 1)[int(number)])
    return _most(votes) if votes else None


def first_or_second(row: Row) -> Label | None:
    """Returns the label of AlpacaFarm and AlpacaEval: a ``preference`` of 1 or 2, or the belief in 2 plus 1 between.

    0 and 1.5 are ties. A word is read as :func:`words_in` reads it.
    """
    number = to_number(row.data.get("preference"))
    if number is None:
        return words_in("preference")(row)
    row.get("preference")
    if not (number == 0 or 1 <= number <= 2):
        raise Reject("preference is not a number from 1 to 2")
    if number in (0, 1.5):
        return Label("tie")
    second = number - 1
    return Label("B" if second > 0.5 else "A", None if second in (0, 1) else max(second, 1 - second))


def better_id(row: Row) -> Label | None:
    """Returns the label of SafeRLHF: ``better_response_id``, 0 for the first answer, 1 for the second."""
    if row.data.get("better_response_id") is None:
        return None
    number = to_number(row.get("better_response_id"))
    if number not in (0, 1):
        raise Reject("better_response_id is not 0 or 1")
    return Label("B" if number else "A")


def any_of(*readers: ReadLabel) -> ReadLabel:
    """Returns a reader of the first label that one of ``readers`` finds."""

    def read(row: Row) -> Label | None:
        return next((label for reader in readers if (label := reader(row)) is not None), None)

    return read


def _present(row: Row, columns: Sequence[str]) -> str | None:
    return next((name for name in columns if row.data.get(name) is not None), None)


def _flag(value: Any) -> float | None:
    return float(value) if isinstance(value, bool) else to_number(value)


def _side(preference: float) -> Preferred:
    return "tie" if preference == 0 else "A" if preference < 0 else "B"


def _most(votes: Sequence[float]) -> Label:
    """The label of votes: below 0 for the first answer, above 0 for the second."""
    return Label(_side(sum((vote > 0) - (vote < 0) for vote in votes)), from_votes(votes))
