"""What a GPU's time goes into, by kind of kernel, in our side of a benchmark: python gpu_profile.py SHAPE FOLDER.

Writes one JSON file for each task: seconds without the profiler, then how many kernels ran in how many seconds.
Sampling is profiled for a few tokens, as every token is alike.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel
from torch.profiler import ProfilerActivity, profile

from selfjudge.benchmarks.inputs import random_model
from selfjudge.benchmarks.task import Settings
from selfjudge.benchmarks.tasks import make_task
from selfjudge.cli.common import quiet

# The first that is found in a kernel's name. "nvjet" are cuBLAS's own on Hopper.
KINDS = {
    "attention": "flash|fmha|attention|sdpa",
    "matrix products": "gemm|nvjet|cutlass|gemv|splitK|cublas",
    "norms": "rms_?norm|layer_?norm",
    "sorting, sums, softmax": "sort|radix|scan|cum|search|softmax|topk|Reduce|reduce",
    "copies and gathering": "memcpy|memset|copy|cat|index|gather|scatter",
    "optimizer": "adam|multi_tensor",
    "other elementwise": "elementwise|vectorized|fill",
}
TASKS = {"judge": 256, "tournament": 32, "sample": 8, "step": 8, "jsft": 32}


def main() -> None:
    """Profiles the tasks one after another."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shape")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", default=",".join(TASKS))
    parser.add_argument("--size", type=int)
    parser.add_argument("--new-tokens", type=int, default=16)
    args = parser.parse_args()
    quiet()
    loaded = random_model(args.shape, "cuda", torch.bfloat16)
    for name in args.items.split(","):
        size = args.size or max(1, TASKS[name] // (4 if args.shape == "7b" and TASKS[name] > 8 else 1))
        batch = 2 if args.shape == "7b" else 8
        with TemporaryDirectory() as folder:
            settings = Settings(size, "world", Path(folder), new_tokens=args.new_tokens, train_batch=batch)
            task = make_task(name, loaded, settings)
            found = {"shape": args.shape, "task": name, "size": size, **profiled(task.ours), **task.details()}
            if isinstance(task.model, PeftModel):
                task.model.unload()
        (args.folder / f"profile-{args.shape}-{name}.json").write_text(json.dumps(found, indent=2) + "\n")
        print(json.dumps(found), flush=True)


def profiled(run: Any) -> dict[str, Any]:
    """Returns the seconds of a third run, and of a fourth one the kernels by kind."""
    run()
    run()
    seconds = _seconds(run)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        under_profiler = _seconds(run)
    count: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for event in profiler.events() or []:
        if event.device_type == torch.autograd.DeviceType.CUDA:
            kind = next((kind for kind, found in KINDS.items() if re.search(found, event.name, re.IGNORECASE)), "other")
            count[kind] += 1
            spent[kind] += event.device_time / 1e6
            names[event.name[:100]] += event.device_time / 1e6
    return {
        "seconds": seconds,
        "seconds_under_profiler": under_profiler,
        "kernels": count.total(),
        "kernel_seconds": spent.total(),
        "by_kind": {kind: [count[kind], round(spent[kind], 6)] for kind, _ in spent.most_common()},
        "longest": {name: round(s, 6) for name, s in names.most_common(12)},
    }


def _seconds(run: Any) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
