"""Clocks: both sides alternating in one run, the hardware's ceiling, and peak memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import torch
from peft import PeftModel
from transformers import PreTrainedModel

GIB = 2**30


@dataclass
class Side:
    """What one side took: seconds of each turn, and on a GPU the bytes of each over what was there before.

    ``first`` are the seconds of the turn before, in which every shape is new.
    """

    seconds: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    first: float = 0.0


def alternate(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, Side]:
    """Times every side ``repeats`` times in turn, after one turn whose time does not count.

    Its memory does: what a side allocates then, and keeps, it needs too.
    """
    measured = {name: Side() for name in sides}
    for turn in range(repeats + 1):
        for name, run in sides.items():
            with peak_memory() as peak:
                start = time.perf_counter()
                run()
                synchronise()
                seconds = time.perf_counter() - start
            measured[name].memory += peak
            if turn:
                measured[name].seconds.append(seconds)
            else:
                measured[name].first = seconds
    return measured


def ratio(ours: Side, theirs: Side) -> float:
    """Returns how many times faster ours is: the median over turns of their seconds / our seconds."""
    return median(b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True))


def synchronise() -> None:
    """Waits for the accelerator, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Yields a list that has one item at the end: the most bytes torch allocated within over those allocated before.

    Without a GPU it stays empty: the memory of a process that has freed some before says nothing about what it needs.
    """
    peak: list[int] = []
    if not torch.cuda.is_available():
        yield peak
        return
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    yield peak
    peak.append(torch.cuda.max_memory_allocated() - before)


@torch.no_grad()
def ceiling_tokens_per_second(model: PreTrainedModel | PeftModel, length: int, tokens: int | None = None) -> float:
    """Returns the tokens/s of a dense forward without logits: rows of equal length, no padding, nothing shared.

    ``tokens`` of a forward: by default as many as keep the device busy, 1024 on a CPU and 4096 elsewhere.
    """
    tokens = tokens or (1024 if model.device.type == "cpu" else 4096)
    ids = torch.randint(0, model.config.vocab_size, (max(1, tokens // length), length), device=model.device)
    seconds = []
    for _ in range(4):
        synchronise()
        start = time.perf_counter()
        model(input_ids=ids, use_cache=False, logits_to_keep=1)
        synchronise()
        seconds.append(time.perf_counter() - start)
    return float(ids.numel() / median(seconds[1:]))


def copy_bandwidth(device: torch.device, size: int = GIB // 4) -> float:
    """Returns the bytes/s that a large copy reads, which bounds how often weights can be read."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(6):
        synchronise()
        start = time.perf_counter()
        target.copy_(source)
        synchronise()
        seconds.append(time.perf_counter() - start)
    # A copy reads and writes.
    return 2 * size / median(seconds[1:])
