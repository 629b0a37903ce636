"""What a source says more than once, counted by hand."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any, overload

from selfjudge.data.inspect import count_rows, inspect
from selfjudge.data.repeats import RepeatCounter, Repeats
from selfjudge.data.rows import build_judgment_rows, build_policy_rows
from selfjudge.data.sources import Loaded
from selfjudge.engines.load import load_tokenizer
from selfjudge.records import Message, PreferenceRecord
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates


def pair(user: str, chosen: str, rejected: str, system: str | None = None, **values: Any) -> PreferenceRecord:
    prompt = [Message(role="user", content=user)]
    if system is not None:
        prompt.insert(0, Message(role="system", content=system))
    return PreferenceRecord(id="same", prompt=tuple(prompt), chosen=chosen, rejected=rejected, **values)


def repeats(records: Sequence[PreferenceRecord]) -> Repeats:
    counter = RepeatCounter()
    for record in records:
        counter.add(record)
    return counter.counted(records)


RECORDS = [
    pair("Which tree?", "Oak.", "Fern."),
    pair("Which tree?", "Oak.", "Fern."),  # as it is written
    pair("Which  tree?\r\n", "Oak.", "Fern. "),  # in another spelling
    pair("Which tree?", "Fern.", "Oak."),  # contradicts all three
    pair("Which tree?", "Fern.", "Oak.", principle="brevity"),  # contradicts none: another principle
    pair("Which tree?", "Oak.", "Fern.", "Be  brief."),  # another prompt
    pair("Which moss?", "Peat.", "Elm.", "Be brief."),
    pair("Which moss?", "Peat.", "Ash.", "Be long."),
]


def test_counts_by_hand() -> None:
    assert repeats(RECORDS) == Repeats(
        exact=1,
        near=1,
        contradictory=4,
        prompts=4,
        prompts_with_several=1,
        most_pairs=5,
        with_system=3,
        systems=2,
        common_system="Be  brief.",
        common_system_pairs=2,
    )


def test_a_source_that_says_all_once() -> None:
    found = repeats([pair("One?", "1.", "2."), pair("Two?", "2.", "1.")])
    assert (found.exact, found.near, found.contradictory, found.prompts_with_several) == (0, 0, 0, 0)
    assert (found.prompts, found.most_pairs, found.systems, found.common_system) == (2, 1, 0, None)
    assert repeats([]).most_pairs == 0


def test_of_equally_frequent_system_prompts_the_first_is_told() -> None:
    for order in (1, -1):
        records = [pair("Hi?", "Hi.", "No.", system) for system in ("Late.", "Early.")[::order]]
        assert repeats(records).common_system == records[0].prompt[0].content


def test_rows_are_counted_as_they_would_be_built() -> None:
    chat = load_tokenizer("builtin:world")
    encoder = JudgmentEncoder(load_templates("general"), chat)
    for limit in (20, 60, 70, 500):
        policy = build_policy_rows(RECORDS, chat, limit)
        judgment = build_judgment_rows(RECORDS, encoder, limit)
        assert count_rows(RECORDS, chat, encoder, limit) == (
            (len(policy.rows), len(policy.dropped)),
            (len(judgment.rows), len(judgment.dropped)),
        )


class Drawn(Sequence[PreferenceRecord]):
    """Long records that are made when they are asked for, as a file gives them."""

    def __init__(self, length: int) -> None:
        self.length, self.passes = length, 0

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> PreferenceRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PreferenceRecord]: ...
    def __getitem__(self, index: int | slice) -> PreferenceRecord | Sequence[PreferenceRecord]:
        assert isinstance(index, int), "a slice would hold records"
        return pair(f"Question {index}?", f"word{index} " * 300, f"text{index} " * 300, f"System {index}.")

    def __iter__(self) -> Iterator[PreferenceRecord]:
        self.passes += 1
        return (self[i] for i in range(self.length))


def test_inspecting_makes_one_pass_and_keeps_no_record() -> None:
    records = Drawn(1000)  # 6 MB of text
    tracemalloc.start()
    report = inspect(Loaded(records, (), "records", 1000, ""))  # type: ignore[arg-type]  # a sequence will do
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert records.passes == 1
    assert report.records == report.repeats.prompts == report.repeats.systems == 1000
    assert peak < 2_000_000
