"""The commands themselves in two processes: a run that the scheduler ends goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch import LAYOUTS

SETTINGS = (
    *("--recipe", "demo", "--set", "model.path=builtin:world", "--set", "data.sources.0.limit=1000"),
    *("--set", "jsft.training.max_steps=40", "--set", "jsft.training.save_steps=4"),
)
LIMIT = 150


COMMAND = ("-m", "selfjudge.cli.main", "jsft", *SETTINGS)


def start(folder: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return started([*torchrun, *COMMAND, "--output-dir", str(folder), *options], **environment)


def started(command: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **environment},
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


@pytest.mark.slow
def test_processes_that_would_train_each_by_itself_are_refused(tmp_path: Path) -> None:
    found_none = {"ACCELERATE_USE_CPU": "false", "CUDA_VISIBLE_DEVICES": ""}
    process = start(tmp_path / "run", **found_none)
    output = ended(process)
    assert process.returncode != 0
    assert "Error: 2 processes were started, and each would train by itself: on CPUs set ACCELERATE_USE_CPU" in output
    assert "selfjudge/cli/main.py" not in output  # no traceback but torchrun's own
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_accelerate_launch_on_two_nodes_does_what_it_does_on_one(tmp_path: Path) -> None:
    def launched(folder: str, *nodes: str) -> subprocess.Popen[str]:
        launch = [
            str(Path(sys.executable).with_name("accelerate")),
            "launch",
            "--config_file",
            str(LAYOUTS / "ddp.yaml"),
        ]
        return started([*launch, "--num_processes", "2", *nodes, *COMMAND, "--output-dir", str(tmp_path / folder)])

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        first = ("--main_process_ip", "127.0.0.1", "--main_process_port", str(free.getsockname()[1]))
    one = launched("one")
    output = ended(one)
    assert one.returncode == 0, output
    nodes = [launched("two", "--num_machines", "2", "--machine_rank", str(rank), *first) for rank in (0, 1)]
    outputs = [ended(node) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert "Report" in outputs[0]
    assert "Report" not in outputs[1]  # the main process speaks
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2
    weights = [tmp_path / name / "final" / "model.safetensors" for name in ("one", "two")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


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
