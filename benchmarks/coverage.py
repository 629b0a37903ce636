"""How often the BCa bootstrap interval of a mean holds the true mean, for scores that are skewed and for few of them.

    python benchmarks/coverage.py

A line for each number of scores (prompts), a column for each kind of scores. It says 95 % and should hold the truth in
95 % of the runs. With 10,000 runs a figure near 94 % has an error of ±0.5 (95 %). Takes 15 minutes of one core.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from selfjudge.core.bootstrap import bootstrap_mean, bootstrap_rate
from selfjudge.core.statistics import Estimate, Rate

Drawn = tuple[np.ndarray, float]
"""Scores, and their true mean."""


class Kind(NamedTuple):
    """How n scores of a kind are drawn, and the interval that is tried on them."""

    draw: Callable[[np.random.Generator, int], Drawn]
    interval: Callable[[Sequence[float], int], Estimate | Rate]


def wins(rng: np.random.Generator, n: int) -> Drawn:
    """Returns wins (1) and losses (0) at a rate of 0.85 to 0.95.

    It is drawn for each run: how often the interval holds one single rate goes up and down with n, as a share has only
    n + 1 values.
    """
    rate = rng.uniform(0.85, 0.95)
    return (rng.random(n) < rate).astype(float), rate


# Heading, with the skewness → scores. Win rates have their own function, as wins alone get a Wilson interval.
KINDS = {
    "wins, 85 to 95 % (-2 to -4)": Kind(wins, bootstrap_rate),
    "log-normal, σ 0.5 (1.8)": Kind(lambda rng, n: (rng.lognormal(0, 0.5, n), math.exp(0.5**2 / 2)), bootstrap_mean),
    "exponential (2)": Kind(lambda rng, n: (rng.exponential(size=n), 1.0), bootstrap_mean),
    "log-normal, σ 1 (6.2)": Kind(lambda rng, n: (rng.lognormal(0, 1, n), math.exp(0.5)), bootstrap_mean),
}


def coverage(kind: Kind, n: int, runs: int) -> float:
    """Returns the share of runs, each with n scores of its own, whose interval holds the true mean."""
    rng, held = np.random.default_rng(n), 0
    for run in range(runs):
        scores, mean = kind.draw(rng, n)
        found = kind.interval(scores.tolist(), run)
        held += found.low <= mean <= found.high
    return held / runs


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--n", type=int, nargs="+", default=[20, 40, 60, 80, 100, 150, 200, 300])
    args = parser.parse_args()
    print("| n | " + " | ".join(KINDS) + " |", flush=True)
    print("| --- |" + " --- |" * len(KINDS), flush=True)
    for n in args.n:
        cells = [f" {100 * coverage(kind, n, args.runs):.1f} |" for kind in KINDS.values()]
        print(f"| {n} |" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
