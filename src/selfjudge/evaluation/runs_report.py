"""Several runs on one page: what they are, what their recipes have different, and their curves in the same charts."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from selfjudge.core.statistics import Rate
from selfjudge.evaluation.page import Section, write_page
from selfjudge.evaluation.plots import Series, line_chart
from selfjudge.evaluation.report import rows_of, run_info
from selfjudge.training.curves import CURVES

SHOWN_PAIRS = 2


def write_runs_report(runs: Sequence[Path], output: Path, *, overwrite: bool) -> Path:
    """Draws the runs on one page and returns where it was written.

    Raises:
        RunError: if a folder holds no run, or ``output`` exists and ``overwrite`` is false.
    """
    infos = [run_info(run) for run in runs]
    names = _names(runs)
    metrics = {name: rows_of(run / "metrics.jsonl") for name, run in zip(names, runs, strict=True)}
    recipes = [flat(yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))) for run in runs]
    sections = [
        Section("Runs", table=_facts(names, infos)),
        Section("What their recipes have different", table=different(names, recipes)),
        Section("Curves", charts=_charts(metrics)),
        Section("Judged pairs", "The last of each run.", examples=_pairs(names, runs)),
    ]
    write_page(output, f"{len(runs)} runs", [], [s for s in sections if s.table or s.charts or s.examples], overwrite)
    return output


def flat(settings: Any, at: str = "") -> dict[str, Any]:
    """Returns the settings of nested mappings by dotted keys; lists are values."""
    if not isinstance(settings, dict) or not settings:
        return {at: settings}
    return {k: v for key, value in settings.items() for k, v in flat(value, f"{at}.{key}" if at else str(key)).items()}


def different(names: Sequence[str], recipes: Sequence[dict[str, Any]]) -> list[tuple[object, ...]]:
    """Returns a table of the settings that are not the same in all recipes; nothing where they all are."""
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    values = {key: [recipe.get(key) for recipe in recipes] for key in keys}
    rows = [(key, *row) for key, row in values.items() if any(value != row[0] for value in row)]
    return [("", *names), *rows] if rows else []


def _names(runs: Sequence[Path]) -> list[str]:
    """Returns the runs' folders without what they all begin with."""
    folders = [run.resolve() for run in runs]
    shared = os.path.commonpath([folder.parent for folder in folders])
    return [str(folder.relative_to(shared)) for folder in folders]


def _facts(names: Sequence[str], infos: Sequence[dict[str, Any]]) -> list[tuple[object, ...]]:
    rows = []
    for name, info in zip(names, infos, strict=True):
        judge = (info.get("held_out") or {}).get("accuracy")
        rows.append(
            (
                name,
                info["stage"],
                info["status"],
                info.get("steps", ""),
                info.get("stopped") or "",
                Rate.model_validate(judge) if judge else "",
            )
        )
    return [("", "stage", "status", "steps", "stopped early", "judge on held-out pairs"), *rows]


def _charts(metrics: dict[str, list[dict[str, Any]]]) -> list[tuple[str, str]]:
    charts = []
    for keys, label in CURVES:
        for key in keys:
            series = [
                Series(name, [r["step"] for r in rows if key in r], [r[key] for r in rows if key in r])
                for name, rows in metrics.items()
                if sum(key in r for r in rows) > 1
            ]
            if series:
                charts.append((label if len(keys) == 1 else f"{label}: {key}", line_chart(series, x="step", y=key)))
    return charts


def _pairs(names: Sequence[str], runs: Sequence[Path]) -> list[list[tuple[str, str]]]:
    return [
        [
            (name, f"step {pair['step']}"),
            ("prompt", pair["prompt"]),
            ("a", pair["response_a"]),
            ("b", pair["response_b"]),
            ("verdict", json.dumps(pair["verdict"])),
        ]
        for name, run in zip(names, runs, strict=True)
        for pair in rows_of(run / "rollouts.jsonl")[-SHOWN_PAIRS:]
    ]
