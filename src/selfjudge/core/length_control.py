"""Win rates without the advantage of length: AlpacaEval 2's, and an estimate from the answers alone.

Both are logistic regressions of the scores on the difference in length (Dubois et al. 2024, arXiv 2404.04475), with
x = tanh((len_a - len_b) / sd). The rate is the mean prediction at x = 0.

    length_controlled:  logit P(a preferred on prompt i) = theta + phi * x_i + psi * difficulty_i
    equal_length:       logit P(a preferred on prompt i) = theta + phi * x_i

The difficulties are an input: AlpacaEval estimated them from all systems of its leaderboard together. Without them phi
takes over what is really difficulty. A reference writes more where the prompt is harder, so the regression would
credit the shorter system too much; ``equal_length`` holds phi back instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from selfjudge.core.statistics import Rate, mean_rate

Array = NDArray[np.float64]

RESAMPLES = 500

SHRINKAGE = 0.015
"""Of ``equal_length``: the loss has SHRINKAGE / 2 * phi^2 for each prompt. It grows with the prompts because it stands
against a bias, which more prompts do not remove. Chosen by `benchmarks/length_control.py` on 54 systems of AlpacaEval's
leaderboard; 0.01 to 0.02 do about as well."""

PULL_CENTRE = (1.837, 0.745)
PULL_PRECISION = ((11.36, -7.32), (-7.32, 44.10))
"""Of ``length_controlled``: what draws phi and psi to AlpacaEval's baseline.

AlpacaEval adds the annotations of its baseline told to be verbose and told to be concise, 2 x 805 rows of weight 0.1,
which have no theta. These are the fit of (phi, psi) to those rows alone and the curvature of their loss there, that is
the rows' loss to second order. `benchmarks/length_control.py` derives them from AlpacaEval's published coefficients."""

_KEEPS_FINITE = 0.001
"""Of each coefficient, in both. AlpacaEval has a weak L1 penalty there, whose weight is cross-validated."""


def length_controlled(
    scores: Sequence[float], lengths: Sequence[tuple[int, int]], difficulties: Sequence[float], seed: int = 0
) -> Rate:
    """Returns AlpacaEval 2's length-controlled win rate of a, with its percentile bootstrap interval over prompts.

    Source: ``glm_winrate.py`` of AlpacaEval, ``length_controlled_v1``. Two things differ, the pull to the second order
    and the weak penalty. For 48 systems of its leaderboard the figures are those published but for 0.04 points on
    average and 0.1 at most.

    Equal scores, such as wins alone, leave nothing to fit. They get the plain rate and its Wilson interval.

    Args:
        scores: how far a was preferred on each prompt, 0..1; 0.5 for a tie.
        lengths: characters of a's and of b's answer on the same prompts.
        difficulties: AlpacaEval's ``instruction_difficulty`` of the same prompts, in log-odds. Higher is easier for a.
        seed: of the 500 resamples.

    Raises:
        ValueError: if there are no prompts, or the three differ in length.
    """
    _check_same_prompts(scores, lengths, difficulties)
    if min(scores) == max(scores):
        return mean_rate(scores)
    y, x, d = np.asarray(scores, dtype=float), _length_term(lengths), np.asarray(difficulties, dtype=float)
    columns = np.stack([np.ones_like(x), x, d], axis=1)
    centre = np.array([0.0, *PULL_CENTRE])
    precision = _KEEPS_FINITE * np.eye(3)
    precision[1:, 1:] += PULL_PRECISION

    def rate(rows: NDArray[np.int64]) -> float:
        theta, _, psi = _fit(y[rows], columns[rows], centre, precision)
        return float(expit(theta + psi * d[rows]).mean())

    return _with_interval(rate, len(y), seed)


def equal_length(scores: Sequence[float], lengths: Sequence[tuple[int, int]], seed: int = 0) -> Rate:
    """Returns an estimate of a's win rate at equal length, with its percentile bootstrap interval over prompts.

    It is not AlpacaEval's figure. Where a's answers are nearly all longer, or nearly all shorter, it extrapolates. It
    corrects too little where length alone explains the scores, and may correct too much where the length goes with the
    difficulty of the prompt. Equal scores get the plain rate and its Wilson interval.

    Args:
        scores: how far a was preferred on each prompt, 0..1; 0.5 for a tie.
        lengths: characters of a's and of b's answer on the same prompts.
        seed: of the 500 resamples.

    Raises:
        ValueError: if there are no prompts, or the two differ in length.
    """
    _check_same_prompts(scores, lengths)
    if min(scores) == max(scores):
        return mean_rate(scores)
    y, x = np.asarray(scores, dtype=float), _length_term(lengths)
    columns = np.stack([np.ones_like(x), x], axis=1)
    precision = np.diag([_KEEPS_FINITE, _KEEPS_FINITE + SHRINKAGE * len(y)])

    def rate(rows: NDArray[np.int64]) -> float:
        return float(expit(_fit(y[rows], columns[rows], np.zeros(2), precision)[0]))

    return _with_interval(rate, len(y), seed)


def _check_same_prompts(scores: Sequence[float], *others: Sequence[object]) -> None:
    counts = [len(scores), *map(len, others)]
    if len(set(counts)) > 1 or not scores:
        raise ValueError(f"scores, lengths and difficulties of {counts} prompts: the same prompts are needed")


def _length_term(lengths: Sequence[tuple[int, int]]) -> Array:
    """Returns tanh of the difference in length over its standard deviation, [prompts]; 0 where it never varies."""
    difference = np.asarray([a - b for a, b in lengths], dtype=float)
    deviation = difference.std(ddof=1)
    return np.tanh(difference / deviation) if deviation > 0 else np.zeros_like(difference)


def _fit(y: Array, columns: Array, centre: Array, precision: Array) -> Array:
    """Returns the coefficients that minimise the log loss plus (b - centre)' precision (b - centre) / 2."""

    def loss(b: Array) -> tuple[float, Array]:
        logit, pull = columns @ b, precision @ (b - centre)
        value = np.logaddexp(0, logit).sum() - y @ logit + (b - centre) @ pull / 2
        return float(value), columns.T @ (expit(logit) - y) + pull

    return np.asarray(minimize(loss, centre, jac=True, method="BFGS").x)


def _with_interval(rate: Callable[[NDArray[np.int64]], float], n: int, seed: int) -> Rate:
    """Returns the rate of all n prompts with the percentile interval of the rates of its resamples."""
    rng = np.random.default_rng(seed)
    low, high = np.quantile([rate(rng.integers(n, size=n)) for _ in range(RESAMPLES)], [0.025, 0.975])
    return Rate(rate=rate(np.arange(n)), low=float(low), high=float(high), n=n)
