"""`benchmarks/gpu_real_model.py`: what it says and leaves where it cannot do its work. Its work needs a real model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_real_model.py"


def result(out: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ITEMS": "small", "DEVICE": "cpu", "WORK": str(out / "work"), **settings}
    return subprocess.run([sys.executable, str(SCRIPT), str(out)], capture_output=True, text=True, env=environment)


def test_a_file_that_is_not_named(tmp_path: Path) -> None:
    found = result(tmp_path, MODEL="")
    assert found.returncode == 1
    assert found.stderr == "MODEL names no file: see the head of gpu_real_model.py.\n"


def test_a_command_that_fails_is_told_and_logged(tmp_path: Path) -> None:
    found = result(tmp_path, MODEL=str(tmp_path / "none.gguf"))
    assert found.returncode == 0
    assert "convert: exit 1" in found.stdout
    assert json.loads((tmp_path / "real.json").read_text())["convert"]["exit"] == 1
    assert "There is no file" in (tmp_path / "real.log").read_text()


def test_no_time_left(tmp_path: Path) -> None:
    assert "convert: no time left" in result(tmp_path, MODEL=str(tmp_path / "none.gguf"), BUDGET="5").stdout
