"""Our own files: one PreferenceRecord a line, as ``selfjudge data prepare`` writes them."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from selfjudge.data.formats.base import Format, Pairing, Parsed, Row, invalid, make_record
from selfjudge.data.formats.prompt_columns import in_context
from selfjudge.records import PreferenceRecord

_FIELDS = frozenset(PreferenceRecord.model_fields)


def _fits(data: dict[str, Any]) -> bool:
    texts = all(isinstance(data.get(name), str) for name in ("chosen", "rejected", "principle"))
    return texts and "id" in data and isinstance(data.get("prompt"), list)


def _parse(row: Row, pairing: Pairing) -> Parsed:
    try:
        record = PreferenceRecord.model_validate({name: row.get(name) for name in _FIELDS & row.data.keys()})
    except ValidationError as error:
        raise invalid(error) from None
    prompt = in_context(row, record.prompt)
    make_record(row, prompt, record.chosen, record.rejected)  # the checks that every other format passes
    yield record.model_copy(update={"prompt": prompt})


RECORDS = Format("records", ("id", "prompt", "chosen", "rejected"), _fits, _parse)
