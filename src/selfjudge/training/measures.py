"""Means of what training measures, over the steps between two logs and over all processes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from selfjudge.training.processes import gather_objects


class Measures:
    """Weighted sums by name."""

    def __init__(self) -> None:
        """Starts with nothing measured."""
        self._sums: dict[str, Tensor | float] = {}
        self._weights: dict[str, float] = {}

    def note(self, name: str, value: Tensor | float, weight: float) -> None:
        """Adds a mean of ``weight`` things; without any, or NaN, nothing was measured. A tensor stays on its device."""
        if weight and (isinstance(value, Tensor) or not math.isnan(value)):
            self._sums[name] = self._sums.get(name, 0.0) + value * weight
            self._weights[name] = self._weights.get(name, 0.0) + weight

    def take(self) -> dict[str, float]:
        """Returns the means of all processes, which call this together, and begins anew."""
        shares = gather_objects(self._on_host())
        self._sums, self._weights = {}, {}
        names = dict.fromkeys(name for share in shares for name in share)
        return {name: _mean(share[name] for share in shares if name in share) for name in names}

    def noted(self) -> dict[str, tuple[Tensor | float, float]]:
        """Returns this process's weighted sums and weights by name, as they are now."""
        return {name: (self._sums[name], weight) for name, weight in self._weights.items()}

    def restore(self, noted: Mapping[str, tuple[float, float]]) -> None:
        """Takes back what :meth:`noted` gave."""
        self._sums = {name: total for name, (total, _) in noted.items()}
        self._weights = {name: weight for name, (_, weight) in noted.items()}

    def _on_host(self) -> dict[str, tuple[float, float]]:
        sums = {name: value for name, value in self._sums.items() if isinstance(value, Tensor)}
        # One transfer for all of them: each makes the host wait for the device.
        moved = dict(zip(sums, torch.stack([*sums.values()]).tolist(), strict=True)) if sums else {}
        return {name: (float({**self._sums, **moved}[name]), weight) for name, weight in self._weights.items()}


def _mean(parts: Iterable[tuple[float, float]]) -> float:
    sums, weights = zip(*parts, strict=True)
    return sum(sums) / sum(weights)
