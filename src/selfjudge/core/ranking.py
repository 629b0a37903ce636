"""Many systems on the same prompts: a Bradley-Terry ranking and every pair's win rate, with intervals over prompts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy.sparse.csgraph import connected_components

from selfjudge.core.bootstrap import RESAMPLES, bootstrap_rate
from selfjudge.core.statistics import Rate
from selfjudge.errors import MissingExtraError

PRIOR = 0.5
"""Wins given to each side of every compared pair: Jeffreys' prior of a rate."""

_SAME = 6  # Decimals in which equal systems have equal scores, whatever the rounding of the fit.

Wins = npt.NDArray[np.float64]
"""Wins of row over column."""


@dataclass(frozen=True)
class Outcome:
    """One comparison: on ``prompt``, ``a`` got ``score`` against ``b``; 1 is a win of a, 0 one of b, 0.5 a tie."""

    prompt: str
    a: str
    b: str
    score: float


class Ranked(BaseModel):
    """A system's place. Scores are log-odds of mean 0: who leads by x wins with probability e^x / (1 + e^x)."""

    model_config = ConfigDict(frozen=True)

    name: str
    score: float
    low: float
    high: float
    rank: int


class Ranking(BaseModel):
    """``n``: prompts. ``systems``: the best first; equal scores share a rank.

    ``rates``: how often the system of the row beats that of the column, both in the order of ``systems``; None on the
    diagonal and of a pair that was not compared.
    """

    model_config = ConfigDict(frozen=True)

    n: int
    systems: tuple[Ranked, ...]
    rates: tuple[tuple[Rate | None, ...], ...]


def rank_systems(outcomes: Iterable[Outcome], seed: int = 0) -> Ranking:
    """Ranks two or more systems by the Bradley-Terry model (Bradley and Terry 1952), fitted by ``evalica``.

    Outcomes of the same prompt and pair are averaged. Half a win is added to each side of every compared pair, so that
    a system that always wins has a finite score; two systems differ by log((wins + 1/2) / (losses + 1/2)). Intervals of
    scores come from the Bayesian bootstrap over prompts (Rubin 1981), 2,000 seeded draws: each prompt has a weight from
    the exponential distribution, and each added win of weight 1/2 one from a gamma distribution of that shape. Of two
    systems without ties that is the Jeffreys interval, which keeps a width for wins alone. Win rates are
    ``bootstrap_rate`` over prompts, with nothing added.

    Raises:
        ValueError: a score is not in 0..1, a system meets itself, or no chain of comparisons links all systems.
        MissingExtraError: if evalica is not installed.
    """
    pairs, prompts = _mean_scores(outcomes)
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    if len(names) < 2:
        raise ValueError("there is nothing to rank: outcomes of at least two systems are needed")
    wins, compared = _wins(pairs, prompts, names)
    parts, _ = connected_components(compared, directed=False)
    if parts > 1:
        raise ValueError("no chain of comparisons links all systems: compare each with one of the others")
    scores = _bradley_terry(wins.sum(axis=0) + PRIOR * compared)
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=(RESAMPLES, len(wins)))
    added = rng.gamma(PRIOR, size=(RESAMPLES, *compared.shape)) * compared
    drawn = np.tensordot(weights, wins, axes=1) + added
    low, high = np.quantile([_bradley_terry(w) for w in drawn], (0.025, 0.975), axis=0)
    rounded = scores.round(_SAME)
    order = sorted(range(len(names)), key=lambda i: -rounded[i])
    return Ranking(
        n=len(wins),
        systems=tuple(
            Ranked(name=names[i], score=scores[i], low=low[i], high=high[i], rank=1 + int((rounded > rounded[i]).sum()))
            for i in order
        ),
        rates=_rates(pairs, [names[i] for i in order], seed),
    )


def _mean_scores(outcomes: Iterable[Outcome]) -> tuple[dict[tuple[str, str], dict[str, float]], list[str]]:
    """Returns of each pair, named in one order, its first side's mean score on each prompt, and all prompts."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    prompts: dict[str, None] = {}
    for o in outcomes:
        if not 0 <= o.score <= 1 or o.a == o.b:
            raise ValueError(f"{o}: a score in 0..1 of two different systems is needed")
        turned = (o.b, o.a) in found
        pair, score = ((o.b, o.a), 1 - o.score) if turned else ((o.a, o.b), o.score)
        found.setdefault(pair, {}).setdefault(o.prompt, []).append(score)
        prompts[o.prompt] = None
    means = {pair: {p: math.fsum(s) / len(s) for p, s in by.items()} for pair, by in found.items()}
    return means, list(prompts)


def _wins(
    pairs: Mapping[tuple[str, str], Mapping[str, float]], prompts: Sequence[str], names: Sequence[str]
) -> tuple[Wins, npt.NDArray[np.bool_]]:
    """Returns the wins of row over column on each prompt, and which of them were compared on any."""
    row, place = {p: n for n, p in enumerate(prompts)}, {name: i for i, name in enumerate(names)}
    wins = np.zeros((len(prompts), len(names), len(names)))
    compared = np.zeros(wins.shape[1:], dtype=bool)
    for (a, b), scores in pairs.items():
        i, j = place[a], place[b]
        compared[i, j] = compared[j, i] = True
        for prompt, score in scores.items():
            wins[row[prompt], i, j], wins[row[prompt], j, i] = score, 1 - score
    return wins, compared


def load_evalica() -> Any:
    """Returns the package that fits the ranking; asked for before long work, it is not found missing after it.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import evalica
    except ImportError as e:
        raise MissingExtraError("A ranking", "eval") from e
    return evalica


def _bradley_terry(wins: Wins) -> Wins:
    """Returns the log-strength of each system, their mean 0."""
    import pandas as pd

    evalica = load_evalica()
    winners, losers = np.nonzero(wins)
    names = range(len(wins))
    found = evalica.bradley_terry(
        winners.tolist(),
        losers.tolist(),
        [evalica.Winner.X] * len(winners),
        index=pd.Index(names),
        weights=wins[winners, losers].tolist(),
        tolerance=1e-10,
        limit=10_000,
    )
    # Their geometric mean is 1.
    return np.asarray(np.log(found.scores.loc[names].to_numpy()), dtype=np.float64)


def _rates(
    pairs: Mapping[tuple[str, str], Mapping[str, float]], names: Sequence[str], seed: int
) -> tuple[tuple[Rate | None, ...], ...]:
    rates = {pair: bootstrap_rate(list(scores.values()), seed) for pair, scores in pairs.items()}
    for (a, b), r in list(rates.items()):
        rates[b, a] = Rate(rate=1 - r.rate, low=1 - r.high, high=1 - r.low, n=r.n)
    return tuple(tuple(rates.get((a, b)) for b in names) for a in names)
