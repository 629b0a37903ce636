"""Which sequences begin alike, and in which order to compute them so that what they share is computed once.

Both orders of a pair, principles that share their text, and all matches of a prompt begin alike. A sequence borrows
the keys and values of its beginning from one that was computed before it; waves say what is before what.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

Ids = tuple[int, ...]

MIN_SHARED = 16
"""Fewer tokens than this are computed again: gathering keys and values is not free."""


@dataclass(frozen=True)
class Task:
    """Computes ``sequence[shared:]``, borrowing what is before it from ``lender``, a sequence that is done by then."""

    sequence: Ids
    lender: Ids | None
    shared: int

    @property
    def rest(self) -> int:
        """How many tokens are computed."""
        return len(self.sequence) - self.shared


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Returns how many first tokens are equal."""
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)


def waves(sequences: Sequence[Ids], done: Sequence[Ids] = ()) -> list[list[Task]]:
    """Returns the tasks of distinct sequences in waves; a task borrows from an earlier wave or from ``done``.

    Each borrows the longest beginning there is. In sorted order that is with a neighbour, and of all that share as
    much the first is the lender, so that waves are few: one sequence for all, one for each prompt, the rest.
    At least the last token is always computed, as its logits are asked for.
    """
    known = sorted(done)
    wave: dict[Ids, int] = {}
    planned: list[list[Task]] = []
    before: list[Ids] = []
    for sequence in sorted(sequences):
        lender, shared = _best_of(known, sequence)
        number = 0
        near = min(common_prefix(before[-1], sequence), len(sequence) - 1) if before else 0
        if near > shared and near >= MIN_SHARED:
            lender, shared = _first_sharing(before, sequence, near), near
            number = wave[lender] + 1
        task = Task(sequence, lender, shared) if shared >= MIN_SHARED else Task(sequence, None, 0)
        if number == len(planned):
            planned.append([])
        planned[number].append(task)
        wave[sequence] = number
        before.append(sequence)
    return planned


def worthwhile(planned: Sequence[Sequence[Task]], done: Sequence[Ids], tokens: int) -> list[list[Task]]:
    """Returns the plan of :func:`waves` without the waves that save too little.

    What such a wave would have borrowed from the wave before it is computed again, together with that wave. Too little
    are fewer than ``tokens`` tokens: a wave takes a forward of its own, and one of few tokens takes an accelerator as
    long as one of more. Too little is less than half of what is left to compute in both waves, too: keeping keys and
    values of the one, gathering them for the other, and attention with a mask cost about as much. With 0 ``tokens``
    every wave is kept.
    """
    known = sorted(done)
    kept: list[list[Task]] = []
    for wave in planned:
        before = {task.sequence for task in kept[-1]} if kept else set()
        saved = sum(task.shared for task in wave if task.lender in before)
        if kept and tokens and saved < max(tokens, sum(task.rest for task in [*kept[-1], *wave]) / 2):
            kept[-1] += [_alone(task.sequence, known) if task.lender in before else task for task in wave]
        else:
            kept.append(list(wave))
    return kept


def _alone(sequence: Ids, known: Sequence[Ids]) -> Task:
    """Returns the task of a sequence that borrows from the sorted ``known`` ones at most."""
    lender, shared = _best_of(known, sequence)
    return Task(sequence, lender, shared) if shared >= MIN_SHARED else Task(sequence, None, 0)


def _best_of(known: Sequence[Ids], sequence: Ids) -> tuple[Ids | None, int]:
    """Returns the sorted ``known`` sequence that shares the longest beginning, and that length."""
    place = bisect_left(known, sequence)
    best = max(known[max(0, place - 1) : place + 1], key=lambda other: common_prefix(other, sequence), default=None)
    return best, min(common_prefix(best, sequence), len(sequence) - 1) if best else 0


def _first_sharing(before: Sequence[Ids], sequence: Ids, shared: int) -> Ids:
    """Returns the first of the sorted ``before`` that begins with ``sequence[:shared]``; the last one does."""
    return before[bisect_left(before, sequence[:shared])]
