"""Prints the figures that `selfjudge bench --json` wrote into a folder as a Markdown table: python table.py FOLDER."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# Heading → the figure, and how it is written.
COLUMNS = {
    "ratio": ("ratio", "{:.2f}"),
    "first turn": ("first_turn_ratio", "{:.2f}"),
    "ours": ("ours", "{:.4g}"),
    "published": ("published", "{:.4g}"),
    "unit": ("unit", "{}"),
    "share of ceiling": ("share_of_ceiling", "{:.2f}"),
    "memory, GiB": ("peak_memory_gib", "{:.1f}"),
    "memory ratio": ("peak_memory_ratio", "{:.2f}"),
    "padding": ("padding_share", "{:.2f}"),
    "prefix reuse": ("prefix_reuse", "{:.2f}"),
}


def table(folder: Path) -> str:
    """Returns a table with a row for each JSON file, under the machine that they were measured on."""
    rows = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}
    machines = sorted({f"{r['device']}, {r['dtype']}, torch {r['torch']}" for r in rows.values()})
    lines = [*machines, "", "| |" + "".join(f" {name} |" for name in COLUMNS), "| --- |" + " --- |" * len(COLUMNS)]
    return "\n".join([*lines, *(f"| {name} |" + "".join(_cells(row)) for name, row in rows.items())])


def _cells(row: dict[str, Any]) -> list[str]:
    return [f" {shape.format(row[name]) if name in row else '–'} |" for name, shape in COLUMNS.values()]


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
