"""The report: one self-contained HTML page drawn from a run folder, and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from selfjudge.core.statistics import Estimate, Rate, ReliabilityBin
from selfjudge.data.io import atomic_writer, read_jsonl
from selfjudge.errors import RunError
from selfjudge.evaluation.demo_findings import findings
from selfjudge.evaluation.plots import Series, line_chart, reliability_chart
from selfjudge.training.alarms import alarms, stop_limits
from selfjudge.training.curves import CURVES


def write_report(run: str | Path, output: str | Path) -> Path:
    """Draws the report of a jsft, train, baseline or demo run folder and returns where it was written.

    Raises:
        RunError: if the folder holds no run.
    """
    run = Path(run)
    info = run_info(run)
    environment = Environment(
        loader=PackageLoader("selfjudge.evaluation"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    recipe = (run / "recipe.yaml").read_text(encoding="utf-8")
    metrics = rows_of(run / "metrics.jsonl")
    page = environment.get_template("report.html").render(
        run=info,
        recipe=recipe,
        signs=alarms(metrics, stop_limits(recipe)),
        curves=training_curves(metrics),
        pairs=rows_of(run / "rollouts.jsonl")[-6:],
        demo=_demo(run) if (run / "results.json").is_file() else None,
    )
    with atomic_writer(output, overwrite=True) as handle:
        handle.write(page)
    return Path(output)


def run_info(run: Path) -> dict[str, Any]:
    """Returns a run folder's run.json.

    Raises:
        RunError: if the folder holds no run.
    """
    if not (run / "run.json").is_file():
        raise RunError(f"{run} holds no run (no run.json): name a run folder of jsft, train, baseline or demo.")
    return _json(run / "run.json")


def training_curves(metrics: list[dict[str, Any]]) -> list[str]:
    """Returns a chart for each group of metrics that was logged."""
    charts = []
    for names, label in CURVES:
        series = [
            Series(name, [row["step"] for row in metrics if name in row], [row[name] for row in metrics if name in row])
            for name in names
        ]
        if any(len(line.x) > 1 for line in series):
            charts.append(line_chart(series, x="step", y=label))
    return charts


def _demo(run: Path) -> dict[str, Any]:
    details = _json(run / "details.json")
    curves = {labels: rows_of(run / labels / "curve.jsonl") for labels in ("soft", "hard")}
    charts = {}
    for labels, points in curves.items():
        stop = details["stops"][labels]
        charts[labels] = line_chart(
            [_curve(points, "truth", "by the truth"), _curve(points, "belief", "in the judge's belief")],
            x="step",
            y="win rate against the start",
            level=0.5,
            marker=(stop["step"], "the stop rule") if stop else None,
            limits=(0.0, 1.0),
        )
    bins = [ReliabilityBin.model_validate(b) for b in details["reliability"]]
    rates = {name: Rate.model_validate(rate) for name, rate in details["rates"].items()}
    differences = {name: Estimate.model_validate(d) for name, d in details["differences"].items()}
    return {
        "results": _json(run / "results.json"),
        "details": details,
        "charts": charts,
        "words": line_chart(
            [
                Series(f"{labels} labels", [p["step"] for p in points], [p["words"] for p in points])
                for labels, points in curves.items()
                if points
            ],
            x="step",
            y="words of an answer",
        ),
        "reliability": reliability_chart(bins),
        "rates": rates,
        "findings": findings(rates, differences, curves),
    }


def _curve(points: list[dict[str, Any]], key: str, name: str) -> Series:
    column = {field: [p[key][field] for p in points] for field in ("rate", "low", "high")}
    return Series(name, [p["step"] for p in points], column["rate"], column["low"], column["high"])


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a JSONL file; none of one that is not there."""
    return [row for _, row in read_jsonl(path)] if path.is_file() else []
