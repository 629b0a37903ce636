"""From a recipe's data section to the records of each use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from selfjudge.data.columns import Unused
from selfjudge.data.formats import Dropped
from selfjudge.data.raw import Rows
from selfjudge.data.record_files import as_dropped, as_prompt
from selfjudge.data.sources import Loaded, given_records, held_out_below, load_preferences
from selfjudge.data.store import Cache, Stored, joined
from selfjudge.recipes.schema import DataSection, SourceSection
from selfjudge.recipes.section import BUILTIN_WORLD
from selfjudge.records import OVERALL, Message, PreferenceRecord

WORLD_PAIRS = 20_000
"""Pairs of the built-in world where a recipe sets no limit."""


@dataclass(frozen=True)
class PreparedData:
    """Records by use, without those held out; ``held_out`` are the judgment pairs kept for measuring.

    ``policy`` and ``judgment`` are the same object where all sources serve both.

    ``prompts``: the distinct prompts for self-training. ``dropped``: source and item of each row that was left out.
    ``unused``: source and item of each column or field that no record has anything of.
    ``fingerprints``: source → SHA-256 of its records; ``records``: source → their number (see :func:`source_key`).
    All sequences lie in files of ``cache``; ``made_from`` is a JSON value that tells them from others.
    """

    policy: Stored[PreferenceRecord]
    judgment: Stored[PreferenceRecord]
    prompts: Stored[tuple[Message, ...]]
    held_out: Stored[PreferenceRecord]
    dropped: Stored[tuple[str, Dropped]]
    fingerprints: dict[str, str]
    records: dict[str, int]
    made_from: Any
    cache: Cache
    unused: tuple[tuple[str, Unused], ...] = ()


def load_source(
    source: SourceSection, data: DataSection, seed: int, cache: Cache | None = None, rows: Rows | None = None
) -> Loaded:
    """Loads one source of a recipe; ``builtin:world`` makes its pairs on the spot. ``rows`` take the place of its path.

    Raises:
        DataError: as :func:`selfjudge.data.sources.load_preferences`.
    """
    if rows is None and source.path == BUILTIN_WORLD:
        from selfjudge.world.people import preference_records

        count = source.limit or WORLD_PAIRS
        return given_records(lambda: preference_records(count, seed), "world", seed, count, cache=cache or Cache())
    return load_preferences(
        source.path if rows is None else rows,
        format=source.format,
        columns=source.columns,
        subset=source.subset,
        split=source.split,
        tie_rule=data.tie_rule,
        pairs=data.pairs,
        limit=source.limit,
        seed=seed,
        cache=cache,
    )


def prepare_data(data: DataSection, seed: int, cache: Cache | None = None, rows: Rows | None = None) -> PreparedData:
    """Loads all sources and splits them by use and prompt. ``rows`` take the place of the path of a single source.

    What is read lies in ``cache``, by default a temporary folder that goes with the last of the sequences.

    Raises:
        DataError: as :func:`load_source`.
    """
    cache = cache or Cache()
    below = held_out_below(data.held_out)
    parts: dict[str, list[Stored[PreferenceRecord]]] = {"policy": [], "judgment": [], "prompts": [], "held_out": []}
    dropped: list[Stored[Dropped]] = []
    unused: list[tuple[str, Unused]] = []
    fingerprints: dict[str, str] = {}
    records: dict[str, int] = {}
    for source in data.sources:
        loaded = load_source(source, data, seed, cache, rows)
        is_held = loaded.records.numbers("side") < below if below < 2**64 else np.ones(len(loaded.records), bool)
        train = loaded.records.select(np.flatnonzero(~is_held))
        for use in source.use:
            parts[use].append(train)
        if "judgment" in source.use:
            parts["held_out"].append(loaded.records.select(np.flatnonzero(is_held)))
        dropped.append(loaded.dropped)
        unused += [(source.path, item) for item in loaded.unused]
        fingerprints[source_key(source)] = loaded.fingerprint
        records[source_key(source)] = len(loaded.records)
        empty = loaded.records[:0]
    prompts = joined(parts["prompts"] or [empty])
    _, first = np.unique(prompts.numbers("prompt_key"), return_index=True)
    policy = joined(parts["policy"] or [empty])
    same = [*map(id, parts["policy"])] == [*map(id, parts["judgment"])]
    return PreparedData(
        policy=policy,
        judgment=policy if same else joined(parts["judgment"] or [empty]),
        prompts=prompts.select(np.sort(first)).built(as_prompt),
        held_out=joined(parts["held_out"] or [empty]),
        dropped=joined(dropped).built(lambda row: (row["origin"], as_dropped(row))),
        fingerprints=fingerprints,
        records=records,
        made_from=[[(s.path, fingerprints[source_key(s)], s.use) for s in data.sources], data.held_out, seed],
        cache=cache,
        unused=tuple(unused),
    )


def policy_places(records: Stored[PreferenceRecord]) -> np.ndarray[Any, Any]:
    """Returns the places of records with a policy row: the first of each prompt and chosen response, as a whole."""
    whole = np.flatnonzero(records.equal("principle", OVERALL))
    _, first = np.unique(records.numbers("policy_key")[whole], return_index=True)
    places: np.ndarray[Any, Any] = whole[np.sort(first)]
    return places


def policy_records(records: Stored[PreferenceRecord]) -> Stored[PreferenceRecord]:
    """Returns the records of :func:`policy_places`."""
    return records.select(policy_places(records))


def source_key(source: SourceSection) -> str:
    """Returns what a source is called in run.json: its path, and the subset where it has one."""
    return "/".join(filter(None, (source.path, source.subset)))
