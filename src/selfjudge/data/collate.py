"""Batches of JSFT rows as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selfjudge.data.rows import Row


@dataclass(frozen=True)
class JsftCollator:
    """Pads rows on the right.

    Returns ``input_ids``, ``attention_mask`` (both [rows, length], int64) and ``target_weights`` ([rows, length],
    float32): 0 where a token is not a target, 1 for a policy target, ``judgment_weight`` for a judgment target.
    """

    pad_id: int
    judgment_weight: float = 1.0

    def __call__(self, features: Sequence[dict[str, object]]) -> dict[str, Tensor]:
        """Collates ``{"rows": (Row, ...)}`` features, see :func:`selfjudge.data.rows.examples`."""
        rows: list[Row] = [row for feature in features for row in feature["rows"]]  # type: ignore[attr-defined]
        longest = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), longest), self.pad_id)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        weights = torch.zeros((len(rows), longest))
        for i, row in enumerate(rows):
            n = len(row.ids)
            ids[i, :n] = torch.tensor(row.ids)
            mask[i, :n] = 1
            weights[i, :n] = torch.tensor(row.is_target).float() * self._weight(row)
        return {"input_ids": ids, "attention_mask": mask, "target_weights": weights}

    def _weight(self, row: Row) -> float:
        return self.judgment_weight if row.kind == "judgment" else 1.0
