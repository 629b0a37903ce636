"""Trainings watched step by step: how far each rises, and whether it falls again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict

from selfjudge.core.crossed import crossed_mean
from selfjudge.core.statistics import Estimate
from selfjudge.data.io import read_jsonl
from selfjudge.recipes.schema import StopSection
from selfjudge.study.cells import Cell
from selfjudge.training.stop import fires_at

Rows = Mapping[int, Sequence[Mapping[str, Any]]]
"""Seed → the rows of its curve.jsonl by rising step."""


class Point(BaseModel):
    """Means over seeds at a step, with t intervals of the seeds' means. ``belief``: None where no judge trains.

    ``seeds``: seed → its rate by the truth.
    """

    model_config = ConfigDict(frozen=True)

    step: int
    truth: Estimate
    belief: Estimate | None
    words: float
    seeds: dict[int, float]


class Curve(BaseModel):
    """``peak``: the step of the highest mean by the truth. ``fall``: the truth there less that at the last step.

    The peak is picked among all points, so that a fall is on the large side by what is chance in it. ``stops``: seed →
    the step after which the recipe's stop rule would have ended the run, None if it would not have.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    points: tuple[Point, ...]
    peak: int
    fall: Estimate
    stops: dict[int, int | None]

    @property
    def falls(self) -> bool:
        """Whether a fall is shown: its interval lies above zero."""
        return self.fall.low > 0


def curves(cells: Sequence[Cell], limits: StopSection) -> tuple[Curve, ...]:
    """Returns the curve of every finished cell that was watched; ``limits``: of the stop rule to try on its log."""
    found = []
    for name in dict.fromkeys(cell.name for cell in cells):
        rows = curve_rows(cells, name)
        runs = {cell.seed: cell.folder / "run" for cell in cells if cell.name == name and cell.seed in rows}
        stops = {seed: fired[0] if (fired := fires_at(_log(run), limits)) else None for seed, run in runs.items()}
        found.append(_curve(name, rows, stops))
    return tuple(curve for curve in found if curve is not None)


def curve_rows(cells: Sequence[Cell], name: str) -> Rows:
    """Returns the curve of a cell, seed by seed; a step that was measured again after an interruption counts once."""
    found = {}
    for cell in cells:
        file = cell.folder / "run" / "curve.jsonl"
        if cell.name == name and cell.result.is_file() and file.is_file():
            rows = [row for _, row in read_jsonl(file)]
            found[cell.seed] = [row for _, row in sorted({row["step"]: row for row in rows}.items())]
    return found


def kl_curve(run: Path) -> dict[int, float]:
    """Returns step → KL to the reference in nats per response, where the method logs it."""
    return {row["step"]: row["kl"] for row in _log(run) if "kl" in row}


def _log(run: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(run / "metrics.jsonl")]


def _curve(name: str, rows: Rows, stops: dict[int, int | None]) -> Curve | None:
    """Returns a cell's curve over the steps that all seeds have."""
    steps = sorted(set.intersection(*({row["step"] for row in of} for of in rows.values()))) if rows else []
    if not steps:
        return None
    at = {step: {seed: next(r for r in of if r["step"] == step) for seed, of in rows.items()} for step in steps}
    points = tuple(
        Point(
            step=step,
            truth=_over_seeds({seed: row["truth"]["rate"] for seed, row in found.items()}),
            belief=_over_seeds({seed: row["belief"]["rate"] for seed, row in found.items()})
            if all(row["belief"] for row in found.values())
            else None,
            words=fmean(row["words"] for row in found.values()),
            seeds={seed: row["truth"]["rate"] for seed, row in found.items()},
        )
        for step, found in at.items()
    )
    peak = max(points, key=lambda point: point.truth.value).step
    best, last = at[peak], at[steps[-1]]
    fall = _over_seeds({seed: best[seed]["truth"]["rate"] - last[seed]["truth"]["rate"] for seed in best})
    return Curve(name=name, points=points, peak=peak, fall=fall, stops=stops)


def _over_seeds(values: Mapping[int, float]) -> Estimate:
    """Returns the mean with the t interval of the seeds."""
    return crossed_mean({seed: [("", value)] for seed, value in values.items()})
