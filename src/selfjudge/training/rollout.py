"""Rollouts: samples of the current policy, judged two by two, as pairs to train on."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Protocol

from selfjudge.core.verdict import first_shown_rate, winner_strength
from selfjudge.engines.base import Engine, Progress, SamplingParams
from selfjudge.judge import Judge
from selfjudge.records import Comparison, Completion, Verdict
from selfjudge.training.pairing import JudgedSamples, Match, PairRules, RolloutPrompt, to_pairs
from selfjudge.training.pairs import Pair, deal, response_rows


@dataclass(frozen=True)
class RolloutStats:
    """Rates (0..1) over the matches of a rollout (each two samples of a prompt), over its verdicts
    (``disagreement_rate``, ``first_shown_rate``, ``label_mass``, ``strength``) or over its samples; NaN where there
    are none. ``first_shown_rate``: :func:`selfjudge.core.verdict.first_shown_rate`, mean over the verdicts.

    Lengths are in tokens; ``seconds`` is the time it took. ``kl`` is the KL of the policy to the reference in nats per
    response, the mean over ``kl_responses`` responses; NaN where it was measured on none.
    """

    prompts: int
    samples: int
    matches: int
    verdicts: int
    identical_rate: float
    unjudgeable_rate: float
    tie_rate: float
    disagreement_rate: float
    first_shown_rate: float
    label_mass: float
    strength: float
    truncated_rate: float
    response_length: float
    seconds: float
    kl: float = math.nan
    kl_responses: int = 0


@dataclass(frozen=True)
class Rollout:
    """The pairs of a rollout, what they were made from, and its statistics.

    ``own``: statistics of samples of the current policy, where the rollout's samples are not its own.
    """

    pairs: list[Pair]
    judged: list[JudgedSamples]
    stats: RolloutStats
    own: RolloutStats | None = None

    @property
    def of_policy(self) -> RolloutStats:
        """What the policy's own samples say of it: KL, length and agreement, which stop rules read."""
        return self.stats if self.own is None else self.own


ResponseKl = Callable[[Sequence[tuple[Sequence[int], Sequence[int]]]], list[float]]
"""From (prompt, response) rows to the KL of the policy to the reference along each response, in nats."""


class Reference(Protocol):
    """What gives the reference log-probs; the transformers engine of the frozen model does."""

    def response_logprobs(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        """Returns log π_ref(response | prompt) for each (prompt, response)."""
        ...

    def batch_logprobs(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        """Returns the same, from one batch of the rows in this order, as far as memory allows."""
        ...


def nothing_to_hand_over() -> None:
    """An engine on the model in training has its weights already."""


class Collector(Protocol):
    """What makes rollouts. The limit ``max_kl`` of a stop rule needs their ``kl``."""

    def collect(self, prompts: Sequence[RolloutPrompt], seed: int, places: tuple[int, ...] | None = None) -> Rollout:
        """Returns the rollout of ``prompts``, which have these ``places`` among those of all processes."""
        ...


@dataclass(frozen=True)
class RolloutCollector:
    """Makes rollouts from the policy as it is now.

    ``response_kl`` compares the weights in training with the reference, whatever engine samples. ``hand_over`` gives
    the weights as they are to an engine that has its own copy; what is drawn afterwards comes from these.
    ``prompts_per_batch``: of the training's micro-batches. The reference then computes these very batches, as rounding
    in 16 bits depends on what a batch is made of; without, it computes all pairs together.
    """

    policy: Engine
    judge: Judge
    reference: Reference
    params: SamplingParams
    rules: PairRules
    response_kl: ResponseKl
    hand_over: Callable[[], None] = nothing_to_hand_over
    prompts_per_batch: int | None = None

    def collect(self, prompts: Sequence[RolloutPrompt], seed: int, places: tuple[int, ...] | None = None) -> Rollout:
        """Returns the rollout of ``prompts``: ``params.n`` samples of each, and the pairs that the rules make of them.

        Identical samples, ties and pairs too long to judge give no pair; a process may have no prompts.
        """
        self.hand_over()
        return self.with_kl(self.with_reference(self.draw(prompts, seed, places=places)), places)

    def draw(
        self,
        prompts: Sequence[RolloutPrompt],
        seed: int,
        progress: Progress | None = None,
        places: tuple[int, ...] | None = None,
    ) -> Rollout:
        """Samples and judges, by policy and judge alone; the pairs have no reference log-probs yet.

        Args:
            prompts: what to answer.
            seed: of the samples.
            progress: called with the prompts just sampled, then with the judgments just made; what it raises ends the
                work.
            places: see :class:`selfjudge.engines.base.SamplingParams`.
        """
        start = time.perf_counter()
        params = replace(self.params, seed=seed, places=places)
        samples = self.policy.sample([p.ids for p in prompts], params, progress)
        return self.label(prompts, samples, start, progress)

    def label(
        self,
        prompts: Sequence[RolloutPrompt],
        samples: Sequence[Sequence[Completion]],
        start: float,
        progress: Progress | None = None,
    ) -> Rollout:
        """Judges given samples; the pairs have no reference log-probs yet. ``start``: perf_counter it began at."""
        judged = self._judge(prompts, samples, progress)
        pairs = [pair for j in judged for pair in to_pairs(j, self.rules)]
        return Rollout(pairs, judged, _stats(judged, time.perf_counter() - start))

    def with_reference(self, rollout: Rollout) -> Rollout:
        """Returns the rollout with reference log-probs, whose time counts as the rollout's."""
        start = time.perf_counter()
        pairs = self._with_reference(rollout.pairs, len(rollout.judged))
        seconds = rollout.stats.seconds + time.perf_counter() - start
        return replace(rollout, pairs=pairs, stats=replace(rollout.stats, seconds=seconds))

    def with_kl(self, rollout: Rollout, places: tuple[int, ...] | None = None) -> Rollout:
        """Returns the rollout with the KL of the weights in training to the reference.

        It is measured on the first sample of the prompts whose place :func:`measures_kl`: a mean over prefixes that the
        policy sampled of the exact KL at temperature 1. Its time counts as the rollout's.

        Args:
            rollout: of the policy's own samples.
            places: of its prompts among those of all processes.
        """
        start = time.perf_counter()
        numbered = zip(places or range(len(rollout.judged)), rollout.judged, strict=True)
        found = self.response_kl([(j.prompt.ids, j.samples[0].ids) for place, j in numbered if measures_kl(place)])
        seconds = rollout.stats.seconds + time.perf_counter() - start
        return replace(rollout, stats=replace(rollout.stats, kl=_mean(found), kl_responses=len(found), seconds=seconds))

    def _judge(
        self,
        prompts: Sequence[RolloutPrompt],
        samples: Sequence[Sequence[Completion]],
        progress: Progress | None,
    ) -> list[JudgedSamples]:
        unjudged = [JudgedSamples(p, tuple(drawn), {}) for p, drawn in zip(prompts, samples, strict=True)]
        comparisons = {
            (n, i, j): Comparison(id=row.prompt.id, prompt=row.prompt.prompt, response_a=a.text, response_b=b.text)
            for n, row in enumerate(unjudged)
            for i, j in row.matches
            if not identical(a := row.samples[i], b := row.samples[j])
        }
        asked = self.judge.fitting(list(comparisons.values()))
        fitting = [place for place, questions in zip(comparisons, asked, strict=True) if questions]
        judged = self.judge.verdicts([question for questions in asked for question in questions], progress)
        verdicts: list[dict[Match, Verdict]] = [{} for _ in unjudged]
        for (n, i, j), verdict in zip(fitting, judged, strict=True):
            verdicts[n][i, j] = verdict
        return [replace(row, verdicts=found) for row, found in zip(unjudged, verdicts, strict=True)]

    def _with_reference(self, pairs: list[Pair], prompts: int) -> list[Pair]:
        if self.prompts_per_batch is None:
            rows = [(p.prompt_ids, ids) for p in pairs for ids in (p.chosen_ids, p.rejected_ids)]
            distinct = list(dict.fromkeys(rows))  # a sample can be in several pairs
            known = dict(zip(distinct, self.reference.response_logprobs(distinct), strict=True))
            return _referenced(pairs, [known[row] for row in response_rows(pairs)])
        batches = deal(pairs, -(-prompts // self.prompts_per_batch))
        made = [_referenced(batch, self.reference.batch_logprobs(response_rows(batch))) for batch in batches]
        return [made[i % len(made)][i // len(made)] for i in range(len(pairs))]


def _referenced(pairs: Sequence[Pair], logprobs: Sequence[float]) -> list[Pair]:
    """Returns pairs with reference log-probs, given those of :func:`response_rows`."""
    both = zip(pairs, logprobs[: len(pairs)], logprobs[len(pairs) :], strict=True)
    return [replace(pair, reference_chosen=chosen, reference_rejected=rejected) for pair, chosen, rejected in both]


def identical(a: Completion, b: Completion) -> bool:
    """True if two samples are the same tokens or read the same: there is nothing to prefer."""
    return a.ids == b.ids or a.text.strip() == b.text.strip()


def measures_kl(place: int) -> bool:
    """Returns whether the KL is measured on the prompt at this place among those of all processes.

    One of four neighbours, so that the two forwards take a few per cent of a step; the first place of all is one. Which
    of the four it is changes, so that each process of several has its share.
    """
    return (place + place // 4 + place // 16) % 4 == 0


def rollout_seed(seed: int, step: int) -> int:
    """Returns the sampling seed of a step, so that a resumed run draws what the uninterrupted one would have, and all
    processes together what one would.
    """
    return random.Random(f"{seed}:{step}:0").getrandbits(31)


def _stats(judged: Sequence[JudgedSamples], seconds: float) -> RolloutStats:
    verdicts = [v for j in judged for v in j.verdicts.values()]
    matches = [(j.samples[a], j.samples[b]) for j in judged for a, b in j.matches]
    same = sum(identical(a, b) for a, b in matches)
    samples = [s for j in judged for s in j.samples]
    n = len(matches)
    return RolloutStats(
        prompts=len(judged),
        samples=len(samples),
        matches=n,
        verdicts=len(verdicts),
        identical_rate=same / n if n else math.nan,
        unjudgeable_rate=(n - same - len(verdicts)) / n if n else math.nan,
        tie_rate=sum(v.preferred == "tie" for v in verdicts) / n if n else math.nan,
        disagreement_rate=_mean([float(not v.agree) for v in verdicts]),
        first_shown_rate=_mean([first_shown_rate(v) for v in verdicts]),
        label_mass=_mean([v.label_mass for v in verdicts]),
        strength=_mean([winner_strength(v.preferred, v.strength) for v in verdicts]),
        truncated_rate=_mean([float(s.finish_reason == "length") for s in samples]),
        response_length=_mean([float(len(s.ids)) for s in samples]),
        seconds=seconds,
    )


def _mean(values: list[float]) -> float:
    return fmean(values) if values else math.nan
