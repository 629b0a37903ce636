"""One process of a test's training, started by torchrun: runs the jobs of a JSON file one after another."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.state import DistributedType, PartialState
from transformers import TrainerCallback

from selfjudge.baselines.run import METHODS, run_baseline
from selfjudge.errors import SelfJudgeError
from selfjudge.recipes.schema import Recipe
from selfjudge.training.jsft import run_jsft
from selfjudge.training.processes import leave
from selfjudge.training.self_training import run_self_training


class Cut(TrainerCallback):
    """Sends SIGTERM to the last process after a step."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step and args.process_index == args.world_size - 1:
            os.kill(os.getpid(), signal.SIGTERM)


def rows_of(job: dict[str, Any]) -> Iterator[dict[str, Any]] | None:
    """The rows of a job, or those of this process, as what can be read once only."""
    rows = job.get(f"rows of {os.environ['RANK']}", job.get("rows"))
    return None if rows is None else iter(rows)


def run(job: dict[str, Any]) -> None:
    recipe, folder = Recipe.model_validate(job["recipe"]), Path(job["folder"])
    if job["stage"] in METHODS:
        run_baseline(job["stage"], recipe, folder)
    elif job["stage"] == "jsft":
        run_jsft(recipe, folder, rows=rows_of(job))
    else:
        run_self_training(
            recipe, folder, rows=rows_of(job), resume=bool(job.get("resume")), callbacks=[Cut(job.get("cut_after"))]
        )


torch.set_num_threads(1)
faulthandler.dump_traceback_later(0.6 * float(os.environ["TEST_TIMEOUT"]))  # where it hangs
if os.environ.get("TEST_SHARDED_ON_CPU"):
    # accelerate shards weights between accelerators only; torch does it on CPUs too.
    PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
for job in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
    try:
        run(job)
        outcome = "done"
    except SelfJudgeError as e:
        outcome = f"{type(e).__name__}: {e}"
    Path(f"{job['folder']}.{os.environ['RANK']}").write_text(outcome, encoding="utf-8")
leave()
if os.environ.get("TEST_SHARDED_ON_CPU"):
    os._exit(0)  # torch keeps what is sharded in caches, and with it gloo's threads: see leave()
names = [file.read_text() for file in Path("/proc/self/task").glob("*/comm")]
assert not any("gloo" in name for name in names), names
