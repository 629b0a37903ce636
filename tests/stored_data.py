"""Records as the data of a run."""

from __future__ import annotations

from collections.abc import Sequence

from selfjudge.data.load import PreparedData
from selfjudge.data.record_files import as_prompt
from selfjudge.data.sources import given_records
from selfjudge.data.store import Cache
from selfjudge.records import PreferenceRecord


def prepared_records(records: Sequence[PreferenceRecord]) -> PreparedData:
    """The records for every use, none of them held out."""
    cache = Cache()
    loaded = given_records(lambda: records, "given", 0, cache=cache)
    dropped = loaded.dropped.built(lambda row: row)
    every, none = loaded.records, loaded.records[:0]
    prompts = every.built(as_prompt)
    made_from = [record.model_dump() for record in records]
    return PreparedData(
        every, every, prompts, none, dropped, {"given": loaded.fingerprint}, {"given": len(every)}, made_from, cache
    )
