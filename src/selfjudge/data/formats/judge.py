"""Judge files: ``prompt``, ``response_a``, ``response_b`` and the ``label`` A, B or tie."""

from __future__ import annotations

from typing import Any, get_args

from selfjudge.data.formats.base import Format, Pairing, Parsed, Row, make_record, own_id
from selfjudge.data.formats.messages import Reject, clean_text, read_prompt
from selfjudge.records import Comparison, Preferred


def read_comparison(row: Row) -> Comparison:
    """The row as a pair for the judge; ``id`` defaults to the index as text, ``label`` may be missing.

    Raises:
        Reject: a column is missing or malformed.
    """
    label = row.get("label")
    if label is not None and label not in get_args(Preferred):
        raise Reject("label is not A, B or tie")
    return Comparison(
        id=own_id(row.data) or str(row.index),
        prompt=read_prompt(row.column("prompt")),
        response_a=clean_text(row.column("response_a"), "response_a"),
        response_b=clean_text(row.column("response_b"), "response_b"),
        label=label,
    )


def _fits(data: dict[str, Any]) -> bool:
    return isinstance(data.get("response_a"), str) and isinstance(data.get("response_b"), str) and "prompt" in data


def _parse(row: Row, pairing: Pairing) -> Parsed:
    pair = read_comparison(row)
    if pair.label is None:
        raise Reject("no label")
    if pair.label == "tie":
        raise Reject("label is tie")
    a_wins = pair.label == "A"
    chosen, rejected = (pair.response_a, pair.response_b) if a_wins else (pair.response_b, pair.response_a)
    yield make_record(row, pair.prompt, chosen, rejected)


JUDGE = Format("judge", ("prompt", "response_a", "response_b", "label"), _fits, _parse)
