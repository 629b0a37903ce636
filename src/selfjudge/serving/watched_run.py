"""One run folder that is looked at from time to time while somebody may be writing to it."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from selfjudge.core.statistics import Rate
from selfjudge.serving.run_replies import Chart, RunSummary, RunView, Sign
from selfjudge.serving.run_state import Metrics, Verdicts
from selfjudge.serving.tail import Tail, read_inside, whole
from selfjudge.training.alarms import stop_limits
from selfjudge.training.curves import CURVES

_SMALL = 2**18
"""Bytes of run.json and recipe.yaml at most."""
_LAST = ("loss", "kl", "rollout/length", "rewards/accuracies")
"""Metrics that the list of runs has."""
_UNDRAWN = ("epoch", "num_tokens")


class WatchedRun:
    """A run folder, and what its files have said so far."""

    def __init__(self, name: str, folder: Path, root: Path) -> None:
        """Takes a folder under a resolved ``root``, and reads the limits of its alarms."""
        self.name = name
        self._folder = folder
        self._root = root
        self._info: dict[str, Any] = {}
        self._problem: str | None = None
        self._metrics_file = Tail(folder / "metrics.jsonl", root)
        self._rollouts_file = Tail(folder / "rollouts.jsonl", root)
        self._metrics = Metrics(stop_limits(self._recipe()))
        self._verdicts = Verdicts()

    def read(self, budget: int) -> int:
        """Reads run.json, and what the logs have more until ``budget`` bytes are spent. Returns the bytes read."""
        self._read_info()
        spent = 0
        while spent < budget:
            spent += self._read_logs()
            if not self.unread:
                return spent
        self._metrics_file.look()
        self._rollouts_file.look()
        return spent

    def _read_logs(self) -> int:
        metrics, rollouts = self._metrics_file.read(), self._rollouts_file.read()
        if metrics.anew:
            self._metrics = Metrics(stop_limits(self._recipe()))
        for row in metrics.rows:
            self._metrics.add(row)
        if rollouts.anew:
            self._verdicts = Verdicts()
        for row in rollouts.rows:
            self._verdicts.add(row)
        return metrics.size + rollouts.size

    @property
    def unread(self) -> int:
        """Bytes of the logs that are still to be read."""
        return self._metrics_file.rest + self._rollouts_file.rest

    def summary(self) -> RunSummary:
        """Returns the run as the list has it."""
        status = self._info.get("status")
        return RunSummary(
            name=self.name,
            status="damaged" if self._problem else "finished" if status == "finished" else "running",
            problem=self._problem, stage=self._text("stage"), recipe=self._text("recipe"),
            started=self._text("started"), finished=self._text("finished"), stopped=self._text("stopped"),
            updated=self._updated(), step=self._metrics.step,
            last={name: self._metrics.last[name] for name in _LAST if name in self._metrics.last},
            alarms=[alarm.name for alarm in self._metrics.alarms() if alarm.raised], unread=self.unread,
        )  # fmt: skip

    def view(self, nested: list[str]) -> RunView:
        """Returns all there is to see; ``nested`` are the names of the runs within this one's folder."""
        recipe = self._recipe()
        return RunView(
            run=self.summary(), signs=[Sign(**asdict(alarm)) for alarm in self._metrics.alarms()],
            charts=self._charts(), verdicts=self._verdicts.statistics(), pairs=[*reversed(self._verdicts.latest)],
            judge=_rates(self._info.get("held_out")) | _rates(self._info.get("judge")), nested=nested,
            recipe=None if recipe is None else whole(recipe),
            damaged_lines=self._metrics_file.damaged + self._rollouts_file.damaged,
        )  # fmt: skip

    def _read_info(self) -> None:
        try:
            info = json.loads(read_inside(self._folder / "run.json", self._root, _SMALL))
        except (OSError, ValueError, RecursionError):
            info = None
        if isinstance(info, dict):
            self._info, self._problem = info, None
        else:
            self._info, self._problem = {}, "run.json cannot be read: it is no JSON object, too large, or a link."

    def _recipe(self) -> str | None:
        try:
            return read_inside(self._folder / "recipe.yaml", self._root, _SMALL)
        except OSError:
            return None

    def _text(self, key: str) -> str | None:
        value = self._info.get(key)
        return whole(value) if isinstance(value, str) else None

    def _updated(self) -> str | None:
        """Returns when the run ended, or else when its log was written to last, or else when it began."""
        modified = self._metrics_file.modified
        written = modified and datetime.fromtimestamp(modified, UTC).isoformat(timespec="seconds")
        return self._text("finished") or written or self._text("started")

    def _charts(self) -> list[Chart]:
        """Returns the charts of known metrics in their order, then one for each other metric."""
        grouped = {name for names, _ in CURVES for name in names}
        alone = [((name,), name) for name in sorted(self._metrics.curves) if name not in (*grouped, *_UNDRAWN)]
        charts = []
        for names, title in (*CURVES, *alone):
            series = [self._metrics.curves[name].series(name) for name in names if name in self._metrics.curves]
            if any(len(line.steps) > 1 for line in series):
                charts.append(Chart(title=whole(title), series=series))
        return charts


def _rates(found: Any) -> dict[str, Rate]:
    """Returns the rates among the values of a JSON object."""
    rates = {}
    for name, value in found.items() if isinstance(found, dict) else ():
        try:
            rates[whole(name)] = Rate.model_validate(value)
        except ValidationError:
            continue
    return rates
