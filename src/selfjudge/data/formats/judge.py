"""Two answers and a label which of them is better: judge files, and the sets of others that have this form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from selfjudge.data.formats.base import Format, Pairing, Parsed, Row, TieRule, make_record, own_id
from selfjudge.data.formats.labels import (
    LABEL_COLUMNS,
    SCALE_COLUMNS,
    Label,
    ReadLabel,
    annotators,
    any_of,
    better_id,
    first_or_second,
    on_scale,
    one_of_three,
    single_votes,
    words_in,
)
from selfjudge.data.formats.messages import Reject, check_turns
from selfjudge.data.formats.pairs import Split
from selfjudge.data.formats.strength import UNDECIDED
from selfjudge.data.formats.two_answers import SIDES, find_sides, read_answers
from selfjudge.data.formats.two_scores import (
    SCORE_COLUMNS,
    SHP_SIDES,
    higher_score,
    shp_label,
    with_prompt,
)
from selfjudge.records import Comparison


@dataclass(frozen=True)
class _Kind:
    """A form of two answers and a label: the columns of the answers, of the label, and how the label is read."""

    name: str
    sides: tuple[tuple[str, str], ...]
    label_columns: tuple[str, ...]
    label: ReadLabel

    def fits(self, data: dict[str, Any]) -> bool:
        """Whether a row has both answers and a label of this kind."""
        if find_sides(data, self.sides) is None:
            return False
        try:
            return self.label(Row(data, 0, 0, "")) is not None
        except Reject:
            return True

    def read(self, row: Row) -> Split:
        """The prompt and both answers."""
        return read_answers(with_prompt(row), find_sides(row.data, self.sides) or self.sides[0])

    def parse(self, row: Row, pairing: Pairing) -> Parsed:
        """The record of a row."""
        prompt, a, b = self.read(row)
        label = self.label(row)
        if label is None:
            raise Reject("no label")
        chosen, rejected, strength = _in_order(label, a, b, pairing.tie_rule)
        yield make_record(row, prompt, chosen, rejected, strength=strength)

    def format(self) -> Format:
        """The format of this kind."""
        first, second = (tuple(side) for side in zip(*self.sides, strict=True))
        return Format(self.name, (first, second, self.label_columns), self.fits, self.parse)


class _Judge(_Kind):
    """Judge files, where the label may be missing: an answer to judge rather than to train on."""

    def fits(self, data: dict[str, Any]) -> bool:
        """Whether a row has both answers, and a label or no other pair of answers."""
        return find_sides(data, self.sides) is not None and (super().fits(data) or "chosen" not in data)


_OWN = ("response_a", "response_b")
_NUMBERED = (("response1", "response2"), ("response_1", "response_2"))
_KINDS = (
    _Kind(
        "arena",
        (("conversation_a", "conversation_b"), _OWN),
        ("winner", "winner_model_a"),
        any_of(words_in("winner"), one_of_three),
    ),
    _Kind("helpsteer", _NUMBERED, (*SCALE_COLUMNS, "individual_preference"), any_of(on_scale, single_votes)),
    _Kind("safe_rlhf", (("response_0", "response_1"),), ("better_response_id",), better_id),
    _Kind("alpaca_farm", (("output_1", "output_2"),), ("preference",), first_or_second),
    _Kind("pandalm", _NUMBERED, ("annotator1",), annotators),
    _Kind("shp", (SHP_SIDES,), ("labels",), shp_label),
    _Kind("two_scores", tuple(SIDES), SCORE_COLUMNS, higher_score),
)
_JUDGE = _Judge("judge", tuple(SIDES), LABEL_COLUMNS, words_in(*LABEL_COLUMNS))

JUDGE = _JUDGE.format()
TWO_ANSWERS = (*(kind.format() for kind in _KINDS), JUDGE)
"""Every format of two answers and a label, the most specific first."""


def read_comparison(row: Row) -> Comparison:
    """The row as a pair for the judge; ``id`` defaults to the index as text, the label may be missing.

    Raises:
        Reject: a column is missing or malformed.
    """
    kind = next((kind for kind in _KINDS if kind.fits(row.data)), _JUDGE)
    prompt, a, b = kind.read(row)
    check_turns(prompt)
    label = kind.label(row)
    return Comparison(
        id=own_id(row.data) or str(row.index),
        prompt=prompt,
        response_a=a,
        response_b=b,
        label=None if label is None else label.preferred,
    )


def _in_order(label: Label, a: str, b: str, tie_rule: TieRule) -> tuple[str, str, float | None]:
    """(chosen, rejected, strength): the labelled order, or for a tie under ``longer`` that of the lengths."""
    if label.preferred != "tie":
        return (a, b, label.strength) if label.preferred == "A" else (b, a, label.strength)
    if tie_rule == "drop":
        raise Reject("label is tie")
    if len(a) == len(b):
        raise Reject("label is tie, lengths are equal")
    return (a, b, UNDECIDED) if len(a) > len(b) else (b, a, UNDECIDED)
