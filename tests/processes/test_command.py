"""The commands themselves in two processes: a run that the scheduler ends goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SETTINGS = (
    *("--recipe", "demo", "--set", "model.path=builtin:world", "--set", "data.sources.0.limit=1000"),
    *("--set", "jsft.training.max_steps=40", "--set", "jsft.training.save_steps=4"),
)
LIMIT = 150


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.Popen(
        [*torchrun, "-m", "selfjudge.cli.main", "jsft", *SETTINGS, "--output-dir", str(folder), *options],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=LIMIT)[0]
    finally:
        process.kill()


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoints/checkpoint-*"))


@pytest.mark.long
def test_a_run_in_two_processes_that_is_ended_and_goes_on(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole")
    output = ended(whole)
    assert whole.returncode == 0, output
    assert json.loads((tmp_path / "whole" / "run.json").read_text())["processes"] == 2

    cut = start(tmp_path / "cut")
    end = time.monotonic() + LIMIT
    while not steps(tmp_path / "cut"):
        assert cut.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    cut.send_signal(signal.SIGTERM)  # torchrun hands it on
    output = ended(cut)
    assert output.count("SIGTERM ended the run; step") == 1, output
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["status"] == "running"
    assert not (tmp_path / "cut" / "final").exists()

    resumed = start(tmp_path / "cut", "--resume")
    output = ended(resumed)
    assert resumed.returncode == 0, output
    weights = [tmp_path / name / "final" / "model.safetensors" for name in ("whole", "cut")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
