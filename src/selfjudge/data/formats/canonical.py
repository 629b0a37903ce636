"""Our own files: one PreferenceRecord a line, as ``selfjudge data prepare`` writes them."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from selfjudge.data.formats.base import Format, Pairing, Parsed, Row, make_record
from selfjudge.data.formats.messages import Reject
from selfjudge.records import PreferenceRecord

_FIELDS = frozenset(PreferenceRecord.model_fields)


def _fits(data: dict[str, Any]) -> bool:
    return {"id", "prompt", "chosen", "rejected", "principle"} <= data.keys() <= _FIELDS


def _parse(row: Row, pairing: Pairing) -> Parsed:
    try:
        record = PreferenceRecord.model_validate(row.data)
    except ValidationError as error:
        first = error.errors()[0]
        raise Reject(
            f"not a valid record ({'.'.join(map(str, first['loc'][:1])) or 'prompt'}: {first['msg']})"
        ) from None
    make_record(row, record.prompt, record.chosen, record.rejected)  # the checks that every other format passes
    yield record


RECORDS = Format("records", ("id", "prompt", "chosen", "rejected"), _fits, _parse)
