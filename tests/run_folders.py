"""Run folders made by hand, with figures that tests know."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def make_run(folder: Path, metrics: Iterable[dict[str, Any]] = (), recipe: str = "name: r\n", **info: Any) -> Path:
    """A run folder with a log; ``info`` goes into run.json."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"stage": "train", "recipe": "r", "status": "running", "started": "2026-01-02T03:04:05+00:00", **info}
    (folder / "recipe.yaml").write_text(recipe)
    (folder / "run.json").write_text(json.dumps(facts))
    log(folder, *metrics)
    return folder


def log(folder: Path, *rows: dict[str, Any], name: str = "metrics.jsonl") -> None:
    """Appends lines to a log of a run, as a run does."""
    with (folder / name).open("a", encoding="utf-8") as handle:
        handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def judged(
    step: int, a: str, b: str, preferred: str | None = "A", strength: float = 0.8, **fields: Any
) -> dict[str, Any]:
    """A line of rollouts.jsonl."""
    verdict = preferred and {"preferred": preferred, "strength": strength, "agree": True, **fields}
    return {"step": step, "prompt": f"Prompt {step}", "response_a": a, "response_b": b, "verdict": verdict}
