"""Counterfactual data augmentation: pairs again, with names and genders exchanged, under the same label.

A judge that has seen both copies under one label gains nothing by looking at who a text is about (Zhao et al. 2018,
arXiv 1804.06876; Maudslay et al. 2019, arXiv 1909.00871).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from selfjudge.data.rows import DroppedRow
from selfjudge.data.swaps import swap_people
from selfjudge.records import PreferenceRecord

SUFFIX = ":swapped"


def counterfactuals(records: Iterable[PreferenceRecord]) -> tuple[list[PreferenceRecord], list[DroppedRow]]:
    """Returns the swapped copies of the records that name people, and those that were not made.

    A record with nothing to exchange has no copy. Nor has one that would not come back by exchanging again: there a
    word had two readings, and one of the two texts is wrong.
    """
    copies: list[PreferenceRecord] = []
    dropped: list[DroppedRow] = []
    for record in records:
        copy = _changed(record, swap_people)
        if copy == record:
            continue
        if _changed(copy, swap_people) != record:
            dropped.append(DroppedRow("judgment", record.id + SUFFIX, "exchanging people again gives another text"))
            continue
        copies.append(copy.model_copy(update={"id": record.id + SUFFIX}))
    return copies, dropped


def _changed(record: PreferenceRecord, change: Callable[[str], str]) -> PreferenceRecord:
    prompt = tuple(message.model_copy(update={"content": change(message.content)}) for message in record.prompt)
    texts = {
        name: change(text)
        for name in ("chosen", "rejected", "chosen_rationale", "rejected_rationale")
        if (text := getattr(record, name)) is not None
    }
    return record.model_copy(update={"prompt": prompt, **texts})
