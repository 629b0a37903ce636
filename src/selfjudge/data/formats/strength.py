"""How strongly a label is held: the belief that ``chosen`` is better, from 0.5 (no idea) to 1 (certain).

A format that only says which answer is better gives no strength. The others give it by one of three rules:

- a preference p on a scale from -M to M: 0.5 + abs(p) / (2 M);
- two ratings or scores: the logistic function of their difference (Bradley-Terry, a point is one unit of log-odds);
- votes: the share of votes for ``chosen``, a vote for a tie counting as half a vote for each side.

A pair that has no better side, and is ordered by the tie rule, has the strength 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

UNDECIDED = 0.5
"""The strength of a pair that the tie rule orders."""


def from_scale(preference: float, most: float) -> float:
    """Returns the strength of a preference on a scale from ``-most`` to ``most``; beyond it counts as its end."""
    return 0.5 + min(abs(preference) / most, 1.0) / 2


def from_ratings(better: float, worse: float) -> float:
    """Returns the strength of two ratings, in points, of which ``better`` is not below ``worse``."""
    return 1 / (1 + math.exp(worse - better))


def from_votes(votes: Sequence[float]) -> float:
    """Returns the strength of votes: each is positive for one side, negative for the other, 0 for a tie.

    ``votes`` must not be empty. The strength is that of the side with the most votes, whichever it is.
    """
    share = sum((vote > 0) + (vote == 0) / 2 for vote in votes) / len(votes)
    return max(share, 1 - share)
