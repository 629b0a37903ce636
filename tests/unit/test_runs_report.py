"""Several runs on one page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfjudge.errors import RunError
from selfjudge.evaluation.report import write_report
from selfjudge.evaluation.runs_report import different, flat, write_runs_report


def test_settings_by_dotted_keys() -> None:
    assert flat({"a": 1, "b": {"c": [1, 2], "d": {}}}) == {"a": 1, "b.c": [1, 2], "b.d": {}}


def test_only_what_differs_is_shown() -> None:
    found = different(["x", "y"], [{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None, "d": 0}])
    assert found == [("", "x", "y"), ("b", 2, 3), ("d", None, 0)]
    assert different(["x", "y"], [{"a": 1}, {"a": 1}]) == []


def a_run(folder: Path, seed: int, losses: list[float], **info: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"stage": "train", "status": "finished", **info}))
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": "r", "seed": seed}))
    rows = [{"step": i, "loss": loss} for i, loss in enumerate(losses)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pair = {"step": 1, "prompt": "p", "response_a": "<b>x", "response_b": "y", "verdict": None}
    (folder / "rollouts.jsonl").write_text(json.dumps(pair) + "\n")
    return folder


def test_runs_on_one_page(tmp_path: Path) -> None:
    judge = {"accuracy": {"rate": 0.75, "low": 0.5, "high": 0.9, "n": 8}}
    first = a_run(tmp_path / "runs" / "one" / "train", 0, [2.0, 1.0], steps=7, stopped="kl over 1.8", held_out=judge)
    second = a_run(tmp_path / "runs" / "two" / "train", 1, [3.0, 2.5])
    page = write_runs_report([first, second], tmp_path / "page.html", overwrite=False).read_text()
    assert "one/train" in page
    assert "two/train" in page
    assert "runs/one" not in page  # what all begin with is left out
    assert "kl over 1.8" in page
    assert "75.0 % [50.0, 90.0]" in page
    assert "<td>seed</td><td>0</td><td>1</td>" in page
    assert page.count("<svg") == 1  # of the loss, the only metric there is
    assert "&lt;b&gt;x" in page
    with pytest.raises(RunError, match="exists"):
        write_runs_report([first, second], tmp_path / "page.html", overwrite=False)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    first = a_run(tmp_path / "one", 0, [1.0])
    with pytest.raises(RunError, match="nothing holds no run"):
        write_runs_report([first, tmp_path / "nothing"], tmp_path / "page.html", overwrite=False)
    assert not (tmp_path / "page.html").exists()


def test_the_report_of_a_run_has_its_alarms(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "one", 0, [1.0])
    (folder / "run.json").write_text(
        json.dumps({"stage": "train", "status": "running", "recipe": "r", "seed": 0, "versions": {}})
    )
    stop = {"window": 2, "max_kl": 5.0}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": "r", "self_training": {"stop": stop}}))
    rows = [{"step": i, "kl": kl, "rollout/length": 10.0} for i, kl in enumerate([0.0, 0.0, 5.0, 7.0], 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_report(folder, tmp_path / "page.html").read_text()
    assert "<strong>Alarm:</strong> KL to the reference is 6.00 nats per response; the limit is 5. The policy" in page
    assert "Responses have 10.0 tokens" in page
    assert page.count("Alarm:") == 1
