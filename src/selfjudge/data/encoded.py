"""A run's rows and prompts as token ids: made once, by several workers, and kept in files that all processes map."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selfjudge.data.example_files import as_dropped_row, as_example, example_columns, row_features
from selfjudge.data.io import write_json
from selfjudge.data.load import policy_places
from selfjudge.data.record_files import as_prompt, as_record
from selfjudge.data.rows import DroppedRow, Kind, Row, judgment_examples, policy_examples
from selfjudge.data.store import Cache, Stored, joined, sync
from selfjudge.data.workers import one_thread_each, processors, worker_processes
from selfjudge.records import PreferenceRecord
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.fingerprint import chat_fingerprint, templates_fingerprint

if TYPE_CHECKING:
    from datasets import Dataset, Features

_BATCH = 128
"""Records that are tokenized together."""
_WRITTEN = 512
"""Rows that are written together: opening a file touches a page or more for each batch in it."""
_AT_A_TIME = 25_000
"""Records that are tokenized before what was made of them is safe: an interrupted start goes on behind them."""
_WORTH_A_WORKER = 1000
"""Records below which another process costs more than it saves."""
_FILES = "files.json"


@dataclass(frozen=True)
class Encoded:
    """JSFT's examples (a policy row, or the two orders of a pair), what was dropped, and the number of rows by kind."""

    examples: Stored[tuple[Row, ...]]
    dropped: Stored[DroppedRow]
    rows: dict[str, int]


def encode_policy_rows(
    records: Stored[PreferenceRecord], chat: ChatEncoder, max_length: int, made_from: Any, cache: Cache
) -> Encoded:
    """Returns the policy rows of records.

    Args:
        records: each with a row of its own, see :func:`selfjudge.data.load.policy_records`.
        chat: of the model.
        max_length: tokens of a row at most; longer ones are dropped and named.
        made_from: JSON value that tells the records from others.
        cache: where the rows are kept, and found again.
    """
    work = partial(_policy, chat=chat, max_length=max_length)
    folder = cache.folder("policy-rows", made_from, chat_fingerprint(chat), max_length)
    return _encoded(_mapped(records.dataset, work, row_features, folder, "Policy rows"), cache, "policy")


def encode_judgment_rows(
    records: Stored[PreferenceRecord],
    encoder: JudgmentEncoder,
    chat: ChatEncoder,
    max_length: int,
    made_from: Any,
    cache: Cache,
    *,
    rationale: bool = False,
) -> Encoded:
    """Returns both orders of every pair; arguments as of :func:`encode_policy_rows`."""
    work = partial(_judgments, encoder=encoder, max_length=max_length, rationale=rationale)
    made_with = [chat_fingerprint(chat), templates_fingerprint(encoder.templates), max_length, rationale]
    folder = cache.folder("judgment-rows", made_from, *made_with)
    return _encoded(_mapped(records.dataset, work, row_features, folder, "Judgment rows"), cache, "judgment")


def encode_rows(
    records: Stored[PreferenceRecord],
    encoder: JudgmentEncoder,
    chat: ChatEncoder,
    max_length: int,
    made_from: Any,
    cache: Cache,
    *,
    rationale: bool = False,
) -> Encoded:
    """Returns the policy rows of records and both orders of every pair, as :func:`both` does; texts are tokenized once.

    Arguments as of :func:`encode_policy_rows`; :func:`selfjudge.data.load.policy_places` are those with a policy row.
    """
    with_policy = np.zeros(len(records), dtype=bool)
    with_policy[policy_places(records)] = True
    work = partial(
        _both_kinds,
        chat=chat,
        encoder=encoder,
        max_length=max_length,
        rationale=rationale,
        with_policy=with_policy,
    )
    made_with = [chat_fingerprint(chat), templates_fingerprint(encoder.templates), max_length, rationale]
    folder = cache.folder("rows", made_from, *made_with)
    return _encoded(_mapped(records.dataset, work, row_features, folder, "Rows"), cache, "policy", "judgment")


def both(first: Encoded, second: Encoded) -> Encoded:
    """Returns the rows of two kinds as one."""
    examples, dropped = joined([first.examples, second.examples]), joined([first.dropped, second.dropped])
    return Encoded(examples, dropped, {**first.rows, **second.rows})


def encode_prompts(prompts: Stored[Any], chat: ChatEncoder, made_from: Any, cache: Cache) -> Stored[dict[str, Any]]:
    """Returns each prompt's row with ``place``, ``ids`` as far as where the policy answers, and ``reason``.

    ``reason`` says why the chat template refuses a prompt, else it is None. The file has ``length`` too, the number of
    ids. Arguments as of :func:`encode_policy_rows`; the rows of ``prompts`` have a column ``prompt``.
    """
    folder = cache.folder("prompts", made_from, chat_fingerprint(chat))
    only = prompts.dataset.select_columns("prompt")
    made = _mapped(only, partial(_prompts, chat=chat), _prompt_features, folder, "Prompts", keep=["prompt"])
    return Stored(made, dict, cache.owner)


def _encoded(dataset: Dataset, cache: Cache, *kinds: Kind) -> Encoded:
    """The rows in a dataset, those of the first kind before those of the second."""
    every = Stored(dataset, as_example, cache.owner)
    rows = every.numbers("rows")
    places = [np.flatnonzero(every.equal("kind", kind)) for kind in kinds] if len(rows) else []
    order = np.concatenate(places) if places else np.arange(0)
    kept, dropped = every.select(order[rows[order] > 0]), every.select(order[rows[order] == 0])
    counts = {kind: int(rows[places[i]].sum()) if places else 0 for i, kind in enumerate(kinds)}
    return Encoded(kept, dropped.built(as_dropped_row), counts)


def _mapped(
    dataset: Dataset,
    work: Callable[..., dict[str, list[Any]]],
    features: Callable[[], Features],
    folder: Path,
    name: str,
    keep: Sequence[str] = (),
) -> Dataset:
    """Returns what ``work`` makes of batches of rows: by several processes, or as it was found in ``folder``."""
    from datasets import Dataset

    types = features()
    types.update({column: dataset.features[column] for column in keep})
    if not len(dataset):
        return Dataset.from_dict({name: [] for name in types}, features=types)
    found = _listed(folder)
    if found is None:
        parts = [
            dataset.select(range(start, min(start + _AT_A_TIME, len(dataset))))
            for start in range(0, len(dataset), _AT_A_TIME)
        ]
        files: list[str] = []
        for number, part in enumerate(parts):
            made = _mapped_part(
                part,
                partial(work, first=number * _AT_A_TIME),
                types,
                folder / f"part-{number}.arrow",
                name if len(parts) == 1 else f"{name}, part {number + 1} of {len(parts)}",
                [column for column in dataset.column_names if column not in keep],
            )
            files += [Path(file["filename"]).name for file in made.cache_files]
        sync([folder / file for file in files])
        write_json(folder / _FILES, {"files": files})
        found = _listed(folder)
        assert found is not None
    return found


def _listed(folder: Path) -> Dataset | None:
    """Returns what was made before; None where nothing was, or where it is damaged: it then goes."""
    from datasets import Dataset, concatenate_datasets

    try:
        files = json.loads((folder / _FILES).read_text(encoding="utf-8"))["files"]
        return concatenate_datasets([Dataset.from_file(str(folder / file)) for file in files])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError):  # pyarrow's errors are ValueErrors
        shutil.rmtree(folder)
        folder.mkdir()
        return None


def _mapped_part(
    dataset: Dataset, work: Callable[..., Any], types: Features, file: Path, name: str, remove: list[str]
) -> Dataset:
    """Returns what ``work`` makes of a part. The workers end with it, and with them the memory of what they read."""
    workers = max(1, min(processors(), len(dataset) // _WORTH_A_WORKER))
    with one_thread_each(workers), worker_processes():
        return dataset.map(
            work,
            with_indices=True,
            batched=True,
            batch_size=_BATCH,
            writer_batch_size=_WRITTEN,
            num_proc=workers if workers > 1 else None,
            remove_columns=remove,
            features=types,
            cache_file_name=str(file),
            new_fingerprint=f"{file.parent.name}-{file.stem}",
            desc=name,
        )


def _prompt_features() -> Features:
    from datasets import Features, List, Value

    ids = List(Value("int32"))
    return Features({"place": Value("int64"), "ids": ids, "length": Value("int32"), "reason": Value("string")})


def _records(batch: dict[str, list[Any]]) -> list[PreferenceRecord]:
    return [as_record(dict(zip(batch, values, strict=True))) for values in zip(*batch.values(), strict=True)]


def _policy(
    batch: dict[str, list[Any]], places: list[int], first: int, chat: ChatEncoder, max_length: int
) -> dict[str, list[Any]]:
    return example_columns(policy_examples(_records(batch), chat, max_length))


def _judgments(
    batch: dict[str, list[Any]],
    places: list[int],
    first: int,
    encoder: JudgmentEncoder,
    max_length: int,
    rationale: bool,
) -> dict[str, list[Any]]:
    every = [first + place for place in places]
    return example_columns(judgment_examples(_records(batch), encoder, max_length, rationale=rationale, places=every))


def _both_kinds(
    batch: dict[str, list[Any]],
    places: list[int],
    first: int,
    chat: ChatEncoder,
    encoder: JudgmentEncoder,
    max_length: int,
    rationale: bool,
    with_policy: np.ndarray[Any, Any],
) -> dict[str, list[Any]]:
    records, every = _records(batch), [first + place for place in places]
    with chat.tokens.remembering():
        alone = [record for record, place in zip(records, every, strict=True) if with_policy[place]]
        policy = policy_examples(alone, chat, max_length)
        judgments = judgment_examples(records, encoder, max_length, rationale=rationale, places=every)
    return example_columns([*policy, *judgments])


def _prompts(batch: dict[str, list[Any]], places: list[int], first: int, chat: ChatEncoder) -> dict[str, list[Any]]:
    found = chat.try_prompt_ids([as_prompt({"prompt": prompt}) for prompt in batch["prompt"]])
    ids = [each if isinstance(each, list) else [] for each in found]
    reasons = [None if isinstance(each, list) else str(each) for each in found]
    return {"place": [first + place for place in places], "ids": ids, "length": [*map(len, ids)], "reason": reasons}
