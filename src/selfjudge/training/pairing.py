"""From judged samples to the pairs that are trained on: which samples, and how sure the label is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Literal

from selfjudge.records import Completion, LabelProbabilities, Message, Verdict
from selfjudge.training.pairs import Pair

Labels = Literal["hard", "soft"]
Choice = Literal["best_worst", "all"]
Match = tuple[int, int]


@dataclass(frozen=True)
class RolloutPrompt:
    """A self-training prompt and its ids up to where the policy answers."""

    id: str
    prompt: tuple[Message, ...]
    ids: tuple[int, ...]


@dataclass(frozen=True)
class JudgedSamples:
    """A prompt's samples, and the verdict on each two of them (places i < j), where there is one.

    There is none where two samples are identical, or do not fit the judge.
    """

    prompt: RolloutPrompt
    samples: tuple[Completion, ...]
    verdicts: Mapping[Match, Verdict]

    @property
    def matches(self) -> list[Match]:
        """Each two samples, judged or not."""
        return list(combinations(range(len(self.samples)), 2))


@dataclass(frozen=True)
class PairRules:
    """How judged samples become pairs.

    Attributes:
        labels: ``hard`` trusts the winner, ``soft`` takes the verdict's strength as the target.
        smoothing: supposes that a label is wrong with half the probability by which its two orders differ: cDPO
            (Mitchell 2023, https://ericmitchell.ai/cdpo.pdf) with a rate of its own for each pair.
        abstain: leaves out pairs on which the two orders disagree.
        max_length_difference: leaves out pairs whose lengths in tokens differ by more than this share of the longer.
        choice: of more than two samples, the best against the worst (as in Self-Rewarding, arXiv 2401.10020; see
            :func:`best_worst`), or each against each (as in SPPO, arXiv 2405.00675).
    """

    labels: Labels = "hard"
    smoothing: bool = False
    abstain: bool = False
    max_length_difference: float | None = None
    choice: Choice = "best_worst"


def to_pairs(judged: JudgedSamples, rules: PairRules) -> list[Pair]:
    """Returns the pairs to train on; ties, and what the rules leave out, give none."""
    matches = judged.matches if rules.choice == "all" else best_worst(judged)
    return [pair for match in matches if (pair := _pair(judged, match, rules)) is not None]


def best_worst(judged: JudgedSamples) -> list[Match]:
    """Returns the match of the sample that wins most and the one that wins least, if the former won it; else [].

    Equal shares of wins are told apart by the mean strength. A tie is half a win. The worst sample can have won its own
    match against the best. The ranking and that verdict then contradict each other, and the pair is left out rather
    than trained with the worst as chosen. The same holds where that match is a tie or was not judged.
    """
    score: dict[int, tuple[float, float]] = {}
    for place in range(len(judged.samples)):
        seen = [(v, place == i) for (i, j), v in judged.verdicts.items() if place in (i, j)]
        if seen:
            wins = [0.5 if v.preferred == "tie" else float((v.preferred == "A") == first) for v, first in seen]
            score[place] = (fmean(wins), fmean(v.strength if first else 1 - v.strength for v, first in seen))
    if not score:
        return []
    # Where all are level, both are the first one, which has no match with itself.
    best, worst = max(score, key=lambda place: score[place]), min(score, key=lambda place: score[place])
    direct = judged.verdicts.get((min(best, worst), max(best, worst)))
    won = direct is not None and direct.preferred == ("A" if best < worst else "B")
    return [(min(best, worst), max(best, worst))] if won else []


def disagreement(verdict: Verdict) -> float:
    """Returns by how much the two orders differ in the probability that the first response is better, 0..1."""
    return abs(_share(verdict.p.AB) - (1 - _share(verdict.p.BA)))


def _share(p: LabelProbabilities) -> float:
    total = p.A + p.B
    return p.A / total if total > 0 else 0.5


def _pair(judged: JudgedSamples, match: Match, rules: PairRules) -> Pair | None:
    verdict = judged.verdicts.get(match)
    if verdict is None or verdict.preferred == "tie" or (rules.abstain and not verdict.agree):
        return None
    a, b = (judged.samples[place] for place in match)
    lengths = sorted((len(a.ids), len(b.ids)))
    if rules.max_length_difference is not None and lengths[1] - lengths[0] > rules.max_length_difference * lengths[1]:
        return None
    chosen, rejected, strength = (a, b, verdict.strength) if verdict.preferred == "A" else (b, a, 1 - verdict.strength)
    # The vote of several principles can go against their mean; such a pair asks for no preference, not for the loser.
    target = max(strength, 0.5) if rules.labels == "soft" else 1.0
    if rules.smoothing:
        wrong = disagreement(verdict) / 2
        target = (1 - wrong) * target + wrong * (1 - target)
    return Pair(judged.prompt.ids, chosen.ids, rejected.ids, target)
