"""A long run needs no more memory than a short one, and leaves no more files."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers import TrainerCallback

from selfjudge.recipes.schema import Recipe
from selfjudge.training.self_training import run_self_training

STEPS, WARM_UP, EVERY = 2000, 200, 20
MIB = 2**20


class Watch(TrainerCallback):
    """Notes the process's memory and the run's files every few steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[dict[str, Any]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % EVERY == 0:
            files = [f for f in self.folder.rglob("*") if f.is_file()]
            checkpoint = max(
                self.folder.glob("checkpoints/checkpoint-*"), default=None, key=lambda p: p.stat().st_mtime
            )
            size = sum(f.stat().st_size for f in checkpoint.rglob("*")) if checkpoint else 0
            memory = psutil.Process().memory_info().rss
            self.seen.append({"step": state.global_step, "rss": memory, "files": len(files), "checkpoint": size})


def train(recipe: Recipe, folder: Path) -> None:
    watch = Watch(folder / "run")
    run_self_training(recipe, folder / "run", callbacks=[watch])
    (folder / "seen.json").write_text(json.dumps(watch.seen))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("lora", [None, {"r": 4}], ids=["full", "lora"])
def test_memory_and_files_stay(tmp_path: Path, tiny_recipe: Callable[..., Recipe], lora: dict[str, Any] | None) -> None:
    training = {"max_steps": STEPS, "save_steps": 50, "logging_steps": 5, "per_device_train_batch_size": 2}
    section = {"lora": lora, "replay": 0.1, "rollout": {"max_new_tokens": 4}, "training": training}
    # Alone in its process, where nothing before it has left room to grow into.
    process = multiprocessing.get_context("spawn").Process(
        target=train, args=(tiny_recipe(24, self_training=section), tmp_path)
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert len(seen) == STEPS // EVERY
    start = max(row["rss"] for row in seen if row["step"] <= WARM_UP)
    later = [row for row in seen if row["step"] > WARM_UP]
    most = max(row["rss"] for row in later)
    print(f"{start / MIB:.0f} MiB in the first {WARM_UP} steps, {most / MIB:.0f} MiB after, "
          f"{later[-1]['rss'] / MIB:.0f} MiB at the end; {later[-1]['files']} files")  # fmt: skip
    assert most <= 1.05 * start
    assert len({row["files"] for row in later}) == 1
    # What the Trainer remembers must not grow with the run either.
    assert later[-1]["checkpoint"] <= 1.02 * later[0]["checkpoint"]
