"""The difficulty of evaluation prompts, as AlpacaEval publishes it, for its length-controlled win rate."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfjudge.data.eval_prompts import EvalPrompt
from selfjudge.data.raw import position_word, read_rows
from selfjudge.errors import DataError

ID_COLUMNS = ("id", "index", "Unnamed: 0")
DIFFICULTY_COLUMNS = ("instruction_difficulty", "difficulty")


def load_difficulties(path: str | Path, prompts: Sequence[EvalPrompt]) -> list[float]:
    """Returns the difficulty of each prompt, in log-odds: a file's ``instruction_difficulty`` or ``difficulty``.

    A row belongs to the prompt with its ``id`` or ``index``, else to that of its position from 0. A prompt without an
    id has its position as well, so AlpacaEval's ``instruction_difficulty.csv`` and ``df_gamed.csv`` fit its prompts.
    Of prompts that share an id each has the row of its own place among them.

    Raises:
        DataError: the file cannot be read, a row has no difficulty or contradicts an earlier one, or a prompt has none.
    """
    times = Counter(prompt.id for prompt in prompts)
    found: dict[str, list[float]] = {}
    for position, (line, row) in enumerate(read_rows(path)):
        where = f"{path}, {position_word(path)} {line}"
        key, value = _key(row, position), _difficulty(row, where)
        values = found.setdefault(key, [])
        if len(values) < times[key]:
            values.append(value)
        elif times[key] and value not in values:
            raise DataError(f"{where}: another difficulty of prompt {key!r}; keep one of them.")
    missing = [prompt.id for prompt in prompts if not found.get(prompt.id)]
    if missing:
        raise DataError(
            f"{path} has no difficulty of {len(missing)} of {len(prompts)} prompts, the first of id {missing[0]!r}: "
            "its rows need the prompts' `id` or `index`; a prompt without an id has its position, from 0."
        )
    places: Counter[str] = Counter()
    difficulties = []
    for prompt in prompts:
        # Fewer rows than prompts of the id: the last is that of the rest.
        values = found[prompt.id]
        difficulties.append(values[min(places[prompt.id], len(values) - 1)])
        places[prompt.id] += 1
    return difficulties


def _key(row: Mapping[str, Any], position: int) -> str:
    return str(next((row[name] for name in ID_COLUMNS if row.get(name) is not None), position))


def _difficulty(row: Mapping[str, Any], where: str) -> float:
    column = next((name for name in DIFFICULTY_COLUMNS if row.get(name) is not None), None)
    if column is None:
        raise DataError(f"{where}: none of the columns {', '.join(DIFFICULTY_COLUMNS)}; add one of them.")
    try:
        value = float(row[column])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {column} is not a number; correct or remove this row.")
    return value
