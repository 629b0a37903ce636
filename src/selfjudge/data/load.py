"""From a recipe's data section to the records of each use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from selfjudge.data.columns import Unused
from selfjudge.data.sources import Dropped, Loaded, fingerprint, load_preferences, split_by_prompt
from selfjudge.recipes.schema import DataSection, SourceSection
from selfjudge.recipes.section import BUILTIN_WORLD
from selfjudge.records import Message, PreferenceRecord

WORLD_PAIRS = 20_000
"""Pairs of the built-in world where a recipe sets no limit."""


@dataclass(frozen=True)
class PreparedData:
    """Records by use, without those held out; ``held_out`` are the judgment pairs kept for measuring.

    ``prompts``: the distinct prompts for self-training. ``dropped``: source and item of each row that was left out.
    ``unused``: source and item of each column or field that no record has anything of.
    ``fingerprints``: source → SHA-256 of its records; ``records``: source → their number (see :func:`source_key`).
    """

    policy: tuple[PreferenceRecord, ...]
    judgment: tuple[PreferenceRecord, ...]
    prompts: tuple[tuple[Message, ...], ...]
    held_out: tuple[PreferenceRecord, ...]
    dropped: tuple[tuple[str, Dropped], ...]
    fingerprints: dict[str, str]
    records: dict[str, int]
    unused: tuple[tuple[str, Unused], ...] = ()


def load_source(source: SourceSection, data: DataSection, seed: int) -> Loaded:
    """Loads one source of a recipe; ``builtin:world`` makes its pairs on the spot.

    Raises:
        DataError: as :func:`selfjudge.data.sources.load_preferences`.
    """
    if source.path == BUILTIN_WORLD:
        from selfjudge.world.people import preference_records

        records = tuple(preference_records(source.limit or WORLD_PAIRS, seed))
        return Loaded(records, (), "world", len(records), fingerprint(records))
    return load_preferences(
        source.path,
        format=source.format,
        columns=source.columns,
        subset=source.subset,
        split=source.split,
        tie_rule=data.tie_rule,
        pairs=data.pairs,
        limit=source.limit,
        seed=seed,
    )


def prepare_data(data: DataSection, seed: int) -> PreparedData:
    """Loads all sources and splits them by use and prompt.

    Raises:
        DataError: as :func:`load_source`.
    """
    by_use: dict[str, list[PreferenceRecord]] = {"policy": [], "judgment": [], "prompts": []}
    held_out: list[PreferenceRecord] = []
    dropped: list[tuple[str, Dropped]] = []
    unused: list[tuple[str, Unused]] = []
    fingerprints: dict[str, str] = {}
    records: dict[str, int] = {}
    for source in data.sources:
        loaded = load_source(source, data, seed)
        train, held = split_by_prompt(loaded.records, data.held_out, seed)
        for use in source.use:
            by_use[use] += train
        if "judgment" in source.use:
            held_out += held
        dropped += [(source.path, item) for item in loaded.dropped]
        unused += [(source.path, item) for item in loaded.unused]
        fingerprints[source_key(source)] = loaded.fingerprint
        records[source_key(source)] = len(loaded.records)
    return PreparedData(
        policy=tuple(by_use["policy"]),
        judgment=tuple(by_use["judgment"]),
        prompts=_distinct_prompts(by_use["prompts"]),
        held_out=tuple(held_out),
        dropped=tuple(dropped),
        fingerprints=fingerprints,
        records=records,
        unused=tuple(unused),
    )


def source_key(source: SourceSection) -> str:
    """Returns what a source is called in run.json: its path, and the subset where it has one."""
    return "/".join(filter(None, (source.path, source.subset)))


def _distinct_prompts(records: Iterable[PreferenceRecord]) -> tuple[tuple[Message, ...], ...]:
    return tuple(dict.fromkeys(record.prompt for record in records))
