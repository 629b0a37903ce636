"""Starts trainings in several real processes on a CPU, joined by gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from selfjudge.recipes.schema import Recipe

REPOSITORY = Path(__file__).parents[2]
LAYOUTS = REPOSITORY / "examples" / "accelerate"
WORKER = Path(__file__).with_name("worker.py")


def job(stage: str, recipe: Recipe, folder: Path, **more: Any) -> dict[str, Any]:
    return {"stage": stage, "recipe": recipe.model_dump(mode="json"), "folder": str(folder), **more}


def launch(jobs: list[dict[str, Any]], processes: int, layout: str = "ddp", timeout: float = 150) -> None:
    """Runs jobs in as many processes as asked for; a job's outcome in each is in FOLDER.RANK."""
    file = Path(jobs[0]["folder"] + ".jobs.json")
    file.write_text(json.dumps(jobs), encoding="utf-8")
    # Its own rendezvous: torchrun picks a port that is free.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    process = subprocess.Popen(
        [*torchrun, str(WORKER), str(file)],
        env={**environment(layout), "TEST_TIMEOUT": str(timeout)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()  # the agent ends its workers
        output, _ = process.communicate(timeout=30)
        raise AssertionError(f"still running after {timeout} s:\n{output.decode()[-30000:]}") from None
    assert process.returncode == 0, output.decode()[-30000:]


def environment(layout: str) -> dict[str, str]:
    """What `accelerate launch` tells its processes of a shipped configuration, on a CPU."""
    args = launch_command_parser().parse_args(["--config_file", str(LAYOUTS / f"{layout}.yaml"), "script.py"])
    args, defaults, _ = _validate_launch_command(args)
    if defaults.deepspeed_config:
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        _, env = prepare_deepspeed_cmd_env(args)
    else:
        env = prepare_multi_gpu_env(args)
    told = {k: str(v) for k, v in env.items() if k.startswith(("ACCELERATE_", "FSDP_"))}
    cpu = {"ACCELERATE_USE_CPU": "true"} if layout == "ddp" else {"TEST_SHARDED_ON_CPU": "1"}
    return {
        **os.environ,
        **told,
        **cpu,
        "ACCELERATE_TORCH_DEVICE": "cpu",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
    }


def outcomes(job: dict[str, Any], processes: int) -> list[str]:
    return [Path(f"{job['folder']}.{rank}").read_text(encoding="utf-8") for rank in range(processes)]


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
