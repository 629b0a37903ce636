"""From what was measured to the figures that are shown."""

from __future__ import annotations

from contextlib import nullcontext
from statistics import median
from typing import Any

from peft import PeftModel

from selfjudge.benchmarks.measure import GIB, Side, ceiling_tokens_per_second, copy_bandwidth, ratio
from selfjudge.benchmarks.task import Task


def figures(task: Task, measured: dict[str, Side]) -> dict[str, Any]:
    """Returns the figures of a task by name; ``measured`` has ``ours``, and the other side where it was timed.

    ``share_of_ceiling`` is the time that the task's dense forwards would take, at the speed of forwards without
    padding, and its decoding, at the speed of reading the weights, over the time it took. ``first_turn_ratio`` is
    the ratio in the first turn, which ``ratio`` leaves out: every shape is new in it, as with real data, and it
    includes what a process does only once. Peak memory is that of the weights and of what a side allocates on top.
    """
    ours, other = measured["ours"], measured.get(task.other_name)
    seconds = median(ours.seconds)
    weights = sum(p.numel() * p.element_size() for p in task.model.parameters())
    with task.model.disable_adapter() if isinstance(task.model, PeftModel) else nullcontext():
        least = task.tokens / ceiling_tokens_per_second(task.model, task.length)
    if task.new_tokens:
        least += task.new_tokens * weights / copy_bandwidth(task.model.device)
    found: dict[str, Any] = {
        "unit": f"{task.unit}/s",
        "ours": task.amount / seconds,
        "share_of_ceiling": least / seconds,
        **task.details(),
    }
    if other:
        found |= {task.other_name: task.amount / median(other.seconds), "ratio": ratio(ours, other)}
        found["first_turn_ratio"] = other.first / ours.first
    if ours.memory:
        found["peak_memory_gib"] = (weights + max(ours.memory)) / GIB
        if other:
            found["peak_memory_ratio"] = (weights + max(ours.memory)) / (weights + max(other.memory))
    return found
