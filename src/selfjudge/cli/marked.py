"""Training rows as text, with what is trained between » and «."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selfjudge.data.rows import Row
    from selfjudge.records import PreferenceRecord
    from selfjudge.templates.chat import ChatEncoder


def marked(row: Row, chat: ChatEncoder) -> str:
    """Returns the row's text with its target tokens between » and «."""
    text = ""
    for is_target, group in groupby(zip(row.ids, row.is_target, strict=True), key=lambda pair: pair[1]):
        piece = chat.tokenizer.decode([token for token, _ in group])
        text += f"»{piece}«" if is_target else piece
    return text


def policy_rows_shown(record: PreferenceRecord, chat: ChatEncoder) -> list[tuple[str, Row]]:
    """Returns a record's policy rows with their titles.

    Raises:
        RowError: if the chat template refuses the record.
    """
    from selfjudge.data.rows import policy_rows

    rows = policy_rows(record, chat)
    if len(rows) == 1:
        return [("Policy row", rows[0])]
    return [(f"Policy row {i} of {len(rows)}, a turn each", row) for i, row in enumerate(rows, 1)]
