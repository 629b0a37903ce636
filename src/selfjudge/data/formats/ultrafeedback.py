"""UltraFeedback in its original structure: completions with ratings and rationales for each of four principles."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from selfjudge.data.formats.base import Dropped, Format, Pairing, Parsed, Row, TieRule, make_record
from selfjudge.data.formats.messages import Reject, clean_text, is_text, read_prompt
from selfjudge.data.identity import folded
from selfjudge.records import OVERALL, Message

PRINCIPLES = ("helpfulness", "honesty", "instruction_following", "truthfulness")


@dataclass(frozen=True)
class _Rated:
    """A completion with its rating and rationale under one principle (or the mean rating, for all together)."""

    text: str
    rating: float
    rationale: str | None


def read_annotation(value: Any) -> tuple[float | None, str | None]:
    """(rating, rationale) of one principle. The rating is None for ``N/A``; repeated annotations are averaged.

    Helpfulness and truthfulness have two rationales, one for the type of flaw and one for the rating: the latter
    counts.
    """
    items = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]
    ratings = [rating for item in items if (rating := _number(item.get("Rating"))) is not None]
    texts = [item.get(name) for item in items for name in ("Rationale For Rating", "Rationale")]
    rationale = next((text for text in texts if is_text(text)), None)
    return (fmean(ratings) if ratings else None), rationale


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):  # "N/A", null, a whole number of hundreds of digits
        return None
    return number if math.isfinite(number) else None


def _rated(completions: Sequence[dict[str, Any]], principle: str) -> list[_Rated]:
    """The completions that have a rating under ``principle``."""
    found = []
    for completion in completions:
        annotations = completion.get("annotations")
        annotations = annotations if isinstance(annotations, dict) else {}
        by_name = {name: read_annotation(annotations.get(name)) for name in PRINCIPLES}
        if principle == OVERALL:
            ratings = [rating for rating, _ in by_name.values() if rating is not None]
            rating, rationale = (fmean(ratings) if ratings else None), None
        else:
            rating, rationale = by_name[principle]
        if rating is not None:
            found.append(_Rated(completion["response"], rating, rationale))
    return found


def choose_pair(rated: Sequence[_Rated], tie_rule: TieRule, draw: random.Random) -> tuple[_Rated, _Rated]:
    """The best answer and a random strictly worse one (method, section 1).

    With ``longer`` answers are ordered by (rating, length), as published; otherwise by rating alone, and ``draw``
    decides between equally good ones.

    Raises:
        Reject: fewer than two answers, or none is strictly worse.
    """
    if len(rated) < 2:
        raise Reject("fewer than two rated responses")

    def order(answer: _Rated) -> tuple[float, int]:
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


def _fits(data: dict[str, Any]) -> bool:
    completions = data.get("completions")
    if "instruction" not in data or not isinstance(completions, list):
        return False
    return all(isinstance(item, dict) and "annotations" in item for item in completions)


def _parse(row: Row, pairing: Pairing) -> Parsed:
    prompt = read_prompt(clean_text(row.column("instruction"), "instruction"))
    completions = row.column("completions")
    if not isinstance(completions, list):
        raise Reject("completions is not a list")
    usable = []
    for index, completion in enumerate(completions):
        reason = _flaw(completion)
        if reason is None:
            usable.append(completion)
        else:
            yield Dropped(f"{row.id}:completion-{index}", row.line, reason)
    for principle in (OVERALL, *(PRINCIPLES if pairing.pairs == "per_principle" else ())):
        yield from _pair(row, prompt, usable, principle, pairing)


def _flaw(completion: Any) -> str | None:
    """Why a completion cannot take part in any pair, or None."""
    text = completion.get("response") if isinstance(completion, dict) else None
    return None if is_text(text) else "a completion is empty or not text"


def _pair(
    row: Row, prompt: tuple[Message, ...], completions: list[dict[str, Any]], principle: str, pairing: Pairing
) -> Parsed:
    overall = principle == OVERALL
    suffix = "" if overall else f":{principle}"
    try:
        draw = random.Random(f"{pairing.seed}/{row.key}/{principle}")
        best, worse = choose_pair(_rated(completions, principle), pairing.tie_rule, draw)
        rationales = (best.rationale, worse.rationale)
        yield make_record(
            row, prompt, best.text, worse.text, principle=principle, rationales=rationales, id_suffix=suffix
        )
    except Reject as error:
        yield Dropped(row.id + suffix, row.line, str(error) if overall else f"{principle}: {error}")


ULTRAFEEDBACK = Format("ultrafeedback", ("instruction", "completions"), _fits, _parse)
