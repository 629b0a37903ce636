"""`benchmarks/gpu.sh`, with tiny sizes on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"
TINY = {"SELFJUDGE_SHAPES": "tiny", "DEVICE": "cpu", "SIZE": "2", "NEW_TOKENS": "3", "CANDIDATES": "2", "REPEATS": "1"}
# What a machine may lack: imports fail, and nothing of it, nor of this package, is installed.
BARE = """
import importlib.metadata as metadata
import sys

HIDDEN = {"datasets", "gguf", "matplotlib", "openai", "scipy", "trl", "vllm"}
found = metadata.version


class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *rest):
        return None if name.split(".")[0] in HIDDEN else self.finder.find_spec(name, *rest)

    def __getattr__(self, name):
        return getattr(self.finder, name)


def version(name):
    if name in HIDDEN | {"selfjudge"}:
        raise metadata.PackageNotFoundError(name)
    return found(name)


metadata.version = version
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""


def measured(out: Path, **settings: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **TINY, "PYTHON": sys.executable, **{k: str(v) for k, v in settings.items()}}
    return subprocess.run(["bash", str(SCRIPT), str(out)], capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_every_command_runs_on_a_bare_machine(tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "sitecustomize.py").write_text(BARE)
    out = tmp_path / "out"
    result = measured(out, PACKAGES=tmp_path / "packages")
    log = (out / "tiny.log").read_text()
    names = [file.stem for file in out.glob("*.json")]
    assert result.stdout.count(": done in ") == len(names) == 8, (result.stdout, result.stderr, log)
    for name in names:
        assert f"| {name} |" in result.stdout
    row = json.loads((out / "tiny-step.json").read_text())
    assert f"| tiny-step | {row['ratio']:.2f} | {row['first_turn_ratio']:.2f} |" in result.stdout
    assert f"CPU, float32, torch {row['torch']}" in result.stdout


@pytest.mark.slow
def test_what_fails_does_not_stop_the_rest(tmp_path: Path) -> None:
    (tmp_path / "huge-judge.json").write_text("{}")  # of an earlier run
    # There is no such shape, and no model takes such a sample.
    result = measured(tmp_path, SELFJUDGE_SHAPES="huge tiny", ITEMS="sample,judge", NEW_TOKENS="5000")
    assert "huge: broken off (exit code 1)" in result.stdout
    assert "There is no shape 'huge'" in (tmp_path / "huge.log").read_text()
    assert "tiny-sample: no figures\n" in result.stdout
    assert "the model takes 4096" in (tmp_path / "tiny.log").read_text()
    assert "tiny-judge: done in " in result.stdout
    assert [file.name for file in tmp_path.glob("*.json")] == ["tiny-judge.json"]


def test_no_time_is_told(tmp_path: Path) -> None:
    assert "tiny: no time left\n" in measured(tmp_path, BUDGET="3").stdout
