"""Prints the tables of docs/performance.md about a GPU from docs/results/gpu.json: python benchmarks/gpu_tables.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# What is wanted of the ratio at 135m and at 7b.
WANTED = {"judge": (15, 3.5), "tournament": (25, 5), "step": (15, 7), "jsft": (3, None)}


def tables(found: dict[str, Any]) -> str:
    """Returns the figures of every task; what the time went into; seconds before and after the host was relieved."""
    return "\n\n".join([_figures(found), _kernels(found), _relieved(found)])


def _figures(found: dict[str, Any]) -> str:
    lines = [
        "| | ours | published | ratio | wanted | share of ceiling | padding | GiB | of the published GiB |",
        "| --- |" + " --- |" * 8,
    ]
    for name, row in {**found["bench"], **found["bench_before"]}.items():
        shape, task = name.split("-", 1)
        wanted = WANTED.get(task, (None, None))[shape == "7b"]
        other = row.get("published", row.get("fourfold"))
        cells = [
            f"{row['ours']:.4g} {row['unit']}",
            f"{other:.4g}" if other else "–",
            f"{row['ratio']:.2f}" if "ratio" in row else "–",
            f"{wanted}" if wanted else "–",
            f"{row['share_of_ceiling']:.2f}",
            f"{row['padding_share']:.2f}" if "padding_share" in row else "–",
            f"{row['peak_memory_gib']:.1f}",
            f"{row['peak_memory_ratio']:.2f}" if "peak_memory_ratio" in row and task != "scaling" else "–",
        ]
        lines.append(f"| {shape}, `{task}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _kernels(found: dict[str, Any]) -> str:
    kinds = list(dict.fromkeys(kind for row in found["profiles_before"] for kind in row["by_kind"]))[:6]
    lines = [
        "| | seconds | kernels | their seconds | " + " | ".join(kinds) + " |",
        "| --- |" + " --- |" * (3 + len(kinds)),
    ]
    for row in found["profiles_before"]:
        spent = [f"{row['by_kind'].get(kind, [0, 0])[1]:.3f}" for kind in kinds]
        cells = [f"{row['seconds']:.2f}", f"{row['kernels']:,}", f"{row['kernel_seconds']:.3f}", *spent]
        lines.append(f"| {row['shape']}, `{row['task']}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _relieved(found: dict[str, Any]) -> str:
    lines = ["| | before, s | after, s |", "| --- | --- | --- |"]
    for row in found["bench_between"]:
        task = {"step with checkpointing": "step-checkpointing"}.get(row["task"], row["task"])
        after = found["bench"].get(f"{row['shape']}-{task}")
        if after and after["size"] == row["size"]:
            amount = 1 if task.startswith("step") else row["size"]
            lines.append(f"| {row['shape']}, `{task}` | {row['seconds']:.2f} | {amount / after['ours']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    file = Path(__file__).parents[1] / "docs" / "results" / "gpu.json"
    print(tables(json.loads(file.read_text(encoding="utf-8"))))
