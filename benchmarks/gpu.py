"""Times every task of `selfjudge bench` on random weights of one shape, in one process: python gpu.py SHAPE FOLDER.

The figures of each are written into FOLDER as soon as it is done; benchmarks/gpu.sh says what else there is to know.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel

from selfjudge.benchmarks.figures import figures
from selfjudge.benchmarks.inputs import random_model
from selfjudge.benchmarks.measure import alternate
from selfjudge.benchmarks.task import Settings
from selfjudge.benchmarks.tasks import make_task
from selfjudge.cli.common import quiet
from selfjudge.engines.load import LoadedModel


@dataclass(frozen=True)
class Item:
    """A task, and how much of it."""

    name: str
    task: str
    size: int
    options: dict[str, Any] = field(default_factory=dict)
    ours_alone: bool = False


def items(shape: str) -> Iterator[Item]:
    """Yields what to time with a shape; the sizes are such that the published side takes some ten seconds."""
    large = {"7b": 4, "1b": 2}.get(shape, 1)
    yield Item("judge", "judge", 256 // large)
    yield Item("tournament", "tournament", 32 // large)
    yield Item("scaling", "scaling", 8 // large)
    yield Item("sample", "sample", 8)
    yield Item("step", "step", 8, {"train_batch": 8})
    yield Item("step-checkpointing", "step", 8, {"train_batch": 8, "checkpointing": True}, ours_alone=True)
    yield Item("jsft", "jsft", 32, {"train_batch": 4 if shape == "7b" else 8})
    if shape != "7b":
        yield Item("jsft-32", "jsft", 64, {"train_batch": 32})


def main() -> None:
    """Times the items one after another; one that fails is told and does not stop the rest."""
    args = _arguments()
    quiet()
    begin = time.perf_counter()
    loaded = random_model(args.shape, args.device, torch.float32 if args.device == "cpu" else torch.bfloat16)
    print(f"{args.shape}: {sys.version.split()[0]}, torch {torch.__version__}, {_device(args.device)}", flush=True)
    for item in items(args.shape):
        if args.items and item.name not in args.items.split(","):
            continue
        if time.perf_counter() - begin > args.limit:
            print(f"{args.shape}-{item.name}: no time left", flush=True)
            continue
        try:
            start = time.perf_counter()
            found = measured(loaded, item, args)
            file = args.folder / f"{args.shape}-{item.name}.json"
            file.write_text(json.dumps({"device": _device(args.device), **found}, indent=2) + "\n")
            print(f"{args.shape}-{item.name}: done in {time.perf_counter() - start:.0f} s", flush=True)
        except Exception:
            traceback.print_exc()
            print(f"{args.shape}-{item.name}: no figures", flush=True)
        gc.collect()
        if args.device == "cuda":
            torch.cuda.empty_cache()


def measured(loaded: LoadedModel, item: Item, args: argparse.Namespace) -> dict[str, Any]:
    """Returns an item's figures; the model is afterwards as it was."""
    size = args.size or item.size
    options = {"new_tokens": args.new_tokens, "candidates": args.candidates, **item.options}
    with TemporaryDirectory() as folder:
        work = make_task(item.task, loaded, Settings(size, "world", Path(folder), **options))
        try:
            sides = {"ours": work.ours}
            if not item.ours_alone:
                sides[work.other_name] = work.other
            found = figures(work, alternate(sides, args.repeats))
        finally:
            if isinstance(work.model, PeftModel):
                work.model.unload()
    kept = {name: value for name, value in options.items() if name in ("train_batch", "checkpointing")}
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    return {"dtype": dtype, "torch": torch.__version__, "shape": args.shape, "size": size, **kept, **found}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shape", help="135m, 7b, 1b or tiny")
    parser.add_argument("folder", type=Path, help="where one JSON file for each task goes")
    parser.add_argument("--items", help="which, by name and with commas between them; all by default")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=2, help="timed turns of each side, after one more")
    parser.add_argument("--size", type=int, help="pairs, prompts or records; by default what suits each task")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--limit", type=float, default=1e9, help="begin nothing after so many seconds")
    return parser.parse_args()


def _device(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


if __name__ == "__main__":
    main()
