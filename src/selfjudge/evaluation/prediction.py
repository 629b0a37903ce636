"""How often the chosen answer is good: predicted from single pairs of some prompts, and observed on others.

The model is that of arXiv 2411.19477: a candidate is good with probability p_gen, and a good one wins its match against
a bad one with probability p_comp. Both are measured on one half of the prompts. The other half, where no match was
used, is what the prediction is compared with.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np
from pydantic import BaseModel, ConfigDict

from selfjudge.core.bootstrap import bootstrap_rate
from selfjudge.core.knockout import failure_bound, good_counts, good_winner, majority
from selfjudge.core.statistics import Rate, proportion
from selfjudge.core.verdict import agreement_score
from selfjudge.data.candidates import Candidates
from selfjudge.evaluation.page import Section
from selfjudge.evaluation.plots import Series, line_chart
from selfjudge.judge import Judge
from selfjudge.records import Verdict

RESAMPLES = 500


class Knockout(BaseModel):
    """One tournament. ``p_comp``: a good candidate wins its match against a bad one.

    ``predicted``: the winner is good, for each n. ``guaranteed``: at least, by the theorem; 0 where it says nothing.
    """

    model_config = ConfigDict(frozen=True)

    p_comp: Rate
    predicted: tuple[Rate, ...]
    guaranteed: tuple[float, ...]


class Prediction(BaseModel):
    """``good_from``: the score from which an answer is good. ``p_gen``: share of good candidates.

    ``knockouts``: tournament → what is predicted for it; their ``n`` and that of ``p_gen`` are the prompts measured
    on. ``observed``: rule → the chosen is good, for each n, on the other prompts.
    """

    model_config = ConfigDict(frozen=True)

    good_from: float
    p_gen: Rate
    knockouts: dict[str, Knockout]
    observed: dict[str, tuple[Rate, ...]]


@dataclass(frozen=True)
class Measured:
    """One prompt to predict from: its candidates, how many are good, and verdicts on pairs, the good one as A."""

    candidates: int
    good: int
    verdicts: Sequence[Verdict]


def predict(
    judge: Judge,
    drawn: Sequence[Candidates],
    ns: Sequence[int],
    scores: dict[str, list[list[float]]],
    tournaments: dict[str, int | None],
    quantile: float,
    seed: int,
    *,
    every: bool,
) -> Prediction | None:
    """Predicts the tournaments from one half of the prompts, and observes every rule on the other.

    Args:
        judge: the judge.
        drawn: the candidates of each prompt in a drawn order.
        ns: numbers of candidates.
        scores: rule → for each n, the score of the answer it chose to each prompt.
        tournaments: name among the rules → repeats of a match, None for the verdict as it is.
        quantile: of all scores, from which an answer is good.
        seed: of the halves.
        every: whether to judge all pairs of a good and a bad candidate, or a few drawn ones.

    Returns:
        None where there is too little to predict from: equal scores, or fewer than two prompts with a pair.
    """
    threshold = good_from(drawn, quantile)
    if threshold is None:
        return None
    to_measure, to_observe = halves(len(drawn), seed)
    measured = measure(judge, [drawn[i] for i in to_measure], ns[-1], threshold, every=every)
    knockouts = {name: tournament for name, k in tournaments.items() if (tournament := knockout(measured, ns, k))}
    if not knockouts:
        return None
    observed = {
        name: tuple(observe([chosen[i] for i in to_observe], threshold) for chosen in found)
        for name, found in scores.items()
        # The score of a blind choice is a mean, not that of an answer.
        if name != "random"
    }
    p_gen = bootstrap_rate([row.good / row.candidates for row in measured])
    return Prediction(good_from=threshold, p_gen=p_gen, knockouts=knockouts, observed=observed)


def good_from(rows: Sequence[Candidates], quantile: float) -> float | None:
    """Returns the score from which a candidate is good, or None where all scores are equal.

    It is the ``quantile`` of the scores of all candidates together; but the lowest score is never good, so that of
    scores 0 and 1 only 1 is.
    """
    scores = [score for row in rows for score in row.scores]
    above = [score for score in scores if score > min(scores)]
    return max(float(np.quantile(scores, quantile, method="higher")), min(above)) if above else None


def halves(n: int, seed: int) -> tuple[list[int], list[int]]:
    """Returns a seeded split of range(n): the places to measure on and the places to observe, one more if odd."""
    order = random.Random(f"halves:{seed}").sample(range(n), n)
    return sorted(order[: n // 2]), sorted(order[n // 2 :])


def measure(judge: Judge, rows: Sequence[Candidates], n: int, threshold: float, *, every: bool) -> list[Measured]:
    """Judges pairs of a good and a bad candidate among the first ``n`` of each prompt.

    Args:
        judge: the judge.
        rows: the candidates of each prompt in a drawn order.
        n: the largest tournament.
        threshold: the score from which a candidate is good.
        every: all such pairs; otherwise the neighbours of the drawn order alone, n / 2 at most, drawn at random.
    """
    asked = []
    for row in rows:
        pairs = combinations(range(n), 2) if every else zip(range(0, n - 1, 2), range(1, n, 2), strict=True)
        mixed = [sorted(pair, key=lambda i: -row.scores[i]) for pair in pairs]
        asked.append([row.pair(a, b) for a, b in mixed if row.scores[a] >= threshold > row.scores[b]])
    verdicts = iter(judge.judge([pair for pairs in asked for pair in pairs]))
    return [
        Measured(len(row.scores), sum(score >= threshold for score in row.scores), [next(verdicts) for _ in pairs])
        for row, pairs in zip(rows, asked, strict=True)
    ]


def knockout(measured: Sequence[Measured], ns: Sequence[int], repeats: int | None) -> Knockout | None:
    """Predicts a tournament; with ``repeats``, one whose matches are as often drawn from the judge's probabilities.

    None where fewer than two prompts have a pair to measure p_comp on.
    """
    with_pairs = [row for row in measured if row.verdicts]
    if len(with_pairs) < 2:
        return None
    p_comp = [fmean(_good_wins(v, repeats) for v in row.verdicts) if row.verdicts else np.nan for row in measured]
    p_gen = fmean(row.good / row.candidates for row in measured)
    # The theorem's p_comp is that of one comparison: without repeats the match is the one.
    single = None if repeats is None else 1
    one = fmean(fmean(_good_wins(v, single) for v in row.verdicts) for row in with_pairs)
    return Knockout(
        p_comp=bootstrap_rate([p for p in p_comp if not np.isnan(p)]),
        predicted=tuple(_predicted(n, measured, p_comp) for n in ns),
        guaranteed=tuple(1 - failure_bound(n, repeats or 1, p_gen, one) for n in ns),
    )


def _good_wins(verdict: Verdict, repeats: int | None) -> float:
    return agreement_score(verdict.preferred, "A") if repeats is None else majority(verdict.strength, repeats)


def _predicted(n: int, measured: Sequence[Measured], p_comp: Sequence[float], seed: int = 0) -> Rate:
    """The chance of a good winner, averaged over prompts, with its percentile bootstrap interval over them.

    Each prompt has its own number of good candidates, but all the mean p_comp.
    """
    counts = np.array([good_counts(n, row.candidates, row.good) for row in measured])
    p = np.asarray(p_comp, dtype=float)
    known = ~np.isnan(p)

    def value(rows: np.ndarray) -> float:
        return float(counts[rows].mean(0) @ good_winner(n, float(p[rows][known[rows]].mean())))

    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(p), size=len(p)) for _ in range(RESAMPLES))
    low, high = np.quantile([value(rows) for rows in drawn if known[rows].any()], [0.025, 0.975])
    # Sums of probabilities can be above 1 by rounding.
    return Rate(rate=min(1.0, value(np.arange(len(p)))), low=float(low), high=min(1.0, float(high)), n=len(p))


def observe(scores: Sequence[float], threshold: float) -> Rate:
    """Returns the share of chosen answers that are good."""
    return proportion(sum(score >= threshold for score in scores), len(scores))


def prediction_sections(found: Prediction, ns: Sequence[int]) -> list[Section]:
    """Returns the parts of the report page."""
    text = (
        f"Good is a score of {found.good_from:.4g} or more. Predicted from {found.p_gen.n} prompts "
        f"(p_gen {found.p_gen}), observed on the other {next(iter(found.observed.values()))[0].n}. "
        "“Guaranteed” is what the theorem of arXiv 2411.19477 gives, with the mean p_gen and p_comp."
    )
    charts = [
        (name, _chart(tournament.predicted, found.observed[name], ns)) for name, tournament in found.knockouts.items()
    ]
    comp = [("", "p_comp"), *((name, tournament.p_comp) for name, tournament in found.knockouts.items())]
    return [
        Section("How often the chosen is good", text, charts=charts),
        Section("A good candidate beats a bad one", table=comp),
        Section("Predicted and observed", table=prediction_table(found, ns)),
    ]


def prediction_table(found: Prediction, ns: Sequence[int]) -> list[tuple[object, ...]]:
    """Returns head and rows: what is predicted, observed and guaranteed for tournaments, observed for other rules."""
    rows: list[tuple[object, ...]] = [("", *(f"N = {n}" for n in ns))]
    for name, tournament in found.knockouts.items():
        rows += [
            (f"{name}: predicted", *tournament.predicted),
            (f"{name}: observed", *found.observed[name]),
            (f"{name}: guaranteed", *(f"{100 * least:.1f} %" for least in tournament.guaranteed)),
        ]
    return rows + [(f"{name}: observed", *of) for name, of in found.observed.items() if name not in found.knockouts]


def _chart(predicted: Sequence[Rate], observed: Sequence[Rate], ns: Sequence[int]) -> str:
    lines = (("predicted", predicted, True), ("observed", observed, False))
    series = [
        Series(name, ns, [r.rate for r in rates], [r.low for r in rates], [r.high for r in rates], dashed)
        for name, rates, dashed in lines
    ]
    return line_chart(series, x="candidates N", y="share of good answers", limits=(0.0, 1.02))
