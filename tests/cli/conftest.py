"""The real commands on a tiny model: the small world's Llama after a few steps of training."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from selfjudge.cli.main import main

TINY = (
    "--set", "data.sources.0.limit=60",
    "--set", "data.held_out=0.2",
    "--set", "jsft.training.max_steps=4",
    "--set", "jsft.training.per_device_train_batch_size=8",
    "--set", "jsft.training.save_steps=2",
    "--set", "self_training.training.max_steps=4",
    "--set", "self_training.training.per_device_train_batch_size=4",
    "--set", "self_training.training.learning_rate=0.01",
    "--set", "self_training.training.save_steps=2",
    "--set", "self_training.training.logging_steps=1",
    "--set", "self_training.rollout.max_new_tokens=8",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


def _exit_code(command: Callable[[], None]) -> int:
    try:
        command()
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    return 0


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process, through the very entry point that is installed."""

    def _run(*args: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["selfjudge", *map(str, args)])
        capsys.readouterr()
        code = _exit_code(main)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return _run


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny finished ``jsft`` run and a LoRA ``train`` run that started from it."""
    folder = tmp_path_factory.mktemp("runs")
    lora = ("--set", "self_training.lora.r=4", "--set", f"self_training.start={folder / 'jsft'}")
    for stage, extra in (("jsft", ()), ("train", lora)):
        with pytest.MonkeyPatch.context() as patch:
            arguments = [stage, "--recipe", "demo", "--output-dir", str(folder / stage), *TINY, *extra]
            patch.setattr(sys, "argv", ["selfjudge", *arguments])
            assert _exit_code(main) == 0
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Iterable[Any]], Path]:
    """Writes rows as JSONL (strings as they are) and returns the path."""

    def _write(name: str, rows: Iterable[Any]) -> Path:
        path = tmp_path / name
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return _write


def read(path: Path) -> list[dict[str, Any]]:
    """Reads a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
