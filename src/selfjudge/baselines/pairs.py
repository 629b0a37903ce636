"""The data's own pairs as token ids: the very ids that a JSFT policy row of the same response has."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from selfjudge.data.load import PreparedData
from selfjudge.data.rows import DroppedRow
from selfjudge.data.store import Stored
from selfjudge.errors import DataError, RowError
from selfjudge.records import OVERALL, Message, PreferenceRecord
from selfjudge.templates.chat import ChatEncoder
from selfjudge.training.pairs import Pair


def overall_pairs(data: PreparedData) -> Stored[PreferenceRecord]:
    """Returns the pairs that JSFT's judgment rows are made from, those compared as a whole.

    Raises:
        DataError: if there is none.
    """
    records = data.judgment.select(np.flatnonzero(data.judgment.equal("principle", OVERALL)))
    if not records:
        raise DataError("The data has no pairs compared as a whole: give one of data.sources the use 'judgment'.")
    return records


def token_pair(record: PreferenceRecord, chat: ChatEncoder) -> Pair:
    """Returns prompt, chosen and rejected ids; both responses with the token that ends the turn."""
    prompt, chosen = response_ids(record.prompt, record.chosen, chat)
    _, rejected = response_ids(record.prompt, record.rejected, chat)
    return Pair(prompt, chosen, rejected, strength=1.0)


def response_ids(
    prompt: tuple[Message, ...], response: str, chat: ChatEncoder
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the ids before a response, and its own."""
    turn = chat.turns([*prompt, Message(role="assistant", content=response)])[-1]
    return tuple(turn.prompt), tuple(turn.answer)


def token_pairs(
    records: Iterable[PreferenceRecord], chat: ChatEncoder, max_length: int
) -> tuple[list[tuple[PreferenceRecord, Pair]], list[DroppedRow]]:
    """Returns the pairs of which both sides have at most ``max_length`` tokens, and what was left out.

    Raises:
        DataError: if none is left.
    """
    fitting: list[tuple[PreferenceRecord, Pair]] = []
    dropped: list[DroppedRow] = []
    for record in records:
        try:
            pair = token_pair(record, chat)
        except RowError as e:
            dropped.append(DroppedRow("pair", record.id, str(e)))
            continue
        if len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids)) <= max_length:
            fitting.append((record, pair))
        else:
            dropped.append(DroppedRow("pair", record.id, f"longer than {max_length} tokens"))
    if not fitting:
        too_long = f"longer than {max_length} tokens"
        reasons = sorted({row.reason for row in dropped})
        why = f"all are {too_long}" if reasons == [too_long] else ", ".join(reasons)
        raise DataError(f"No pair is left: {why}: raise data.max_length or check data.sources.")
    return fitting, dropped
