"""Runs that are killed anywhere and resumed end, bit for bit, where the uninterrupted one does."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from interrupted import Moment, finish, start

TIMES = ("runtime", "per_second", "flos")
COMMON = (
    "--recipe", "demo",
    "--set", "data.sources.0.limit=48",
    "--set", "model.path=builtin:world",
    "--set", "jsft.training.disable_tqdm=true",
    "--set", "self_training.training.disable_tqdm=true",
    "--set", "jsft.training.max_steps=7",
    "--set", "jsft.training.per_device_train_batch_size=8",
    "--set", "jsft.training.save_strategy=steps",
    "--set", "jsft.training.save_steps=2",
    "--set", "jsft.training.logging_steps=3",
    "--set", "jsft.lora.r=4",
    "--set", "jsft.lora.dropout=0.1",
    "--set", "self_training.lora.r=4",
    "--set", "self_training.lora.dropout=0.1",
    "--set", "self_training.replay=0.1",
    "--set", "self_training.rollout.max_new_tokens=6",
    "--set", "self_training.rollout.steps=2",
    "--set", "self_training.training.max_steps=7",
    "--set", "self_training.training.per_device_train_batch_size=4",
    "--set", "self_training.training.gradient_accumulation_steps=2",
    "--set", "self_training.training.learning_rate=0.01",
    "--set", "self_training.training.save_strategy=steps",
    "--set", "self_training.training.save_steps=3",
    "--set", "self_training.training.logging_steps=2",
)  # fmt: skip
PHASES = {"jsft": ("step", "optimizer", "checkpoint"), "train": ("generation", "judging", "optimizer", "checkpoint")}
# Twenty in all: eighteen at a random operation of a phase, two at a random time.
MOMENTS = [
    *(("jsft", phase, n) for phase, times in (("step", 2), ("optimizer", 2), ("checkpoint", 3)) for n in range(times)),
    *(
        ("train", phase, n)
        for phase, times in (("generation", 3), ("judging", 3), ("optimizer", 2), ("checkpoint", 3))
        for n in range(times)
    ),
]


@dataclass(frozen=True)
class Whole:
    """The uninterrupted run of a stage: how to run it, where it is, its operations and its seconds."""

    arguments: Callable[[Path], list[str]]
    folder: Path
    operations: dict[str, int]
    seconds: float


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Whole]:
    folder = tmp_path_factory.mktemp("whole")
    runs: dict[str, Whole] = {}
    for stage in ("jsft", "train"):
        extra = ("--set", f"self_training.start={folder / 'jsft'}")

        def arguments(output: Path, stage: str = stage, extra: tuple[str, ...] = extra) -> list[str]:
            return [stage, *COMMON, *extra, "--output-dir", str(output)]

        begin, counts = time.perf_counter(), folder / f"{stage}.txt"
        assert finish(arguments(folder / stage), counts=counts) == 0
        operations = json.loads(counts.read_text())
        assert set(PHASES[stage]) <= set(operations)
        runs[stage] = Whole(arguments, folder / stage, operations, time.perf_counter() - begin)
    return runs


def weights(run: Path) -> dict[str, bytes]:
    return {str(f.relative_to(run)): f.read_bytes() for f in run.glob("*/*.safetensors")}


def rows(run: Path, name: str) -> list[dict[str, Any]]:
    if not (run / name).exists():
        return []
    found = [json.loads(line) for line in (run / name).read_text().splitlines()]
    return [{k: v for k, v in row.items() if not any(t in k for t in TIMES)} for row in found]


def assert_resumes(run: Path, stage: Whole) -> None:
    resume = ["--resume"] if run.exists() else []
    assert finish([*stage.arguments(run), *resume]) == 0
    assert weights(run) == weights(stage.folder)
    assert len(weights(run)) >= 1
    # The last line is the Trainer's summary of what one process did.
    metrics, expected = (rows(r, "metrics.jsonl") for r in (run, stage.folder))
    assert [row for row in metrics if "loss" in row] == [row for row in expected if "loss" in row]
    assert rows(run, "rollouts.jsonl") == rows(stage.folder, "rollouts.jsonl")
    assert len([*(run / "checkpoints").iterdir()]) == 2
    assert json.loads((run / "run.json").read_text())["status"] == "finished"


def moment(stage: Whole, phase: str, seed: str, number: int = signal.SIGKILL) -> Moment:
    return Moment(phase, random.Random(seed).randint(1, stage.operations[phase]), number)


@pytest.mark.long
@pytest.mark.parametrize(("stage", "phase", "n"), MOMENTS)
def test_killed_in_a_phase(tmp_path: Path, whole: dict[str, Whole], stage: str, phase: str, n: int) -> None:
    when = moment(whole[stage], phase, f"{stage}:{phase}:{n}")
    assert finish(whole[stage].arguments(tmp_path / "run"), when) == -signal.SIGKILL, when
    assert_resumes(tmp_path / "run", whole[stage])


@pytest.mark.long
@pytest.mark.parametrize("stage", PHASES)
def test_killed_at_any_time(tmp_path: Path, whole: dict[str, Whole], stage: str) -> None:
    delay = random.uniform(0.1, 0.9) * whole[stage].seconds
    process = start(whole[stage].arguments(tmp_path / "run"))
    time.sleep(delay)
    process.kill()
    process.join()
    if process.exitcode != 0:  # it may have been quicker than the run before
        assert_resumes(tmp_path / "run", whole[stage])


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2))
def test_killed_again_and_again(tmp_path: Path, whole: dict[str, Whole], seed: int) -> None:
    run, resume = tmp_path / "run", []
    for phase in ("checkpoint", "judging", "optimizer", "checkpoint"):
        # Early in the phase, so that what is left of the run still gets there.
        when = Moment(phase, random.Random(f"{phase}:{seed}").randint(1, whole["train"].operations[phase] // 5))
        assert finish([*whole["train"].arguments(run), *resume], when) == -signal.SIGKILL, when
        resume = ["--resume"]
    assert_resumes(run, whole["train"])


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(tmp_path: Path, whole: dict[str, Whole]) -> None:
    when = moment(whole["train"], "checkpoint", "quick")
    assert finish(whole["train"].arguments(tmp_path / "run"), when) == -signal.SIGKILL
    assert_resumes(tmp_path / "run", whole["train"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "phase", "number"),
    [
        ("train", "generation", signal.SIGTERM),
        ("train", "optimizer", signal.SIGINT),
        pytest.param("train", "judging", signal.SIGTERM, marks=pytest.mark.long),
        pytest.param("train", "step", signal.SIGTERM, marks=pytest.mark.long),
        pytest.param("train", "checkpoint", signal.SIGTERM, marks=pytest.mark.long),
        pytest.param("jsft", "step", signal.SIGTERM, marks=pytest.mark.long),
        pytest.param("jsft", "optimizer", signal.SIGTERM, marks=pytest.mark.long),
        pytest.param("jsft", "checkpoint", signal.SIGINT, marks=pytest.mark.long),
    ],
)
def test_a_signal_leaves_a_checkpoint_of_the_last_step(
    tmp_path: Path, whole: dict[str, Whole], stage: str, phase: str, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    # In the middle of the second half: the fifth of seven steps or the sixth.
    when = Moment(phase, int(0.7 * whole[stage].operations[phase]), number)
    assert finish(whole[stage].arguments(run), when) == 128 + number
    newest = max(int(p.name.rpartition("-")[2]) for p in (run / "checkpoints").iterdir())
    assert newest >= 4, "the last regular one may be after step 3 or 4"
    assert_resumes(run, whole[stage])
