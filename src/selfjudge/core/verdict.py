"""The verdict rule: from the label probabilities of both orders to a Verdict (SELF-JUDGE, arXiv 2402.11253).

For one principle, with C(x, first, second) the judgment prompt:

    s_a = (p(A | C(x, a, b)) + p(B | C(x, b, a))) / 2
    s_b = (p(B | C(x, a, b)) + p(A | C(x, b, a))) / 2

The larger wins. Over several principles the majority wins, then the larger mean. What is equal is a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from selfjudge.records import (
    LabelProbabilities,
    OrderProbabilities,
    Preferred,
    PrincipleVerdict,
    Verdict,
)


def principle_verdict(principle: str, p: OrderProbabilities) -> PrincipleVerdict:
    """Returns the verdict of one principle from its four label probabilities."""
    s_a, s_b = scores(p)
    total = s_a + s_b
    return PrincipleVerdict(
        principle=principle,
        preferred=_larger(s_a, s_b),
        # Both labels can underflow to zero in a model that does not judge at all: that is no preference.
        strength=s_a / total if total > 0 else 0.5,
        agree=(p.AB.A - p.AB.B) * (p.BA.B - p.BA.A) > 0,
        label_mass=min(1.0, total),
        p=p,
    )


def agreement_score(preferred: Preferred, label: Preferred | None) -> float:
    """Returns 1 if the two name the same side, 0.5 for a tie, else 0."""
    return 0.5 if preferred == "tie" else float(preferred == label)


def first_shown_scores(verdict: Verdict) -> list[float]:
    """Returns a score for each judgment of a verdict: 1 if the response shown first won it, 0.5 for a tie, else 0.

    A judgment is one order under one principle. In both orders the label A names the response shown first.
    Without its principles a verdict has two, by its mean probabilities.
    """
    judged = [v.p for v in verdict.principles] or [verdict.p]
    return [agreement_score(_larger(p.A, p.B), "A") for both in judged for p in (both.AB, both.BA)]


def first_shown_rate(verdict: Verdict) -> float:
    """Returns the share of a verdict's judgments that the response shown first won, 0..1; a tie counts one half.

    It is counted before orders or principles are averaged. A judge that always takes the response shown first has 1,
    a judge that prefers the same response in both orders has 0.5.
    """
    return fmean(first_shown_scores(verdict))


def winner_strength(preferred: Preferred, strength: float) -> float:
    """Returns the strength (for A) of a verdict as that of the side it prefers, 0.5 for a tie.

    Below 0.5 it is where the votes of several principles go against their mean.
    """
    return 0.5 if preferred == "tie" else strength if preferred == "A" else 1 - strength


def combine(verdicts: Sequence[PrincipleVerdict]) -> Verdict:
    """Returns the verdict over all principles: majority, then the larger mean score.

    ``strength``, ``agree`` and ``label_mass`` are those of the mean probabilities.

    Raises:
        ValueError: if ``verdicts`` is empty.
    """
    if not verdicts:
        raise ValueError("combine needs the verdict of at least one principle")
    mean = principle_verdict("mean", _mean([v.p for v in verdicts]))
    votes_a = sum(v.preferred == "A" for v in verdicts)
    votes_b = sum(v.preferred == "B" for v in verdicts)
    majority = _larger(votes_a, votes_b)
    return Verdict(
        preferred=mean.preferred if majority == "tie" else majority,
        strength=mean.strength,
        agree=mean.agree,
        label_mass=mean.label_mass,
        p=mean.p,
        principles=tuple(verdicts),
    )


def mirrored(verdict: Verdict) -> Verdict:
    """Returns the verdict on the same pair with a and b exchanged; it is the same judgment, to the last bit."""
    return combine(
        [principle_verdict(v.principle, OrderProbabilities(AB=v.p.BA, BA=v.p.AB)) for v in verdict.principles]
    )


def scores(p: OrderProbabilities) -> tuple[float, float]:
    """Returns (s_a, s_b), each 0..1."""
    return (p.AB.A + p.BA.B) / 2, (p.AB.B + p.BA.A) / 2


def _larger(a: float, b: float) -> Preferred:
    return "A" if a > b else "B" if b > a else "tie"


def _mean(ps: Sequence[OrderProbabilities]) -> OrderProbabilities:
    return OrderProbabilities(
        AB=LabelProbabilities(A=fmean(p.AB.A for p in ps), B=fmean(p.AB.B for p in ps)),
        BA=LabelProbabilities(A=fmean(p.BA.A for p in ps), B=fmean(p.BA.B for p in ps)),
    )
