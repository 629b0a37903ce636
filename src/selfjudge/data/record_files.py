"""Preference records in Arrow files, with what decides where each of them belongs."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from selfjudge.data.formats import Dropped
from selfjudge.data.identity import answer_key, folded, prompt_key
from selfjudge.records import Message, PreferenceRecord

if TYPE_CHECKING:
    import pyarrow as pa

_FIELDS = tuple(PreferenceRecord.model_fields)


def messages_type() -> pa.DataType:
    """Returns the type of a list of messages."""
    import pyarrow as pa

    return pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def record_schema() -> pa.Schema:
    """Returns the columns of a record: its fields, and three numbers.

    They are :func:`side` under the seed, and the keys of its prompt and of its policy row (prompt and chosen response),
    see :mod:`selfjudge.data.identity`.
    """
    import pyarrow as pa

    types = {"prompt": messages_type(), "strength": pa.float64()}
    numbers = ("side", "prompt_key", "policy_key")
    fields = [(name, types.get(name, pa.string())) for name in _FIELDS]
    return pa.schema([*fields, *((name, pa.uint64()) for name in numbers)])


def dropped_schema() -> pa.Schema:
    """Returns the columns of something dropped; ``origin`` is the source that it is from."""
    import pyarrow as pa

    return pa.schema([("origin", pa.string()), ("id", pa.string()), ("line", pa.int64()), ("reason", pa.string())])


def record_row(record: PreferenceRecord, seed: int) -> dict[str, Any]:
    """Returns a record as a row of :func:`record_schema`."""
    return {
        **record.model_dump(),
        "side": side(record, seed),
        "prompt_key": _number(prompt_key(record.prompt)),
        "policy_key": _number(answer_key(record)),
    }


def as_record(row: dict[str, Any]) -> PreferenceRecord:
    """Returns the record of a row."""
    return PreferenceRecord.model_validate({name: row[name] for name in _FIELDS})


def as_prompt(row: dict[str, Any]) -> tuple[Message, ...]:
    """Returns the prompt of a row."""
    return tuple(Message.model_validate(message) for message in row["prompt"])


def as_dropped(row: dict[str, Any]) -> Dropped:
    """Returns what was dropped, without where from."""
    return Dropped(row["id"], row["line"], row["reason"])


def side(record: PreferenceRecord, seed: int) -> int:
    """Returns a number of 64 bits that decides whether a record is held out: drawn by its first user message."""
    first = folded(next(message.content for message in record.prompt if message.role == "user"))
    return _number(hashlib.sha256(f"{seed}\n{first}".encode()).digest())


def _number(digest: bytes) -> int:
    """Of five million texts, two share a number with a probability below one in a million."""
    return int.from_bytes(digest[:8], "big")
