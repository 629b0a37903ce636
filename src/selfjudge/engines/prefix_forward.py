"""Next-token log-probs of sequences that borrow keys and values from each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from selfjudge.engines.causal_lm import Layers
from selfjudge.engines.prefixes import Ids, Task, waves


class BatchForward(Protocol):
    """How the model computes a batch of tasks: :class:`PaddedForward` or :class:`PackedForward`."""

    def batches(self, lengths: Sequence[int], budget: int, max_rows: int | None) -> list[list[int]]:
        """Groups indices of tasks with so many tokens to compute, at most ``budget`` in a batch, padding included."""

    def size(self, lengths: Sequence[int]) -> int:
        """Returns the tokens of a batch, padding included."""

    def run(
        self, tasks: Sequence[Task], tokens: Sequence[tuple[int, ...]], computed: Mapping[Ids, Layers], *, keep: bool
    ) -> tuple[Tensor, dict[Ids, Layers]]:
        """Returns log-probs [tasks, k] of the tokens asked about and, where asked to ``keep`` them, the keys and values
        of each sequence. ``computed`` has those of the lenders.
        """


@dataclass
class Counts:
    """Tokens: of the sequences asked about, computed for them, and in batches with their padding."""

    asked: int = 0
    computed: int = 0
    padded: int = 0

    @property
    def prefix_reuse(self) -> float:
        """The share of what was asked about that was borrowed instead of computed."""
        return 1 - self.computed / self.asked

    @property
    def padding_share(self) -> float:
        """The share of padding in what was computed."""
        return 1 - self.computed / self.padded


class PrefixForward:
    """Computes sequences in waves. Between calls it remembers nothing, unless it is asked to."""

    def __init__(self, forward: BatchForward, *, share: bool) -> None:
        """Takes what computes a batch; ``share`` False computes every sequence whole."""
        self._forward, self._share = forward, share
        self._memory: dict[Ids, Layers] = {}
        self._limit = 0
        self.counts = Counts()

    @contextmanager
    def remembering(self, tokens: int) -> Iterator[None]:
        """Lets later calls borrow from earlier ones, up to ``tokens`` tokens of keys and values."""
        self._limit = tokens
        try:
            yield
        finally:
            self._limit = 0
            self._memory.clear()

    def logprobs(
        self, sequences: Sequence[Ids], tokens: Sequence[tuple[int, ...]], budget: int, max_rows: int | None
    ) -> Tensor:
        """Returns log p(token | sequence), float32, softmax over the whole vocabulary, on the CPU.

        Args:
            sequences: distinct token sequences.
            tokens: k tokens asked about after each sequence.
            budget: padded tokens of a batch.
            max_rows: rows of a batch at most.

        Returns:
            [sequences, k].
        """
        asked = dict(zip(sequences, tokens, strict=True))
        planned = waves(sequences, list(self._memory)) if self._share else [[Task(s, None, 0) for s in sequences]]
        lenders = {task.lender for wave in planned for task in wave if task.lender is not None}
        found: dict[Ids, Tensor] = {}
        computed = dict(self._memory)
        for wave in planned:
            lengths = [len(task.sequence) - task.shared for task in wave]
            for batch in ([wave[i] for i in b] for b in self._forward.batches(lengths, budget, max_rows)):
                keep = self._share and (bool(self._limit) or any(task.sequence in lenders for task in batch))
                self._count(batch)
                logprobs, caches = self._forward.run(batch, [asked[t.sequence] for t in batch], computed, keep=keep)
                found |= dict(zip((t.sequence for t in batch), logprobs.cpu(), strict=True))
                computed |= caches
        self._remember(computed)
        return torch.stack([found[s] for s in sequences])

    def _remember(self, computed: dict[Ids, Layers]) -> None:
        room = self._limit
        self._memory = {}
        for sequence in reversed(computed):  # the latest first
            room -= len(sequence)
            if room < 0:
                break
            self._memory[sequence] = computed[sequence]

    def _count(self, batch: Sequence[Task]) -> None:
        rest = [len(task.sequence) - task.shared for task in batch]
        self.counts.asked += sum(len(task.sequence) for task in batch)
        self.counts.computed += sum(rest)
        self.counts.padded += self._forward.size(rest)
