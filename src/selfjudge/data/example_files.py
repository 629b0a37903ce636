"""Examples of rows in Arrow files, and the rows that were dropped: where they are targets is kept as spans."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from selfjudge.data.rows import DroppedRow, Row

if TYPE_CHECKING:
    from datasets import Features


def row_features() -> Features:
    """Returns the columns of an example, or of a row that is dropped."""
    from datasets import Features, List, Value

    texts, numbers = List(Value("string")), List(List(Value("int32")))
    return Features(
        {
            "kind": Value("string"),
            "pair": Value("string"),
            "names": texts,
            "ids": numbers,
            "targets": numbers,
            "rows": Value("int32"),
            "reason": Value("string"),
        }
    )


def example_columns(found: Sequence[tuple[Row, ...] | DroppedRow]) -> dict[str, list[Any]]:
    """Returns examples and dropped rows as values of :func:`row_features`."""
    return {
        "kind": [each.kind if isinstance(each, DroppedRow) else each[0].kind for each in found],
        "pair": [None if isinstance(each, DroppedRow) else each[0].pair for each in found],
        "names": [[each.name] if isinstance(each, DroppedRow) else [row.name for row in each] for each in found],
        "ids": [[] if isinstance(each, DroppedRow) else [row.ids for row in each] for each in found],
        "targets": [[] if isinstance(each, DroppedRow) else [_spans(row.is_target) for row in each] for each in found],
        "rows": [0 if isinstance(each, DroppedRow) else len(each) for each in found],
        "reason": [each.reason if isinstance(each, DroppedRow) else None for each in found],
    }


def _spans(is_target: tuple[bool, ...]) -> list[int]:
    """Returns start and end of each run of targets, one after the other."""
    spans: list[int] = []
    end = 0
    with suppress(ValueError):  # there is no further run, or the last one has no end
        while True:
            spans.append(start := is_target.index(True, end))
            spans.append(end := is_target.index(False, start))
    return spans if len(spans) % 2 == 0 else [*spans, len(is_target)]


def as_example(row: dict[str, Any]) -> tuple[Row, ...]:
    """Returns the example in a row of the file."""
    return tuple(
        Row(row["kind"], name, tuple(ids), _is_target(spans, len(ids)), row["pair"])
        for name, ids, spans in zip(row["names"], row["ids"], row["targets"], strict=True)
    )


def _is_target(spans: Sequence[int], length: int) -> tuple[bool, ...]:
    marks = np.zeros(length, dtype=bool)
    for start, end in zip(spans[::2], spans[1::2], strict=True):
        marks[start:end] = True
    return tuple(marks.tolist())


def as_dropped_row(row: dict[str, Any]) -> DroppedRow:
    """Returns the dropped row in a row of the file."""
    return DroppedRow(row["kind"], row["names"][0], row["reason"])
