"""Read votes in a format of your own, and train on them: first by a function, then by rows from Python.

    python examples/own_format.py OUTPUT_DIR

It makes a small file of votes, and trains the random model of the built-in small world for two steps: seconds on a CPU.
The function works on the command line as well:

    selfjudge data inspect OUTPUT_DIR/votes.jsonl --format own_format:votes      (in the folder examples/)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfjudge import Reject, load_preferences, load_recipe, run_jsft

ROWS = [
    {"question": "name two primes", "answers": ["2 and 7", "4 and 9", "8 and 9"], "votes": [3, 0, 1], "team": "north"},
    {"question": "name a colour", "answers": ["lovely", "blue"], "votes": [0, 2], "team": "south"},
    {"question": "name a fox", "answers": ["reynard", "a cat"], "votes": [1, 1], "team": "south"},
]


def votes(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields a pair of the answer with the most votes and each answer with fewer. A row without a winner is dropped."""
    most = max(row["votes"])
    if row["votes"].count(most) > 1:
        raise Reject("two answers have the most votes")
    best = row["answers"][row["votes"].index(most)]
    for answer, count in zip(row["answers"], row["votes"], strict=True):
        if count < most:
            strength = most / (most + count)
            yield {"prompt": row["question"], "chosen": best, "rejected": answer, "strength": strength}


def main(output_dir: Path) -> None:
    """Loads the votes, tells what became of them, and trains on the records."""
    output_dir.mkdir(parents=True, exist_ok=True)
    file = output_dir / "votes.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    loaded = load_preferences(file, format=votes)
    print(f"{loaded.rows} rows, {len(loaded.records)} pairs; dropped: {loaded.reasons()}")
    print("not used:", [column.name for column in loaded.unused])

    recipe = load_recipe("demo", ["jsft.training.max_steps=2", "jsft.training.per_device_train_batch_size=2"])
    run = run_jsft(recipe, output_dir / "jsft", rows=loaded.records)
    print(f"trained on {run.info['records']}; the model is in {run.model}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
