"""How often a knockout ends with a good answer: the model of arXiv 2411.19477 (Chen et al.).

Candidates are good or bad. A good one beats a bad one with probability p_comp, in every match alike and independently;
of two good or two bad ones either may win. ``p_gen`` is the probability that a candidate is good.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, hypergeom


def good_winner(n: int, p_comp: float) -> NDArray[np.float64]:
    """Returns [n + 1]: the probability that a good candidate wins when 0, 1, ..., n of the n are good.

    Exact, by recursion over the bracket of :mod:`selfjudge.core.bracket`, byes included. Each part of it carries two
    sums over the ways to place h good candidates on its leaves: one of the probability that its winner is good, one
    that it is bad. Every place counts one half, so that the sums stay within range.

    Raises:
        ValueError: if ``n`` is not within 1..1000.
    """
    if not 1 <= n <= 1000:
        raise ValueError(f"{n} candidates: the recursion is made for 1 to 1000")
    # In the order of the draw; of each part (winner is good, winner is bad), by the number of good ones in it.
    alive = [(np.array([0, 0.5]), np.array([0.5, 0]))] * n
    while len(alive) > 1:
        pairs = len(alive) // 2
        # As in BracketState.advance: the bye goes to the front.
        alive = alive[2 * pairs :] + [_meet(alive[2 * i], alive[2 * i + 1], p_comp) for i in range(pairs)]
    good, bad = alive[0]
    return np.asarray(good / (good + bad))


_Part = tuple[NDArray[np.float64], NDArray[np.float64]]


def _meet(a: _Part, b: _Part, p_comp: float) -> _Part:
    (good_a, bad_a), (good_b, bad_b) = a, b
    mixed = np.convolve(good_a, bad_b) + np.convolve(bad_a, good_b)
    return np.convolve(good_a, good_b) + p_comp * mixed, np.convolve(bad_a, bad_b) + (1 - p_comp) * mixed


def good_counts(n: int, candidates: int, good: int) -> NDArray[np.float64]:
    """Returns [n + 1]: the probability that 0, 1, ..., n of n candidates are good, drawn from ``candidates`` of which
    ``good`` are, without putting back.

    Where the candidates are themselves drawn, each good with probability p_gen, the mean of this over draws is the
    binomial distribution of p_gen: nothing is lost by using each prompt's own count.
    """
    return np.asarray(hypergeom.pmf(np.arange(n + 1), candidates, good, n), dtype=np.float64)


def majority(p: float, repeats: int) -> float:
    """Returns the probability of more successes than failures in ``repeats`` trials of ``p``; a coin decides a draw."""
    half = repeats / 2
    return float(binom.sf(half, repeats, p) + (binom.pmf(half, repeats, p) / 2 if repeats % 2 == 0 else 0))


def failure_bound(n: int, repeats: int, p_gen: float, p_comp: float) -> float:
    """Returns the bound on the probability that the winner of a knockout is bad (arXiv 2411.19477, theorem 1).

        (1 - p_gen)^N + ceil(log2 N) exp(-2 K (p_comp - 1/2)^2)

    at most 1, with K = ``repeats`` comparisons in a match and p_comp the probability that one of them is right. For
    p_comp of 1/2 or less the theorem says nothing, and a tournament gets 1.
    """
    if n > 1 and p_comp <= 0.5:
        return 1.0
    wrong = math.ceil(math.log2(n)) * math.exp(-2 * repeats * (p_comp - 0.5) ** 2)
    return min(1.0, (1 - p_gen) ** n + wrong)
