"""Quality against the number of candidates: tournaments beside rules that need no judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from statistics import fmean

from pydantic import BaseModel, ConfigDict

from selfjudge.core.bootstrap import bootstrap_mean
from selfjudge.core.statistics import Estimate
from selfjudge.data.candidates import Candidates
from selfjudge.evaluation.page import Section
from selfjudge.evaluation.plots import Series, line_chart
from selfjudge.evaluation.prediction import Prediction, prediction_sections
from selfjudge.judge import Judge
from selfjudge.records import Comparison
from selfjudge.tournament import play

Rule = Callable[[Sequence[Candidates]], Sequence[int]]
"""Chooses one answer to each prompt, by its place."""

RANDOM = "random"
_PAIRS = 1024
"""Pairs of a league that are judged in one call, about."""

Scores = dict[str, list[list[float]]]
"""Rule → for each N, the score of the answer it chose to each prompt."""


class Scaling(BaseModel):
    """Mean score of the chosen answers, with its interval over prompts.

    ``quality``: rule → one figure for each of ``n``. ``gain``: the same less the mean of the candidates, paired by
    prompt. ``left_out``: prompts with too few candidates, or candidates too long for the judge. ``prediction``: how
    often the chosen is good, predicted and observed; None where there is too little to predict from.
    """

    model_config = ConfigDict(frozen=True)

    n: tuple[int, ...]
    prompts: int
    left_out: int
    quality: dict[str, tuple[Estimate, ...]]
    gain: dict[str, tuple[Estimate, ...]]
    prediction: Prediction | None = None


def choose(drawn: Sequence[Candidates], ns: Sequence[int], rules: dict[str, Rule]) -> Scores:
    """Returns what every rule chooses at every n, the first n of each prompt's candidates being those to choose from.

    Give the candidates in a drawn order. ``random`` is the mean score of them, which is what a blind choice gets on
    average; ``best`` is the highest, which no rule beats.
    """
    scores: Scores = {name: [] for name in (*rules, RANDOM, "best")}
    for n in ns:
        subsets = [row.first(n) for row in drawn]
        for name, rule in rules.items():
            scores[name].append([row.scores[i] for row, i in zip(subsets, rule(subsets), strict=True)])
        scores[RANDOM].append([fmean(row.scores) for row in subsets])
        scores["best"].append([max(row.scores) for row in subsets])
    return scores


def scale(scores: Scores, ns: Sequence[int], left_out: int, prediction: Prediction | None = None) -> Scaling:
    """Returns the figures of the scores that were chosen."""
    quality = {name: tuple(map(bootstrap_mean, found)) for name, found in scores.items()}
    gain = {
        name: tuple(_paired_mean(*both) for both in zip(found, scores[RANDOM], strict=True))
        for name, found in scores.items()
        if name != RANDOM
    }
    return Scaling(
        n=tuple(ns),
        prompts=len(scores[RANDOM][0]),
        left_out=left_out,
        quality=quality,
        gain=gain,
        prediction=prediction,
    )


def by_tournament(judge: Judge, seed: int) -> Rule:
    """Returns the rule that plays a bracket for each prompt."""
    return lambda rows: [b.winner for b in play(judge, [r.prompt for r in rows], [r.texts for r in rows], seed)]


def by_league(judge: Judge) -> Rule:
    """Returns the rule of the league (arXiv 2411.19477): all meet each other once, in both orders.

    The answer of highest mean win probability is chosen, the first of equals.
    """

    def chosen(rows: Sequence[Candidates]) -> list[int]:
        size = max([1, *(len(row.texts) * (len(row.texts) - 1) // 2 for row in rows)])
        step = max(1, _PAIRS // size)
        return [place for i in range(0, len(rows), step) for place in _league(judge, rows[i : i + step])]

    return chosen


def _league(judge: Judge, rows: Sequence[Candidates]) -> list[int]:
    pairs = [list(combinations(range(len(row.texts)), 2)) for row in rows]
    verdicts = iter(judge.judge([row.pair(a, b) for row, of in zip(rows, pairs, strict=True) for a, b in of]))
    chosen = []
    for row, of in zip(rows, pairs, strict=True):
        won = [0.0] * len(row.texts)
        for (a, b), verdict in zip(of, verdicts, strict=False):
            won[a] += verdict.strength
            won[b] += 1 - verdict.strength
        # All have met as many, so that the sum stands for the mean.
        chosen.append(_argmax(won))
    return chosen


def longest(rows: Sequence[Candidates]) -> list[int]:
    """Chooses the answer of most characters, the first of equals."""
    return [_argmax([len(text) for text in row.texts]) for row in rows]


def most_probable(rows: Sequence[Candidates]) -> list[int]:
    """Chooses the answer that the model finds most probable as a whole; every row must have log-probabilities."""
    return [_argmax(row.logprobs or ()) for row in rows]


def by_score(score: Callable[[Sequence[Candidates]], Sequence[Sequence[float]]]) -> Rule:
    """Returns best-of-N: the rule that chooses the answer of highest score, such as a reward."""
    return lambda rows: [_argmax(values) for values in score(rows)]


def fits(judge: Judge, row: Candidates) -> bool:
    """Returns whether the prompt's two longest answers can be judged."""
    *_, a, b = sorted(("", *row.texts), key=len)
    return judge.fits(Comparison(id=row.id, prompt=row.prompt, response_a=a, response_b=b))


def sections(found: Scaling) -> list[Section]:
    """Returns the parts of the report page."""
    chart = ("Mean score of the chosen", _chart(found.quality, found.n))
    return [
        Section("Quality against the number of candidates", _TEXT, charts=[chart]),
        Section("Mean score of the chosen answer", table=table(found.quality, found.n)),
        Section("Gain over a blind choice", _GAIN_TEXT, table(found.gain, found.n)),
        *(prediction_sections(found.prediction, found.n) if found.prediction else []),
    ]


_TEXT = (
    "All rules choose among the same candidates, and those of a smaller N are among those of a larger one. “random” is "
    "the mean of the candidates, “best” their maximum. Intervals are 95 %, over prompts."
)

_GAIN_TEXT = (
    "The mean difference in score on the same candidates, paired by prompt. With candidates drawn anew for each rule "
    "the mean difference would be the same, and its interval wider. It is not a win rate: how often one rule's answer "
    "beats another's depends on the candidates that both share."
)


def table(figures: dict[str, tuple[Estimate, ...]], ns: Sequence[int]) -> list[tuple[object, ...]]:
    """Returns head and one row for each rule."""
    return [("", *(f"N = {n}" for n in ns)), *((name, *values) for name, values in figures.items())]


def _chart(figures: dict[str, tuple[Estimate, ...]], ns: Sequence[int]) -> str:
    return line_chart(
        [
            Series(name, ns, [e.value for e in row], [e.low for e in row], [e.high for e in row])
            for name, row in figures.items()
        ],
        x="candidates N",
        y="mean score",
    )


def _paired_mean(scores: Sequence[float], others: Sequence[float]) -> Estimate:
    return bootstrap_mean([x - y for x, y in zip(scores, others, strict=True)])


def _argmax(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
