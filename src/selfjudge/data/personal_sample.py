"""Whether a source holds personal data, from a sample of its records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from selfjudge.data.personal import Finder
from selfjudge.records import PreferenceRecord

SAMPLE = 1000
"""Records looked at, at even distances: enough to see whether to anonymize, and a matter of seconds."""


class PersonalData(BaseModel):
    """Of ``sampled`` records, how many hold personal data at all (``records``), and of each kind. No names."""

    model_config = ConfigDict(frozen=True)

    sampled: int
    records: int
    kinds: dict[str, int]


def personal_data(records: Sequence[PreferenceRecord], sample: int = SAMPLE) -> PersonalData:
    """Looks through at most ``sample`` of the records by patterns alone.

    Raises:
        MissingExtraError: the extra ``privacy`` is not installed.
    """
    finder = Finder()
    step = max(1, -(-len(records) // sample))
    taken = range(0, len(records), step)
    kinds: Counter[str] = Counter()
    holding = 0
    for record in map(records.__getitem__, taken):
        texts = (*(message.content for message in record.prompt), record.chosen, record.rejected)
        found = {item.kind for text in texts for item in finder.find(text)}
        kinds.update(found)
        holding += bool(found)
    by_number = dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0])))
    return PersonalData(sampled=len(taken), records=holding, kinds=by_number)
