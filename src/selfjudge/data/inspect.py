"""What a preference source is like before anything is trained on it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict

from selfjudge.core.statistics import Rate, proportion
from selfjudge.data.label_bias import label_bias
from selfjudge.data.sources import Loaded
from selfjudge.errors import DataError
from selfjudge.records import PreferenceRecord

PERCENTILES = (0, 5, 25, 50, 75, 95, 99, 100)


class InspectReport(BaseModel):
    """The facts of a source.

    ``lengths``: for prompt, chosen and rejected the length at each of ``PERCENTILES``, in ``unit`` (a prompt's is
    the sum over its messages, without markup). ``turns``: number of user turns in the prompt → number of records.
    ``longer_chosen``: how often the longer response is the chosen one, the ``equal_lengths`` pairs counted as halves.
    ``label_bias``: see :func:`selfjudge.data.label_bias.label_bias`.
    ``example``: a record of median total length, to be rendered.
    """

    model_config = ConfigDict(frozen=True)

    format: str
    rows: int
    records: int
    principles: dict[str, int]
    dropped: dict[str, int]
    unit: str
    lengths: dict[str, dict[int, int]]
    turns: dict[int, int]
    longer_chosen: Rate
    equal_lengths: int
    label_bias: dict[str, Rate]
    example: PreferenceRecord


def inspect(loaded: Loaded, count_tokens: Callable[[str], int] | None = None) -> InspectReport:
    """The report on a loaded source; lengths are in characters, or in tokens if ``count_tokens`` is given.

    Raises:
        DataError: there is no record to report on.
    """
    records = loaded.records
    if not records:
        raise DataError("there is no record to inspect; load a source that has some.")
    count = count_tokens or len
    prompts = [sum(count(message.content) for message in record.prompt) for record in records]
    chosen = [count(record.chosen) for record in records]
    rejected = [count(record.rejected) for record in records]
    totals = [sum(parts) for parts in zip(prompts, chosen, rejected, strict=True)]
    rate, equal = longer_chosen(chosen, rejected)
    return InspectReport(
        format=loaded.format,
        rows=loaded.rows,
        records=len(records),
        principles=dict(Counter(record.principle for record in records).most_common()),
        dropped=loaded.reasons(),
        unit="tokens" if count_tokens else "characters",
        lengths={
            "prompt": percentiles(prompts),
            "chosen": percentiles(chosen),
            "rejected": percentiles(rejected),
        },
        turns=dict(sorted(Counter(_user_turns(record) for record in records).items())),
        longer_chosen=rate,
        equal_lengths=equal,
        label_bias=label_bias(records),
        example=records[sorted(range(len(records)), key=totals.__getitem__)[len(records) // 2]],
    )


def percentiles(values: Sequence[int]) -> dict[int, int]:
    """The nearest-rank percentiles of ``values``: each is a value that occurs. ``values`` must not be empty."""
    ordered = sorted(values)
    return {p: ordered[max(0, math.ceil(p / 100 * len(ordered)) - 1)] for p in PERCENTILES}


def longer_chosen(chosen: Sequence[int], rejected: Sequence[int]) -> tuple[Rate, int]:
    """(share of pairs whose chosen side is the longer one, with its 95 % interval; number of equal lengths).

    Equal lengths count as halves: a judge that always takes the longer answer would have to guess there.
    """
    pairs = list(zip(chosen, rejected, strict=True))
    equal = sum(a == b for a, b in pairs)
    return proportion(sum(a > b for a, b in pairs) + equal / 2, len(pairs)), equal


def _user_turns(record: PreferenceRecord) -> int:
    return sum(message.role == "user" for message in record.prompt)
