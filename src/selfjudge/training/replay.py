"""Replay: JSFT rows that self-training goes over again, so that the policy stays a judge."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from selfjudge.data.collate import JsftCollator
from selfjudge.data.rows import Row
from selfjudge.engines.target_logprobs import target_logprobs
from selfjudge.training.even import EvenCollator

ReplayBatch = dict[str, Any]
"""A batch of :class:`selfjudge.data.collate.JsftCollator`, with ``weight``: the sum of its target weights."""


@dataclass(frozen=True)
class Replay:
    """What is replayed, and ``weight``: that of its loss beside the preference loss.

    ``examples`` are those of JSFT: a policy row, or both orders of a pair (:func:`selfjudge.data.rows.examples`).
    """

    examples: Sequence[tuple[Row, ...]]
    collator: JsftCollator
    weight: float

    def batches(self, sizes: Sequence[int], seed: str, before: int = 0) -> list[ReplayBatch]:
        """Draws an optimisation step's examples, with replacement.

        Args:
            sizes: examples of each micro-batch; one without any gets an example of no weight, see
                :class:`selfjudge.training.even.EvenCollator`.
            seed: what alone decides the draw.
            before: examples of the step that are drawn first, for other processes.
        """
        places = random.Random(seed).choices(range(len(self.examples)), k=before + sum(sizes))[before:]
        drawn = map(self.examples.__getitem__, places)
        collator = EvenCollator(self.collator, {"rows": self.examples[0]}, "target_weights")
        batches = [collator([{"rows": example} for example in islice(drawn, size)]) for size in sizes]
        return [{**batch, "weight": float(batch["target_weights"].sum())} for batch in batches]


def replay_loss(model: PreTrainedModel, batch: ReplayBatch) -> Tensor:
    """Returns  Σ w_t · -log p(token_t)  over the targets of a batch, the numerator of JSFT's loss; nats."""
    logprobs = target_logprobs(model, {"input_ids": batch["input_ids"]}, batch["targets"])
    return -(logprobs * batch["target_weights"]).sum()
