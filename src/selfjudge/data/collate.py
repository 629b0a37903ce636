"""Batches of JSFT rows as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from selfjudge.data.rows import Row


@dataclass(frozen=True)
class ExampleDataset(Sequence[dict[str, object]]):
    """Examples as what the Trainer collates; ``input_ids`` give the length by which it may group."""

    examples: Sequence[tuple[Row, ...]]

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.examples)

    def __getitem__(self, place: Any) -> Any:
        """Returns an example."""
        rows = self.examples[place]
        return {"rows": rows, "input_ids": rows[0].ids}


@dataclass(frozen=True)
class JsftCollator:
    """Fills rows up on the right, or packs several of them into a sequence.

    Returns ``input_ids`` ([sequences, length], int64), ``targets`` ([targets], int64: where they are in the flattened
    ``input_ids``) and ``target_weights`` ([targets], float32): 1 for a policy target, ``judgment_weight`` for a
    judgment target. Nothing predicts a row's first token, so it is no target. There is no attention mask: what fills a
    sequence comes last, where nothing sees it, and attention is fastest without.

    With ``packing`` a sequence is as long as the longest row, and ``position_ids`` ([sequences, length], int64), which
    begin anew with each row, keep its rows apart: see :func:`selfjudge.training.packing.check_packing`.
    """

    pad_id: int
    judgment_weight: float = 1.0
    packing: bool = False

    def __call__(self, features: Sequence[dict[str, object]]) -> dict[str, Tensor]:
        """Collates ``{"rows": (Row, ...)}`` features, see :func:`selfjudge.data.rows.examples`."""
        rows: list[Row] = [row for feature in features for row in feature["rows"]]  # type: ignore[attr-defined]
        lengths = [len(row.ids) for row in rows]
        sequences = pack(lengths) if self.packing else [[i] for i in range(len(rows))]
        shape = (len(sequences), max(lengths))
        ids, positions, weights = (
            torch.full(shape, self.pad_id),
            torch.zeros(shape, dtype=torch.long),
            torch.zeros(shape),
        )
        for place, sequence in enumerate(sequences):
            start = 0
            for row in (rows[i] for i in sequence):
                end = start + len(row.ids)
                ids[place, start:end] = torch.tensor(row.ids)
                weights[place, start + 1 : end] = torch.tensor(row.is_target[1:]).float() * self._weight(row)
                # To the end of the sequence, so that what fills it looks like a part of the last row.
                positions[place, start:] = torch.arange(shape[1] - start)
                start = end
        targets = weights.flatten().nonzero().squeeze(-1)
        batch = {"input_ids": ids, "targets": targets, "target_weights": weights.flatten()[targets]}
        return {**batch, "position_ids": positions} if self.packing else batch

    def _weight(self, row: Row) -> float:
        return self.judgment_weight if row.kind == "judgment" else 1.0


def pack(lengths: Sequence[int]) -> list[list[int]]:
    """Returns the rows (their indices) of each sequence: first fit, longest first.

    No sequence is longer than the longest row: attention's mask takes the square of that length.
    """
    capacity = max(lengths)
    sequences: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = next((p for p, free in enumerate(room) if free >= lengths[i]), None)
        if place is None:
            place = len(sequences)
            sequences.append([])
            room.append(capacity)
        sequences[place].append(i)
        room[place] -= lengths[i]
    return sequences
