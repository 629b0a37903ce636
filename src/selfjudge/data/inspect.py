"""What a preference source is like before anything is trained on it."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from selfjudge.core.statistics import Rate, proportion
from selfjudge.data.identity import answer_key
from selfjudge.data.label_bias import BiasCounter
from selfjudge.data.repeats import RepeatCounter, Repeats
from selfjudge.data.rows import build_judgment_rows, build_policy_rows
from selfjudge.data.sources import Loaded
from selfjudge.errors import DataError
from selfjudge.records import OVERALL, PreferenceRecord
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder

BIAS_PAIRS = 20_000
"""Pairs at most of which it is counted what their labels go with: the words of a text take long to look through."""

PERCENTILES = (0, 5, 25, 50, 75, 95, 99, 100)


class InspectReport(BaseModel):
    """The facts of a source.

    ``lengths``: for prompt, chosen and rejected the length at each of ``PERCENTILES``, in ``unit`` (a prompt's is
    the sum over its messages, without markup). ``turns``: number of user turns in the prompt → number of records.
    ``longer_chosen``: how often the longer response is the chosen one, the ``equal_lengths`` pairs counted as halves.
    ``label_bias``: see :class:`selfjudge.data.label_bias.BiasCounter`; of ``bias_pairs`` pairs, spread evenly over all.
    ``repeats``: what is said more than once.
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
    bias_pairs: int
    repeats: Repeats
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
    # One pass, which keeps numbers and keys alone: a source may be larger than the memory.
    prompts, chosen, rejected = array("q"), array("q"), array("q")
    principles: Counter[str] = Counter()
    turns: Counter[int] = Counter()
    bias, repeats = BiasCounter(), RepeatCounter()
    every = math.ceil(len(records) / BIAS_PAIRS)
    for place, record in enumerate(records):
        prompts.append(sum(count(message.content) for message in record.prompt))
        chosen.append(count(record.chosen))
        rejected.append(count(record.rejected))
        principles[record.principle] += 1
        turns[_user_turns(record)] += 1
        if place % every == 0:
            bias.add(record)
        repeats.add(record)
    totals = np.asarray(prompts) + np.asarray(chosen) + np.asarray(rejected)
    median = int(np.argsort(totals, kind="stable")[len(totals) // 2])
    rate, equal = longer_chosen(chosen, rejected)
    return InspectReport(
        format=loaded.format,
        rows=loaded.rows,
        records=len(records),
        principles=dict(principles.most_common()),
        dropped=loaded.reasons(),
        unit="tokens" if count_tokens else "characters",
        lengths={
            "prompt": percentiles(prompts),
            "chosen": percentiles(chosen),
            "rejected": percentiles(rejected),
        },
        turns=dict(sorted(turns.items())),
        longer_chosen=rate,
        equal_lengths=equal,
        label_bias=bias.rates(),
        bias_pairs=math.ceil(len(records) / every),
        repeats=repeats.counted(records),
        example=records[median],
    )


def count_rows(
    records: Iterable[PreferenceRecord], chat: ChatEncoder, encoder: JudgmentEncoder, max_length: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns how many (rows fit, rows would be dropped), of policy rows and of judgment rows.

    They are built record by record and let go of.
    """
    policy, judgment = [0, 0], [0, 0]
    seen: set[bytes] = set()
    for record in records:
        counted = [(judgment, build_judgment_rows([record], encoder, max_length))]
        if record.principle == OVERALL and (key := answer_key(record)) not in seen:
            seen.add(key)
            counted.append((policy, build_policy_rows([record], chat, max_length)))
        for count, built in counted:
            count[0] += len(built.rows)
            count[1] += len(built.dropped)
    return (policy[0], policy[1]), (judgment[0], judgment[1])


def percentiles(values: Sequence[int]) -> dict[int, int]:
    """The nearest-rank percentiles of ``values``: each is a value that occurs. ``values`` must not be empty."""
    ordered = np.sort(np.asarray(values))
    return {p: int(ordered[max(0, math.ceil(p / 100 * len(ordered)) - 1)]) for p in PERCENTILES}


def longer_chosen(chosen: Sequence[int], rejected: Sequence[int]) -> tuple[Rate, int]:
    """(share of pairs whose chosen side is the longer one, with its 95 % interval; number of equal lengths).

    Equal lengths count as halves: a judge that always takes the longer answer would have to guess there.
    """
    a, b = np.asarray(chosen), np.asarray(rejected)
    equal = int((a == b).sum())
    return proportion(int((a > b).sum()) + equal / 2, len(a)), equal


def _user_turns(record: PreferenceRecord) -> int:
    return sum(message.role == "user" for message in record.prompt)
