"""What a run of the demo showed, in words: a difference within its interval is called that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfjudge.core.statistics import Estimate, Rate

Points = Sequence[Mapping[str, Any]]
"""Rows of curve.jsonl."""


def findings(rates: Mapping[str, Rate], differences: Mapping[str, Estimate], curves: Mapping[str, Points]) -> list[str]:
    """Returns sentences on the final policies and on the curves of both kinds of labels.

    Args:
        rates: by the names of :func:`selfjudge.evaluation.demo_measures.measure`.
        differences: likewise.
        curves: of "soft" and "hard".
    """
    found = [_soft_against_hard(differences["soft_minus_hard"])]
    for labels in ("soft", "hard"):
        truth = rates["selfjudge_vs_jsft" if labels == "soft" else "hard_vs_jsft"]
        found.append(_belief(labels, rates[f"{labels}_belief"], truth, differences[f"{labels}_belief_minus_truth"]))
        found += _fall(labels, curves[labels])
    return found


def points(difference: Estimate) -> str:
    """Formats a difference of shares as ``+3.1 points [−0.4, 6.6]``."""
    low, high = (f"{100 * x:.1f}".replace("-", "−") for x in (difference.low, difference.high))
    return f"{100 * difference.value:+.1f} points [{low}, {high}]".replace("-", "−", 1)


def _soft_against_hard(difference: Estimate) -> str:
    if difference.low > 0:
        return f"Soft labels end above hard ones by the truth: {points(difference)}."
    if difference.high < 0:
        return f"Hard labels end above soft ones by the truth; soft less hard is {points(difference)}."
    return f"No difference between soft and hard labels is shown by the truth: {points(difference)}."


def _belief(labels: str, belief: Rate, truth: Rate, difference: Estimate) -> str:
    begin = f"With {labels} labels the judge believes the policy wins {belief}, by the truth it is {truth}"
    if difference.low > 0:
        return f"{begin}: the judge believes too much, {points(difference)}. The policy has learnt some of its errors."
    if difference.high < 0:
        return f"{begin}: the judge believes too little, {points(difference)}."
    return f"{begin}. The difference lies within its interval: {points(difference)}."


def _fall(labels: str, curve: Points) -> list[str]:
    if not curve:
        return []
    best, last = max(curve, key=lambda point: point["truth"]["rate"]), curve[-1]
    if best["step"] == last["step"]:
        return [f"With {labels} labels the win rate by the truth is highest at the last step, {last['step']}."]
    fell = last["truth"]["high"] < best["truth"]["low"]
    said = "falls" if fell else "is not shown to fall"
    return [
        f"With {labels} labels the win rate by the truth {said}: {Rate.model_validate(best['truth'])} at step "
        f"{best['step']}, its highest, and {Rate.model_validate(last['truth'])} at step {last['step']}, the last."
    ]
