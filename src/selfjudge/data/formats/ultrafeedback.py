"""UltraFeedback in its original structure: completions with ratings and rationales for each of four principles."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from selfjudge.data.formats.base import Dropped, Format, Pairing, Parsed, Row, make_record
from selfjudge.data.formats.cells import read_turns
from selfjudge.data.formats.messages import Reject, check_turns, is_text
from selfjudge.data.formats.numbers import to_number
from selfjudge.data.formats.prompt_columns import in_context
from selfjudge.data.formats.ratings import Rated, choose_pair, ignore_fields
from selfjudge.data.formats.strength import from_ratings
from selfjudge.records import OVERALL, Message

PRINCIPLES = ("helpfulness", "honesty", "instruction_following", "truthfulness")


def read_annotation(value: Any) -> tuple[float | None, str | None]:
    """(rating, rationale) of one principle. The rating is None for ``N/A``; repeated annotations are averaged.

    Helpfulness and truthfulness have two rationales, one for the type of flaw and one for the rating: the latter
    counts.
    """
    items = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]
    ratings = [rating for item in items if (rating := to_number(item.get("Rating"))) is not None]
    texts = [item.get(name) for item in items for name in ("Rationale For Rating", "Rationale")]
    rationale = next((text for text in texts if is_text(text)), None)
    return (fmean(ratings) if ratings else None), rationale


def _rated(completions: Sequence[dict[str, Any]], principle: str) -> list[Rated]:
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
            found.append(Rated(completion["response"], rating, rationale))
    return found


def _fits(data: dict[str, Any]) -> bool:
    completions = data.get("completions")
    if "instruction" not in data or not isinstance(completions, list):
        return False
    return all(isinstance(item, dict) and "annotations" in item for item in completions)


def _parse(row: Row, pairing: Pairing) -> Parsed:
    prompt = in_context(row, read_turns(row, row.column("instruction"), "instruction", "user"))
    check_turns(prompt)
    completions = row.column("completions")
    if not isinstance(completions, list):
        raise Reject("completions is not a list")
    usable = []
    for index, completion in enumerate(completions):
        reason = _flaw(completion)
        if reason is None:
            usable.append(completion)
            ignore_fields(row, "completions", completion, ("response", "annotations"))
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
        yield make_record(
            row,
            prompt,
            best.text,
            worse.text,
            principle=principle,
            rationales=(best.rationale, worse.rationale),
            id_suffix=suffix,
            strength=from_ratings(best.rating, worse.rating),
        )
    except Reject as error:
        yield Dropped(row.id + suffix, row.line, str(error) if overall else f"{principle}: {error}")


ULTRAFEEDBACK = Format("ultrafeedback", ("instruction", "completions"), _fits, _parse)
