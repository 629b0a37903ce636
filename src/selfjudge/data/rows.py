"""JSFT rows at token level: policy rows (x → y_w) and judgment rows (C(x, y_a, y_b) → label).

Masks come from known lengths: ids are put together from a prompt and a target whose lengths are known, never found by
searching for token subsequences. What does not fit is named, with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from selfjudge.data.identity import answer_key, first_of_each
from selfjudge.errors import RowError
from selfjudge.records import OVERALL, Message, PreferenceRecord
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.refused import or_raise

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
    return or_raise(all_policy_rows([record], chat))[0]


def all_policy_rows(records: Sequence[PreferenceRecord], chat: ChatEncoder) -> list[list[Row] | RowError]:
    """Returns :func:`policy_rows` of each record, tokenized together; its error for one that is refused."""
    made = chat.all_dialogues([*record.prompt, Message(role="assistant", content=record.chosen)] for record in records)
    return [
        rows
        if isinstance(rows, RowError)
        else [
            Row("policy", record.id if len(rows) == 1 else f"{record.id}:{i}", row.ids, row.is_target)
            for i, row in enumerate(rows)
        ]
        for record, rows in zip(records, made, strict=True)
    ]


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
    return or_raise(all_judgment_rows([record], encoder, rationale=rationale, places=[place]))[0]


def all_judgment_rows(
    records: Sequence[PreferenceRecord], encoder: JudgmentEncoder, *, rationale: bool = False, places: Sequence[int]
) -> list[list[Row] | RowError]:
    """Returns :func:`judgment_rows` of each record, tokenized together; its error for one that is refused."""
    asked = [
        (record.principle, record.prompt, *shown)
        for record in records
        for shown in ((record.chosen, record.rejected), (record.rejected, record.chosen))
    ]
    prompts = encoder.try_prompts(asked)
    made: list[list[Row] | RowError] = []
    for place, record, ab, ba in zip(places, records, prompts[::2], prompts[1::2], strict=True):
        if isinstance(ab, RowError) or isinstance(ba, RowError):
            made.append(ab if isinstance(ab, RowError) else ba)  # type: ignore[arg-type]
            continue
        whys = _rationales(record, encoder, rationale)
        name = f"{record.id}:{record.principle}"
        rows = []
        for label, prompt, why in ((0, ab, whys[0]), (1, ba, whys[1])):
            target = (prompt.label_ids[label], *why)
            is_target = (False,) * len(prompt.token_ids) + (True,) * len(target)
            ids = (*prompt.token_ids, *target)
            rows.append(Row("judgment", f"{name}:{'AB'[:: 1 - 2 * label]}", ids, is_target, f"{place}:{name}"))
        made.append(rows)
    return made


def _rationales(record: PreferenceRecord, encoder: JudgmentEncoder, wanted: bool) -> tuple[list[int], list[int]]:
    """Returns the ids that follow the label in both orders: the evaluations, where they are wanted and there."""
    principle = encoder.principles[record.principle]
    first, second = record.chosen_rationale, record.rejected_rationale
    if not (wanted and first and second and principle.template.rationale):
        return [], []
    return principle.rationale_ids(first, second), principle.rationale_ids(second, first)


def policy_examples(
    records: Sequence[PreferenceRecord], chat: ChatEncoder, max_length: int
) -> list[tuple[Row, ...] | DroppedRow]:
    """Returns the policy rows of some records, each an example, and those that are dropped."""
    found: list[tuple[Row, ...] | DroppedRow] = []
    for record, rows in zip(records, all_policy_rows(records, chat), strict=True):
        if isinstance(rows, RowError):
            found.append(DroppedRow("policy", record.id, str(rows)))
        else:
            found += [(row,) if len(row.ids) <= max_length else _too_long(row, max_length) for row in rows]
    return found


def judgment_examples(
    records: Sequence[PreferenceRecord],
    encoder: JudgmentEncoder,
    max_length: int,
    *,
    rationale: bool = False,
    places: Sequence[int],
) -> list[tuple[Row, ...] | DroppedRow]:
    """Returns both orders of each pair as an example, and what is dropped: long rows, principles without a template.

    Seen together, the orders cancel what says nothing about quality: with the labels A and B once each, leaning to one
    of them gains nothing in any batch, and the gradient that is left is about the responses.
    """
    known = [i for i, record in enumerate(records) if record.principle in encoder.principles]
    made = all_judgment_rows(
        [records[i] for i in known], encoder, rationale=rationale, places=[places[i] for i in known]
    )
    rows_of = dict(zip(known, made, strict=True))
    found: list[tuple[Row, ...] | DroppedRow] = []
    for i, record in enumerate(records):
        rows = rows_of.get(i)
        if rows is None:
            reason = f"template set {encoder.templates.name!r} has no principle {record.principle!r}"
            found.append(DroppedRow("judgment", record.id, reason))
        elif isinstance(rows, RowError):
            found.append(DroppedRow("judgment", record.id, str(rows)))
        else:
            fitting = tuple(row for row in rows if len(row.ids) <= max_length)
            found += [fitting] if fitting else []
            found += [_too_long(row, max_length) for row in rows if len(row.ids) > max_length]
    return found


def _too_long(row: Row, max_length: int) -> DroppedRow:
    return DroppedRow(row.kind, row.name, f"longer than {max_length} tokens")


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


def build_policy_rows(records: Sequence[PreferenceRecord], chat: ChatEncoder, max_length: int) -> Rows:
    """Returns, in memory, the rows of each distinct (prompt, chosen) of the records that compare responses as a whole.

    For a run's rows see :mod:`selfjudge.data.encoded`.
    """
    whole = (record for record in records if record.principle == OVERALL)
    distinct = list(first_of_each(whole, answer_key))
    return _in_memory(policy_examples(distinct, chat, max_length))


def build_judgment_rows(
    records: Sequence[PreferenceRecord], encoder: JudgmentEncoder, max_length: int, *, rationale: bool = False
) -> Rows:
    """Returns, in memory, both orders of every pair whose principle the template set knows; pairs of others are named.

    For a run's rows see :mod:`selfjudge.data.encoded`.
    """
    places = range(len(records))
    return _in_memory(judgment_examples(records, encoder, max_length, rationale=rationale, places=places))


def _in_memory(found: Iterable[tuple[Row, ...] | DroppedRow]) -> Rows:
    rows: list[Row] = []
    dropped: list[DroppedRow] = []
    for each in found:
        if isinstance(each, DroppedRow):
            dropped.append(each)
        else:
            rows += each
    return Rows(tuple(rows), tuple(dropped))
