"""JSFT rows at token level: policy rows (x → y_w) and judgment rows (C(x, y_a, y_b) → label).

Masks come from known lengths: ids are put together from a prompt and a target whose lengths are known, never found by
searching for token subsequences. What does not fit is named, with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from selfjudge.data.identity import answer_key
from selfjudge.errors import RowError
from selfjudge.records import OVERALL, Message, PreferenceRecord
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder

Kind = Literal["policy", "judgment"]


@dataclass(frozen=True)
class Row:
    """One training row. ``is_target[i]`` says whether ``ids[i]`` is trained; ``name`` says where it came from.

    ``pair`` names what the two orders of a judgment have in common; a policy row stands alone and has none.
    """

    kind: Kind
    name: str
    ids: tuple[int, ...]
    is_target: tuple[bool, ...]
    pair: str | None = None


@dataclass(frozen=True)
class DroppedRow:
    """A row that was not built, and why. ``pair``: two responses to train on, neither of them alone."""

    kind: Kind | Literal["pair"]
    name: str
    reason: str


@dataclass(frozen=True)
class Rows:
    """Built rows and what was left out."""

    rows: tuple[Row, ...]
    dropped: tuple[DroppedRow, ...]


def policy_rows(record: PreferenceRecord, chat: ChatEncoder) -> list[Row]:
    """Returns the rows that train the chosen side: every assistant turn of the dialogue is a target.

    They share one row where the chat template keeps earlier turns as they are; else each turn has a row of its own.

    Raises:
        RowError: if the chat template refuses the dialogue.
    """
    rows = chat.dialogues([*record.prompt, Message(role="assistant", content=record.chosen)])
    names = [record.id] if len(rows) == 1 else [f"{record.id}:{i}" for i in range(len(rows))]
    return [Row("policy", name, row.ids, row.is_target) for name, row in zip(names, rows, strict=True)]


def judgment_rows(
    record: PreferenceRecord, encoder: JudgmentEncoder, *, rationale: bool = False, place: int = 0
) -> list[Row]:
    """Returns the two rows of a pair, one per order, under the record's principle.

    The target is the label token; with ``rationale`` and a record that has both, the label and then the evaluations
    of A and of B, so that judging by one token stays possible. ``place``: the record's among all, which tells pairs of
    one id apart.

    Raises:
        KeyError: if the template set has no template for the record's principle.
        RowError: if the chat template refuses the judgment prompt.
    """
    principle = encoder.principles[record.principle]
    with_rationale = (
        rationale and record.chosen_rationale and record.rejected_rationale and principle.template.rationale
    )
    sides = (record.chosen, record.chosen_rationale or ""), (record.rejected, record.rejected_rationale or "")
    rows = []
    for label, ((first, why_first), (second, why_second)) in enumerate((sides, sides[::-1])):
        prompt = principle.prompt(record.prompt, first, second)
        target = [prompt.label_ids[label]]
        if with_rationale:
            target += principle.rationale_ids(why_first, why_second)
        ids = (*prompt.token_ids, *target)
        is_target = (*(False for _ in prompt.token_ids), *(True for _ in target))
        name = f"{record.id}:{record.principle}"
        rows.append(Row("judgment", f"{name}:{'AB' if label == 0 else 'BA'}", ids, is_target, f"{place}:{name}"))
    return rows


def build_policy_rows(records: Iterable[PreferenceRecord], chat: ChatEncoder, max_length: int) -> Rows:
    """Returns the rows of each distinct (prompt, chosen) of the records that compare responses as a whole."""
    seen: set[bytes] = set()
    rows: list[Row] = []
    refused: list[DroppedRow] = []
    for record in records:
        key = answer_key(record)
        if record.principle == OVERALL and key not in seen:
            seen.add(key)
            try:
                rows += policy_rows(record, chat)
            except RowError as e:
                refused.append(DroppedRow("policy", record.id, str(e)))
    built = _fitting(rows, max_length)
    return Rows(built.rows, (*refused, *built.dropped))


def build_judgment_rows(
    records: Iterable[PreferenceRecord], encoder: JudgmentEncoder, max_length: int, *, rationale: bool = False
) -> Rows:
    """Returns both orders of every pair whose principle the template set knows; pairs of others are named."""
    rows: list[Row] = []
    left_out: list[DroppedRow] = []
    for place, record in enumerate(records):
        if record.principle in encoder.principles:
            try:
                rows += judgment_rows(record, encoder, rationale=rationale, place=place)
            except RowError as e:
                left_out.append(DroppedRow("judgment", record.id, str(e)))
        else:
            reason = f"template set {encoder.templates.name!r} has no principle {record.principle!r}"
            left_out.append(DroppedRow("judgment", record.id, reason))
    built = _fitting(rows, max_length)
    return Rows(built.rows, (*left_out, *built.dropped))


def examples(rows: Iterable[Row]) -> list[tuple[Row, ...]]:
    """Returns what is shuffled and batched as one: a policy row, or the two orders of a pair.

    Seen together, the orders cancel what says nothing about quality: with the labels A and B once each, leaning to one
    of them gains nothing in any batch, and the gradient that is left is about the responses.
    """
    grouped: list[tuple[Row, ...]] = []
    for row in rows:
        if row.pair is not None and grouped and grouped[-1][-1].pair == row.pair:
            grouped[-1] += (row,)
        else:
            grouped.append((row,))
    return grouped


def _fitting(rows: Sequence[Row], max_length: int) -> Rows:
    fits = tuple(row for row in rows if len(row.ids) <= max_length)
    long = tuple(
        DroppedRow(row.kind, row.name, f"longer than {max_length} tokens") for row in rows if len(row.ids) > max_length
    )
    return Rows(fits, long)
