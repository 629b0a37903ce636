"""Single elimination, as pure bookkeeping: who meets whom, who has a bye, who is left.

N candidates need N - 1 matches in ceil(log2 N) rounds. The draw is seeded; the caller's list is never touched.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from selfjudge.records import Match


def draw(n: int, seed: int) -> tuple[int, ...]:
    """Returns a seeded permutation of range(n).

    Raises:
        ValueError: if ``n`` < 1.
    """
    if n < 1:
        raise ValueError("a tournament needs at least one candidate")
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return tuple(order)


@dataclass
class BracketState:
    """A running bracket. Alternate :meth:`pairings` and :meth:`advance` until :attr:`finished`.

    Those of the ``n`` candidates that are ``left_out`` take no part; the draw of the others is what it is with them.
    """

    n: int
    seed: int
    left_out: frozenset[int] = frozenset()
    round: int = field(default=0, init=False)
    order: tuple[int, ...] = field(init=False)
    alive: list[int] = field(init=False)
    byes: list[tuple[int, int]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Draws the starting order.

        Raises:
            ValueError: if no candidate is left.
        """
        self.order = tuple(candidate for candidate in draw(self.n, self.seed) if candidate not in self.left_out)
        if not self.order:
            raise ValueError("every candidate is left out")
        self.alive = list(self.order)

    @property
    def finished(self) -> bool:
        """True when one candidate is left."""
        return len(self.alive) == 1

    def pairings(self) -> list[tuple[int, int]]:
        """Returns the matches of this round: neighbours in the order; the last one has a bye when odd."""
        pairs = len(self.alive) // 2
        return [(self.alive[2 * i], self.alive[2 * i + 1]) for i in range(pairs)]

    def advance(self, winners: list[int]) -> None:
        """Takes the winners of this round, in the order of :meth:`pairings`.

        Raises:
            ValueError: if there is not exactly one winner, out of its pair, for each match.
        """
        pairings = self.pairings()
        if len(winners) != len(pairings) or any(w not in pair for w, pair in zip(winners, pairings, strict=True)):
            raise ValueError(f"round {self.round} needs one winner out of each of {pairings}, got {winners}")
        rest = self.alive[2 * len(pairings) :]
        self.byes += [(self.round, candidate) for candidate in rest]
        # The bye goes to the front: with an odd number again next round, somebody else sits out.
        self.alive = rest + winners
        self.round += 1


def tie_winner(a: int, b: int, seed: int, round_: int) -> int:
    """Returns who advances when the judge calls a tie: a seeded coin, for either side alike."""
    return random.Random(f"{seed}:{round_}:{min(a, b)}:{max(a, b)}").choice((min(a, b), max(a, b)))


def placing(alive: Sequence[int], matches: Sequence[Match], left_out: Iterable[int] = ()) -> tuple[int, ...]:
    """Returns all candidates of a bracket in the order of their placing, the best first.

    Who is still in comes first, by matches won; then who went out later is ahead of who went out earlier. Of two that
    went out in the same round, the one who lost to the better placed is ahead. Who took no part comes last.

    Args:
        alive: who is still in; only the winner when the bracket is finished.
        matches: the matches so far, in the order of their rounds.
        left_out: who took no part.
    """
    wins = Counter(match.winner for match in matches)
    placed = sorted(alive, key=lambda candidate: -wins[candidate])
    for round_ in sorted({match.round for match in matches}, reverse=True):
        lost_to = {m.winner: m.a + m.b - m.winner for m in matches if m.round == round_}
        placed += [lost_to[candidate] for candidate in placed if candidate in lost_to]
    return (*placed, *sorted(left_out))
