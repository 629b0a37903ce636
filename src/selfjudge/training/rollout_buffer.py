"""What a checkpoint in the middle of a rollout keeps of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

MicroBatch = dict[str, Any]
"""Tensors of pairs, and the number of ``prompts`` they come from."""


@dataclass(frozen=True)
class Progress:
    """What a step leaves for those after it, besides weights.

    ``buffer``: the micro-batches of the rollout that are still to be trained on; ``stop``: the stop rule's memory and
    its reason, once there is one; ``logged``: what this process measured since the last log line, name → (weighted sum,
    weight); ``seen``: what the stop rule saw last.
    """

    buffer: list[MicroBatch]
    stop: dict[str, Any]
    logged: dict[str, tuple[Tensor | float, float]]
    seen: dict[str, float]

    def state(self) -> dict[str, Any]:
        """Returns all but the buffer as JSON values."""
        logged = {name: (float(total), float(weight)) for name, (total, weight) in self.logged.items()}
        return {"stop": self.stop, "logged": logged, "seen": self.seen}


def save_buffer(buffer: Sequence[MicroBatch], checkpoint: Path, process: int) -> None:
    """Writes the rest of a process's rollout into a checkpoint; no file where nothing is left."""
    if buffer:
        tensors = {f"{i}.{name}": torch.as_tensor(v) for i, batch in enumerate(buffer) for name, v in batch.items()}
        save_file(tensors, _file(checkpoint, process))


def load_buffer(checkpoint: Path, process: int) -> list[MicroBatch]:
    """Returns what :func:`save_buffer` wrote."""
    if not _file(checkpoint, process).is_file():
        return []
    batches: dict[int, MicroBatch] = {}
    for key, tensor in load_file(_file(checkpoint, process)).items():
        i, _, name = key.partition(".")
        batches.setdefault(int(i), {})[name] = int(tensor) if name == "prompts" else tensor
    return [batches[i] for i in range(len(batches))]


def _file(checkpoint: Path, process: int) -> Path:
    return checkpoint / f"rollout_{process}.safetensors"
