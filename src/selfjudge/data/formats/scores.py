"""The scores of two answers in columns beside them, and what they say about the label."""

from __future__ import annotations

from selfjudge.data.formats.base import Row, TieRule
from selfjudge.data.formats.messages import Reject
from selfjudge.data.formats.numbers import to_number
from selfjudge.data.formats.pairs import Split
from selfjudge.data.formats.strength import UNDECIDED, from_ratings

SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"),
)
MARGIN = "margin"
"""By how much ``chosen`` is better, in points."""


def by_scores(row: Row, pair: Split, tie_rule: TieRule) -> tuple[Split, float | None]:
    """Returns the pair in the order of the row's scores, and its strength; as it is, and None, without scores.

    Raises:
        Reject: the scores are against the label, or equal and not to be ordered by length.
    """
    scores = read_scores(row)
    if scores is None:
        return pair, None
    better, worse = scores
    if better < worse:
        raise Reject("chosen scored below rejected")
    if better > worse:
        return pair, from_ratings(better, worse)
    if tie_rule == "drop":
        raise Reject("equal scores")
    prompt, chosen, rejected = pair
    if len(chosen) == len(rejected):
        raise Reject("equal scores and lengths")
    return (pair if len(chosen) > len(rejected) else (prompt, rejected, chosen)), UNDECIDED


def read_scores(row: Row) -> tuple[float, float] | None:
    """Returns the scores of the two answers, or None; a margin is the score of one over the other's 0.

    Only two numbers count. A score beside a missing one, or beside a text, is left unread.
    """
    for names in SCORES:
        better, worse = (to_number(row.data.get(name)) for name in names)
        if better is not None and worse is not None:
            for name in names:
                row.get(name)
            return better, worse
    margin = to_number(row.data.get(MARGIN))
    return None if margin is None else (to_number(row.get(MARGIN)) or 0.0, 0.0)
