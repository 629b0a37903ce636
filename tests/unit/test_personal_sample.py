"""The sample that `data inspect` looks through."""

import pytest

from selfjudge.data.personal_sample import personal_data
from selfjudge.records import Message, PreferenceRecord

pytest.importorskip("presidio_analyzer", reason="the extra privacy is not installed")


def test_a_sample_at_even_distances_counts_records_by_kind() -> None:
    records = [
        PreferenceRecord(
            id=str(i),
            prompt=(Message(role="user", content="Who? x@example.com" if i == 4 else "Who?"),),
            chosen="203.0.113.7, 203.0.113.8 and y@example.com" if i == 0 else "me",
            rejected="z@example.com" if i % 2 else "you",  # never looked at
        )
        for i in range(9)
    ]
    found = personal_data(records, sample=5)
    assert found.model_dump() == {"sampled": 5, "records": 2, "kinds": {"EMAIL": 2, "IP": 1}}
    assert personal_data(records, sample=9).records == 6
    assert personal_data(records, sample=100).sampled == 9
