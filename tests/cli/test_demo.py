"""The demo as a user runs it: the bars for it, on seed 0. Three seeds are in docs/experiments.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "run"
    # In a process of its own, as it is timed and as the suite's other tests keep torch to one thread.
    command = [Path(sys.executable).with_name("selfjudge"), "demo", "--output-dir", folder]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return folder


def test_self_training_and_tournament_beat_the_start_by_the_truth(demo):
    results = json.loads((demo / "results.json").read_text())
    assert results["selfjudge_vs_jsft"]["low"] > 0.60
    assert results["tournament_vs_single"]["low"] > 0.55
    assert results["selfjudge_vs_jsft"]["n"] >= 500


def test_the_judge_is_good_but_not_perfect(demo):
    results = json.loads((demo / "results.json").read_text())
    rates = json.loads((demo / "details.json").read_text())["rates"]
    assert 0.70 <= results["judge_accuracy"] <= 0.97
    assert rates["judge_accuracy"]["low"] > rates["longer_wins"]["high"]
    assert results["order_agreement"] >= 0.85
    assert 0.75 <= rates["labels_right_all"]["rate"] <= 0.85


def test_hard_labels_move_further_from_the_reference_than_soft_ones(demo):
    def last_kl(labels: str) -> float:
        logged = [json.loads(line) for line in (demo / labels / "metrics.jsonl").read_text().splitlines()]
        kl = [row["kl"] for row in logged if "kl" in row]
        return sum(kl[-10:]) / 10

    assert last_kl("hard") > last_kl("soft")


def test_the_folder_is_whole(demo):
    assert json.loads((demo / "run.json").read_text())["status"] == "finished"
    page = (demo / "report.html").read_text()
    assert page.count("<svg") == 4
    assert page.count('class="match"') == 7  # a bracket of eight
    for labels in ("soft", "hard"):
        points = [json.loads(line) for line in (demo / labels / "curve.jsonl").read_text().splitlines()]
        assert points[0]["step"] == 0
        # The policy against itself: one half but for chance. The interval has no width where both sides draw the same.
        assert points[0]["truth"]["rate"] == pytest.approx(0.5, abs=0.1)
        assert points[0]["truth"]["low"] < points[0]["truth"]["high"]
