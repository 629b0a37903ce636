"""Judges for many tournaments on the same candidates: one that remembers, and one that draws its verdicts."""

from __future__ import annotations

import random
from collections.abc import Sequence

from selfjudge.core.verdict import mirrored
from selfjudge.engines.base import Progress
from selfjudge.judge import Judge
from selfjudge.records import Comparison, Message, Verdict


class RememberingJudge(Judge):
    """Judges no pair twice: a pair that meets again, in whichever order, gets the verdict it had."""

    def __init__(self, judge: Judge) -> None:
        """Takes the judge to ask."""
        super().__init__(judge.engine, judge.encoder)
        self._judge = judge
        self._known: dict[tuple[tuple[Message, ...], str, str], Verdict] = {}

    def judge(self, comparisons: Sequence[Comparison], progress: Progress | None = None) -> list[Verdict]:
        """As :meth:`Judge.judge`; ``progress`` counts what is really judged."""
        new = [c for c in comparisons if (c.prompt, c.response_a, c.response_b) not in self._known]
        asked = list({(c.prompt, frozenset((c.response_a, c.response_b))): c for c in new}.values())
        for c, verdict in zip(asked, self._judge.judge(asked, progress), strict=True):
            self._known[c.prompt, c.response_b, c.response_a] = mirrored(verdict)
            self._known[c.prompt, c.response_a, c.response_b] = verdict
        return [self._known[c.prompt, c.response_a, c.response_b] for c in comparisons]


class SampledJudge(Judge):
    """Draws each verdict K times from the judge's probabilities and takes the majority (arXiv 2411.19477).

    One draw: the pair is shown in an order drawn at random, under a principle drawn at random, and a label is drawn
    with its probability, again where it is no label. So side A is drawn with the verdict's ``strength``. A draw of K
    falls to a coin. With ever more repeats this is the side whose strength is above one half, without any chance.
    """

    def __init__(self, judge: Judge, repeats: int, seed: int) -> None:
        """Takes the judge to ask; the draws of a comparison depend on ``seed`` and its texts alone."""
        super().__init__(judge.engine, judge.encoder)
        self._judge, self._repeats, self._seed = judge, repeats, seed

    def judge(self, comparisons: Sequence[Comparison], progress: Progress | None = None) -> list[Verdict]:
        """As :meth:`Judge.judge`; ``preferred`` is the majority, all else is as judged."""
        verdicts = self._judge.judge(comparisons, progress)
        return [self._drawn(*both) for both in zip(comparisons, verdicts, strict=True)]

    def _drawn(self, c: Comparison, verdict: Verdict) -> Verdict:
        rng = random.Random(repr((self._seed, c.prompt, c.response_a, c.response_b)))
        ahead = sum(1 if rng.random() < verdict.strength else -1 for _ in range(self._repeats))
        wins = ahead > 0 if ahead else rng.random() < 0.5
        return verdict.model_copy(update={"preferred": "A" if wins else "B"})
