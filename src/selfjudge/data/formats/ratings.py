"""From several rated answers to one pair: what UltraFeedback and every list of rated or ranked answers share."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfjudge.data.formats.base import Row, TieRule
from selfjudge.data.formats.messages import Reject
from selfjudge.data.identity import folded


@dataclass(frozen=True)
class Rated:
    """An answer with its rating, in points, and the reason for the rating where there is one."""

    text: str
    rating: float
    rationale: str | None = None


def choose_pair(rated: Sequence[Rated], tie_rule: TieRule, draw: random.Random) -> tuple[Rated, Rated]:
    """The best answer and a random strictly worse one (method, section 1).

    With ``longer`` answers are ordered by (rating, length), as published; otherwise by rating alone, and ``draw``
    decides between equally good ones.

    Raises:
        Reject: fewer than two answers, or none is strictly worse.
    """
    if len(rated) < 2:
        raise Reject("fewer than two rated responses")

    def order(answer: Rated) -> tuple[float, int]:
        return answer.rating, len(answer.text) if tie_rule == "longer" else 0

    top = max(order(answer) for answer in rated)
    best = draw.choice([answer for answer in rated if order(answer) == top])
    worse = [answer for answer in rated if order(answer) < top]
    if not worse:
        raise Reject("all ratings are equal" if tie_rule == "drop" else "all ratings and lengths are equal")
    different = [answer for answer in worse if folded(answer.text) != folded(best.text)]
    if not different:
        raise Reject("identical responses")
    return best, draw.choice(different)


def ignore_fields(row: Row, column: str, item: Mapping[str, Any], used: Sequence[str]) -> None:
    """Notes the fields of an item in a list that no format uses, as ``column[].field``."""
    for name, value in item.items():
        if value is not None and name not in used:
            row.ignored.setdefault(f"{column}[].{name}", value)
