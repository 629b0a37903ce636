"""How good a judge is: its verdicts against labels, beside what the longer answer alone would have got."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from statistics import fmean
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from selfjudge.core.agreement import cohen_kappa
from selfjudge.core.statistics import (
    Estimate,
    Rate,
    ReliabilityBin,
    brier_score,
    clustered_rate,
    expected_calibration_error,
    reliability,
)
from selfjudge.core.verdict import agreement_score, first_shown_rate, winner_strength
from selfjudge.data.identity import prompt_key
from selfjudge.records import Comparison, Preferred, Verdict


class JudgeSummary(BaseModel):
    """Rates over pairs, each with its 95 % interval.

    ``prompts``: how many prompts the pairs are of. The intervals are over prompts, as pairs of one are not independent.
    ``accuracy`` and ``longer_wins`` are over the pairs labelled A or B (a tie verdict, or equal length, counts one
    half); None without labels. ``calibration_error`` is the ECE of the winner's strength,
    ``reliability`` its diagram; a tie verdict has a strength of one half and counts one half there too.

    ``first_shown_rate`` is the share of judgments that the response shown first won: each pair counts with the mean of
    its judgments (:func:`selfjudge.core.verdict.first_shown_rate`). ``a_share`` is how often ``response_a`` wins a pair
    after both orders are averaged; it says nothing about position.
    """

    model_config = ConfigDict(frozen=True)

    pairs: int
    prompts: int
    labelled: int
    accuracy: Rate | None
    longer_wins: Rate | None
    shorter_right: Rate | None
    calibration_error: float | None
    brier: float | None
    reliability: tuple[ReliabilityBin, ...]
    kappa: Estimate | None
    agreement: Rate
    first_shown_rate: Rate
    a_share: Rate
    longer_share: Rate
    ties: int
    label_mass: float

    def rows(self) -> list[tuple[str, object]]:
        """Returns name and value for a table."""
        rows: list[tuple[str, object]] = [("Pairs", self.pairs), ("Prompts", self.prompts)]
        if self.accuracy and self.longer_wins:
            rows += [
                ("Labelled A or B", self.labelled),
                ("Accuracy", self.accuracy),
                ("… of 'the longer wins'", self.longer_wins),
                *([("… where the shorter is right", self.shorter_right)] if self.shorter_right else []),
                ("Calibration error", f"{self.calibration_error:.3f}"),
                ("Brier score", f"{self.brier:.3f}"),
                *([("Cohen's κ with the labels", self.kappa)] if self.kappa else []),
            ]
        return [
            *rows,
            ("Both orders agree", self.agreement),
            ("Prefers the response shown first", self.first_shown_rate),
            ("Prefers response_a, after both orders", self.a_share),
            ("Prefers the longer", self.longer_share),
            ("Ties", self.ties),
            ("Mass on the labels", f"{self.label_mass:.3f}"),
        ]


class Decision(NamedTuple):
    """What the summary needs of a verdict, in few bytes. ``first_shown``: its :func:`first_shown_rate`."""

    preferred: Preferred
    strength: float
    agree: bool
    label_mass: float
    first_shown: float


def decision(verdict: Verdict) -> Decision:
    """Returns a verdict's part in a summary."""
    return Decision(verdict.preferred, verdict.strength, verdict.agree, verdict.label_mass, first_shown_rate(verdict))


def summarise(comparisons: Sequence[Comparison], verdicts: Sequence[Verdict]) -> JudgeSummary:
    """Returns the summary of a non-empty list of judged pairs."""
    return summarise_decisions(comparisons, [decision(verdict) for verdict in verdicts])


def summarise_decisions(comparisons: Sequence[Comparison], decisions: Sequence[Decision]) -> JudgeSummary:
    """Returns the summary of a non-empty list of judged pairs, whose verdicts need not be kept."""
    pairs = list(zip(comparisons, decisions, strict=True))
    rated = [(c, v) for c, v in pairs if c.label]
    labelled = [(c, v) for c, v in rated if c.label != "tie"]
    short = [(c, v) for c, v in labelled if longer(c) not in ("tie", c.label)]
    unequal = [(c, v) for c, v in pairs if longer(c) != "tie"]
    bins = reliability(
        [winner_strength(v.preferred, v.strength) for _, v in labelled],
        [agreement_score(v.preferred, c.label) for c, v in labelled],
        prompts_of([c for c, _ in labelled]),
    )
    return JudgeSummary(
        pairs=len(pairs),
        prompts=len(set(prompts_of(comparisons))),
        labelled=len(labelled),
        accuracy=_accuracy(labelled),
        longer_wins=_rate([(c, agreement_score(longer(c), c.label)) for c, _ in labelled]) if labelled else None,
        shorter_right=_accuracy(short),
        calibration_error=expected_calibration_error(bins) if labelled else None,
        brier=brier_score([v.strength for _, v in labelled], [c.label == "A" for c, _ in labelled])
        if labelled
        else None,
        reliability=tuple(bins),
        kappa=_kappa(rated),
        agreement=_rate([(c, float(v.agree)) for c, v in pairs]),
        first_shown_rate=_rate([(c, v.first_shown) for c, v in pairs]),
        a_share=_rate([(c, agreement_score(v.preferred, "A")) for c, v in pairs]),
        longer_share=_rate([(c, agreement_score(v.preferred, longer(c))) for c, v in unequal]),
        ties=sum(v.preferred == "tie" for v in decisions),
        label_mass=fmean(v.label_mass for v in decisions),
    )


def _accuracy(labelled: Sequence[tuple[Comparison, Decision]]) -> Rate | None:
    return _rate([(c, agreement_score(v.preferred, c.label)) for c, v in labelled]) if labelled else None


def _rate(scored: Sequence[tuple[Comparison, float]]) -> Rate:
    return prompt_rate([c for c, _ in scored], [score for _, score in scored])


def prompt_rate(comparisons: Sequence[Comparison], scores: Sequence[float]) -> Rate:
    """Returns the mean of one score in 0..1 for each pair, with its interval over prompts."""
    return clustered_rate(scores, prompts_of(comparisons))


def prompts_of(comparisons: Sequence[Comparison]) -> list[bytes]:
    """Returns the key of each pair's prompt: equal for prompts that read the same."""
    return [prompt_key(c.prompt) for c in comparisons]


def _kappa(rated: Sequence[tuple[Comparison, Decision]]) -> Estimate | None:
    """Cohen's kappa, or None where it is not defined."""
    prompts = prompts_of([c for c, _ in rated])
    kappa = cohen_kappa([v.preferred for _, v in rated], [str(c.label) for c, _ in rated], prompts)
    return None if isnan(kappa.value) else kappa


def longer(comparison: Comparison) -> Preferred:
    """Returns the side with more characters."""
    a, b = len(comparison.response_a), len(comparison.response_b)
    return "A" if a > b else "B" if b > a else "tie"
