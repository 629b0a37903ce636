"""Win rates without the advantage of length: coefficients chosen first, scores made of them, and simulated coverage."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from scipy.special import expit, logit
from test_intervals import covered

from selfjudge.core.length_control import equal_length, length_controlled
from selfjudge.core.statistics import proportion

N = 40
T = np.tanh(np.sqrt((N - 1) / N))
"""Half of the answers of a are longer by 5 and half are shorter by 5: sd = 5 sqrt(N / (N - 1)), and x = +-T."""
LONGER_AND_SHORTER = [(10, 5)] * (N // 2) + [(5, 10)] * (N // 2)


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr("selfjudge.core.length_control.RESAMPLES", 2)


def two_groups(theta: float, phi: float, off: float) -> list[float]:
    """Scores at which the log loss has gradient 0 for theta and -``off`` for phi."""
    shift = off / (N * T)
    return [expit(theta + phi * T) + shift] * (N // 2) + [expit(theta - phi * T) - shift] * (N // 2)


def test_equal_length_by_hand(few_resamples):
    # At the minimum, sum (p - y) x + 0.015 N phi = 0: the shrinkage takes the gradient that the scores leave over.
    scores = two_groups(theta=-0.7, phi=1.2, off=0.015 * N * 1.2)
    assert equal_length(scores, LONGER_AND_SHORTER).rate == pytest.approx(expit(-0.7), abs=2e-4)


def test_the_pull_to_the_baseline_by_hand(few_resamples):
    # Each x = +-t meets each difficulty +-1 on 40 prompts. Off the centre by -0.5 in phi and -0.2 in psi, the pull is
    # 11.36 * -0.5 - 7.32 * -0.2 = -4.216 for phi and -7.32 * -0.5 + 44.10 * -0.2 = -5.16 for psi. The scores leave over
    # the same gradient, -(y - p) summed with the signs of x and of the difficulty.
    theta, phi, psi, t = -0.5, 1.337, 0.545, np.tanh(np.sqrt(159 / 160))
    cells = [(x, d) for x in (1, -1) for d in (1, -1)] * 40
    scores = [expit(theta + phi * t * x + psi * d) - 4.216 * x / (160 * t) - 5.16 * d / 160 for x, d in cells]
    found = length_controlled(scores, [(10, 5) if x > 0 else (5, 10) for x, _ in cells], [d for _, d in cells])
    assert found.rate == pytest.approx((expit(-0.5 + 0.545) + expit(-0.5 - 0.545)) / 2, abs=1e-4)


def test_the_baselines_own_coefficients_are_found_again(few_resamples):
    # Scores made of phi = 1.837, psi = 0.745 and a theta leave nothing to pull. The rate is a mean over difficulties.
    rng = np.random.default_rng(0)
    lengths = [(int(a), int(b)) for a, b in rng.integers(100, 900, (12, 2))]
    difficulties = rng.normal(0, 1.5, 12)
    deviation = statistics.stdev(a - b for a, b in lengths)
    x = np.array([np.tanh((a - b) / deviation) for a, b in lengths])
    scores = expit(-1.1 + 1.837 * x + 0.745 * difficulties)
    found = length_controlled(scores.tolist(), lengths, difficulties.tolist())
    assert found.rate == pytest.approx(expit(-1.1 + 0.745 * difficulties).mean(), abs=3e-4)


def simulated(rng, n: int, quality: float, phi: float):
    """Answers of a are longer, and length sways the annotator: (scores, lengths)."""
    lengths = np.stack([rng.integers(300, 900, n), rng.integers(100, 700, n)], axis=1)
    difference = (lengths[:, 0] - lengths[:, 1]).astype(float)
    p = expit(logit(quality) + phi * np.tanh(difference / difference.std()))
    return (rng.random(n) < p).astype(float).tolist(), [tuple(row) for row in lengths.tolist()]


def with_difficulty(rng, n: int):
    """Length sways the annotator, and b writes more on the hard prompts: (scores, lengths, difficulties, the truth)."""
    difficulty = rng.normal(0, 1.5, n)
    longer = np.clip(900 - 200 * difficulty + rng.normal(0, 150, n), 1, None).astype(int)
    x = np.tanh((400 - longer) / (400 - longer).std())
    scores = (rng.random(n) < expit(-0.5 + 1.837 * x + difficulty)).astype(float)
    lengths = [(400, b) for b in longer.tolist()]
    return scores.tolist(), lengths, difficulty.tolist(), expit(-0.5 + difficulty).mean()


def test_equal_length_holds_back_where_length_alone_decides(few_resamples):
    # Really a is the worse one (.4 at equal length), but it is longer, and length is liked. Most of it is corrected.
    scores, lengths = simulated(np.random.default_rng(6), 20_000, quality=0.4, phi=1.5)
    assert np.mean(scores) > 0.56
    assert 0.41 < equal_length(scores, lengths).rate < 0.45


def test_without_difficulties_the_shorter_system_is_overrated(few_resamples):
    scores, lengths, difficulties, truth = with_difficulty(np.random.default_rng(8), 5_000)
    assert np.mean(scores) < truth - 0.1
    assert length_controlled(scores, lengths, difficulties).rate == pytest.approx(truth, abs=0.02)
    assert equal_length(scores, lengths).rate > truth + 0.1


def test_the_interval_at_equal_length_covers(monkeypatch):
    # Fewer resamples and runs than elsewhere, as each resample is a fit: 150 runs have an error of .018.
    rng = np.random.default_rng(7)
    monkeypatch.setattr("selfjudge.core.length_control.RESAMPLES", 40)
    found = [equal_length(*simulated(rng, 200, quality=0.6, phi=0.5), seed) for seed in range(150)]
    assert 0.89 <= covered(found, 0.6) <= 0.99


def test_the_length_controlled_interval_covers(monkeypatch):
    # The truth has the baseline's coefficients, so that the pull biases nothing.
    rng = np.random.default_rng(9)
    monkeypatch.setattr("selfjudge.core.length_control.RESAMPLES", 40)
    found = []
    for seed in range(150):
        lengths = rng.integers(100, 900, (200, 2)) + np.array([150, 0])
        difference, d = lengths[:, 0] - lengths[:, 1], rng.normal(0, 1.5, 200)
        p = expit(-0.5 + 1.837 * np.tanh(difference / difference.std()) + 0.745 * d)
        scores = (rng.random(200) < p).astype(float)
        found.append(length_controlled(scores.tolist(), lengths.tolist(), d.tolist(), seed))
    # The rate over all prompts: the mean of sigmoid(-0.5 + 0.745 * 1.5 z) over the normal z.
    z, weight = np.polynomial.hermite_e.hermegauss(40)
    assert 0.89 <= covered(found, float(expit(-0.5 + 0.745 * 1.5 * z) @ weight / weight.sum())) <= 0.99


def test_the_interval_is_of_prompts_drawn_again(monkeypatch):
    """With a stand-in for the fit: theta from the drawn scores and lengths, phi 0, psi 1."""

    def fit(y, columns, centre, precision):
        assert (columns[:, 0] == 1).all()
        return np.array([logit(y.mean()) + columns[:, 1].mean(), 0.0, 1.0])[: len(centre)]

    monkeypatch.setattr("selfjudge.core.length_control.RESAMPLES", 9)
    monkeypatch.setattr("selfjudge.core.length_control._fit", fit)
    scores, difference, d = np.array([0.1, 0.9, 0.4, 0.7, 0.2]), np.array([3, -5, 8, 1, -2]), np.arange(5) / 4
    lengths = [(20 + x, 20) for x in difference.tolist()]
    x = np.tanh(difference / statistics.stdev(difference.tolist()))
    for seed in (0, 5):
        rng = np.random.default_rng(seed)
        rows = [np.arange(5), *(rng.integers(5, size=5) for _ in range(9))]
        theta = [logit(scores[r].mean()) + x[r].mean() for r in rows]
        plain = [expit(t) for t in theta]
        controlled = [expit(t + d[r]).mean() for t, r in zip(theta, rows, strict=True)]
        for rates, found in (
            (plain, equal_length(scores.tolist(), lengths, *[seed] * (seed > 0))),
            (controlled, length_controlled(scores.tolist(), lengths, d.tolist(), *[seed] * (seed > 0))),
        ):
            low, high = np.quantile(rates[1:], [0.025, 0.975])
            assert (found.rate, found.low, found.high, found.n) == pytest.approx((rates[0], low, high, 5))


@pytest.mark.parametrize("lengths", [[(5, 5)] * 4, [(9, 5)] * 4])
def test_without_a_varying_difference_in_length_it_is_the_win_rate(lengths):
    found = equal_length([1, 1, 0.5, 0], lengths)
    assert found.rate == pytest.approx(0.625, abs=2e-4)
    assert found.low <= found.rate <= found.high


def test_the_unit_of_length_is_its_deviation(few_resamples):
    scores = [0.9, 0.2, 0.6, 0.7]
    assert equal_length(scores, [(1, 0), (0, 0), (0, 0), (1, 0)]) == equal_length(
        scores, [(8, 0), (0, 0), (0, 0), (8, 0)]
    )
    assert equal_length(scores, [(1, 0), (0, 0), (0, 0), (1, 0)]).rate < 0.55  # of a mean of 0.6


def test_wins_alone_keep_a_width():
    lengths = [(i, 10) for i in range(30)]
    assert equal_length([1.0] * 30, lengths) == proportion(30, 30)
    assert length_controlled([1.0] * 30, lengths, [0.0] * 30) == proportion(30, 30)


def test_they_are_finite_where_length_decides_all():
    scores, lengths = [1.0] * 15 + [0.0] * 15, [(20, 10)] * 15 + [(10, 20)] * 15
    assert equal_length(scores, lengths).rate == pytest.approx(0.5, abs=0.01)
    assert length_controlled(scores, lengths, [0.0] * 30).rate == pytest.approx(0.5, abs=0.01)


def test_they_need_the_same_prompts():
    for scores, lengths in (([1.0], []), ([1.0, 0.0], [(1, 2)])):
        with pytest.raises(ValueError, match="the same prompts"):
            equal_length(scores, lengths)
    for n in ((2, 2, 1), (2, 1, 2), (1, 2, 2)):
        with pytest.raises(ValueError, match="the same prompts"):
            length_controlled([1.0, 0.0][: n[0]], [(1, 2), (2, 1)][: n[1]], [0.0, 0.0][: n[2]])
    with pytest.raises(ValueError, match="the same prompts"):
        equal_length([], [])
