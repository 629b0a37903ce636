"""An epoch for several processes: as many batches for each, every row once, and nothing in the places that are left.

Left to itself, accelerate fills the last batches with rows from the epoch's beginning, which would count twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Dataset, RandomSampler, Sampler
from transformers import Trainer

NO_ROW = -1
"""The position of a place that holds no row."""


class EvenSampler(Sampler[int]):
    """The positions of another sampler, then :data:`NO_ROW` up to a multiple."""

    def __init__(self, sampler: Any, multiple: int) -> None:
        """Takes a sampler with a length; ``multiple``: rows of a batch times processes."""
        self._sampler, self._multiple = sampler, multiple

    def __len__(self) -> int:
        """Returns the number of places."""
        return -(-len(self._sampler) // self._multiple) * self._multiple

    def __iter__(self) -> Iterator[int]:
        """Yields the epoch's positions."""
        yield from self._sampler
        yield from [NO_ROW] * (len(self) - len(self._sampler))

    def set_epoch(self, epoch: int) -> None:
        """Passes the epoch on, from which the order is drawn."""
        if hasattr(self._sampler, "set_epoch"):
            self._sampler.set_epoch(epoch)


def even_sampler(trainer: Trainer, sampler: Sized | None) -> Any:
    """Returns the train sampler of a trainer, evened out where there are several processes.

    Not where the recipe drops the last batch: then accelerate leaves out what is not there for all.
    """
    args, processes = trainer.args, trainer.accelerator.num_processes
    if sampler is None or processes == 1 or args.dataloader_drop_last:
        return sampler
    if isinstance(sampler, RandomSampler):
        # accelerate would do the same, but does not look inside of ours: all processes draw one order.
        sampler = SeedableRandomSampler(sampler.data_source, generator=torch.Generator(), data_seed=args.data_seed)
    return EvenSampler(sampler, trainer._train_batch_size * processes)


class EvenRows(Dataset[Any]):
    """Rows by position; None where there is no row."""

    def __init__(self, rows: Sequence[Any]) -> None:
        """Takes the rows."""
        self.rows = rows

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.rows)

    def __getitem__(self, position: int) -> Any:
        """Returns the row, or None."""
        return None if position == NO_ROW else self.rows[position]


@dataclass(frozen=True)
class EvenCollator:
    """Collates the rows that are there. A batch without any is ``stand_in``'s, with the ``weights`` set to zero: every
    process has to go through the model as often as the others.
    """

    collator: Callable[[list[Any]], dict[str, Any]]
    stand_in: Any
    weights: str

    def __call__(self, features: Sequence[Any]) -> dict[str, Any]:
        """Returns the batch."""
        there = [feature for feature in features if feature is not None]
        if there:
            return self.collator(there)
        batch = self.collator([self.stand_in])
        return {**batch, self.weights: torch.zeros_like(batch[self.weights])}
