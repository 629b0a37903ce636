"""Next-token log-probs of sequences that borrow keys and values from each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor

from selfjudge.engines.prefixes import Ids, Task, waves, worthwhile


class BatchForward(Protocol):
    """How the model computes a batch of tasks: :class:`PaddedForward` or :class:`PackedForward`."""

    @property
    def busy(self) -> int:
        """Tokens that keep the device busy: a forward of fewer takes as long. 0 where a forward costs next to nothing
        beside its tokens.
        """

    def batches(self, tasks: Sequence[Task], budget: int, max_rows: int | None) -> list[list[Task]]:
        """Groups tasks; a batch has at most ``budget`` tokens to compute, padding included."""

    def size(self, lengths: Sequence[int]) -> int:
        """Returns the tokens of a batch, padding included."""

    def held(self, kept: Any) -> tuple[int, int]:
        """Returns which tensors hold what was kept of a sequence, by a name, and how many tokens these have: as long as
        one sequence of a batch is kept, so are the others' tokens.
        """

    def run(
        self,
        tasks: Sequence[Task],
        tokens: Sequence[tuple[int, ...]],
        computed: Mapping[Ids, Any],
        keep: Sequence[int],
    ) -> tuple[Tensor, dict[Ids, Any]]:
        """Returns log-probs [tasks, k] of the tokens asked about, on the model's device, and what was kept.

        ``keep`` says of how many first tokens of each sequence the keys and values are kept; those with 0 are left out.
        ``computed`` has what was kept of the lenders, in a form of the implementation's own.
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

    def __init__(self, forward: BatchForward, *, share: bool, border: int | None = None) -> None:
        """Takes what computes a batch; ``share`` False computes every one whole, ``border`` those of more tokens."""
        self._forward, self._share, self._border = forward, share, border
        self._memory: dict[Ids, Any] = {}
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
        planned = self._planned(sequences)
        keep = self._kept_lengths(planned)
        done: list[Ids] = []
        found: list[Tensor] = []
        computed = dict(self._memory)
        for wave in planned:
            for batch in self._forward.batches(wave, budget, max_rows):
                self._count(batch)
                names = [task.sequence for task in batch]
                logprobs, kept = self._forward.run(batch, [asked[s] for s in names], computed, [keep[s] for s in names])
                done += names
                found.append(logprobs)
                computed |= kept
        self._remember(computed)
        # All at once: to look at a batch's would be to wait for the device.
        place = {sequence: i for i, sequence in enumerate(done)}
        return torch.cat(found).cpu()[[place[s] for s in sequences]]

    def _planned(self, sequences: Sequence[Ids]) -> list[list[Task]]:
        if not self._share:
            return [[Task(s, None, 0) for s in sequences]]
        known = list(self._memory)
        sharing = [s for s in sequences if self._may_share(s)]
        planned = worthwhile(waves(sharing, known), known, self._forward.busy) or [[]]
        return [[*planned[0], *(Task(s, None, 0) for s in sequences if not self._may_share(s))], *planned[1:]]

    def _may_share(self, sequence: Ids) -> bool:
        return self._border is None or len(sequence) <= self._border

    def _kept_lengths(self, planned: Sequence[Sequence[Task]]) -> dict[Ids, int]:
        """Returns the tokens to keep of each sequence: what others borrow of it; where calls remember, all."""
        longest: dict[Ids, int] = defaultdict(int)
        for task in chain(*planned):
            remembered = self._limit and self._may_share(task.sequence)
            longest[task.sequence] = max(longest[task.sequence], len(task.sequence) if remembered else 0)
            if task.lender is not None:
                longest[task.lender] = max(longest[task.lender], task.shared)
        return longest

    def _remember(self, computed: dict[Ids, Any]) -> None:
        room, kept, holders = self._limit, [], set[int]()
        for sequence in reversed(computed):  # the latest first
            holder, tokens = self._forward.held(computed[sequence])
            if holder not in holders:
                room -= tokens
                holders.add(holder)
            if room < 0:
                break
            kept.append(sequence)
        self._memory = {sequence: computed[sequence] for sequence in reversed(kept)}

    def _count(self, batch: Sequence[Task]) -> None:
        rest = [task.rest for task in batch]
        self.counts.asked += sum(len(task.sequence) for task in batch)
        self.counts.computed += sum(rest)
        self.counts.padded += self._forward.size(rest)
