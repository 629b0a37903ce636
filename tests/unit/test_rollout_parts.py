"""What the parts of a rollout are asked, and what is made of their answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from test_rollout import PROMPTS, SCRIPT, Scripted

from selfjudge.engines.base import Progress, SamplingParams
from selfjudge.judge import Judge
from selfjudge.records import Completion
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder, JudgmentPrompt
from selfjudge.templates.template import load_templates
from selfjudge.training import rollout as module
from selfjudge.training.pairing import PairRules
from selfjudge.training.rollout import RolloutCollector

# Two pairs of SCRIPT that are judged, and one of equal samples.
PLAYED = [0, 1, 2]


class Asked(Scripted):
    """Notes what it is asked; ``missing`` is what it does not answer to: "sample", "judge" or "reference"."""

    missing = ""

    def sample(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, progress: Progress | None = None
    ) -> list[list[Completion]]:
        self.prompts = list(prompts)
        if progress:
            progress(len(prompts))
        return super().sample(prompts, params)[: -1 if self.missing == "sample" else None]

    def label_probabilities(
        self, prompts: Sequence[JudgmentPrompt], progress: Progress | None = None
    ) -> NDArray[np.float64]:
        if progress:
            progress(len(prompts))
        return super().label_probabilities(prompts)[: -2 if self.missing == "judge" else None]

    def response_logprobs(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        return super().response_logprobs(rows)[: -1 if self.missing == "reference" else None]


@pytest.fixture
def engine(world_chat: ChatEncoder) -> Asked:
    return Asked(world_chat, [SCRIPT[i] for i in PLAYED])


@pytest.fixture
def collector(engine: Asked) -> RolloutCollector:
    judge = Judge(engine, JudgmentEncoder(load_templates("world"), engine.chat))
    return RolloutCollector(engine, judge, engine, SamplingParams(n=2), PairRules(), engine.response_kl)


def test_the_policy_is_asked_with_the_ids_seed_and_places_of_the_prompts(
    engine: Asked, collector: RolloutCollector
) -> None:
    prompts, params = [PROMPTS[i] for i in PLAYED], SamplingParams(n=2, seed=5, places=(4, 5, 9))
    collector.collect(prompts, 5, (4, 5, 9))
    assert (engine.prompts, engine.params) == ([p.ids for p in prompts], params)
    collector.draw(prompts, 5, places=(4, 5, 9))
    assert engine.params == params
    collector.collect(prompts, 5)
    assert engine.params == SamplingParams(n=2, seed=5, places=None)


def test_progress_is_told_of_the_samples_and_then_of_the_judgments(collector: RolloutCollector) -> None:
    counts: list[int] = []
    collector.draw([PROMPTS[i] for i in PLAYED], 0, counts.append)
    assert counts == [3, 2 * 2]  # both orders of the two pairs that differ


def test_seconds_are_those_of_drawing_of_the_reference_and_of_the_kl(
    collector: RolloutCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([100.0, 103.0, 200.0, 205.0, 300.0, 307.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    drawn = collector.draw([PROMPTS[i] for i in PLAYED], 0)
    assert drawn.stats.seconds == 3.0
    drawn = collector.with_reference(drawn)
    assert drawn.stats.seconds == 3.0 + 5.0
    assert collector.with_kl(drawn).stats.seconds == 3.0 + 5.0 + 7.0


def test_a_process_without_prompts_has_an_empty_rollout(world_chat: ChatEncoder) -> None:
    engine = Asked(world_chat, [])
    judge = Judge(engine, JudgmentEncoder(load_templates("world"), world_chat))
    found = RolloutCollector(engine, judge, engine, SamplingParams(n=2), PairRules(), engine.response_kl).collect([], 0)
    assert (found.pairs, found.judged) == ([], [])
    stats = found.stats
    assert (stats.prompts, stats.samples, stats.matches, stats.verdicts) == (0, 0, 0, 0)
    rates = (stats.identical_rate, stats.unjudgeable_rate, stats.tie_rate, stats.disagreement_rate, stats.label_mass)
    assert all(
        map(math.isnan, (*rates, stats.first_shown_rate, stats.strength, stats.truncated_rate, stats.response_length))
    )


@pytest.mark.parametrize("part", ["sample", "judge", "reference"])
def test_a_part_that_leaves_somebody_out_is_an_error(engine: Asked, collector: RolloutCollector, part: str) -> None:
    """Else pairs would be made of one prompt's samples and another's verdict."""
    engine.missing = part
    with pytest.raises(ValueError, match="zip"):
        collector.collect([PROMPTS[i] for i in PLAYED], 0)


@pytest.mark.parametrize("places", [(0, 1), (0, 1, 2, 3)])
def test_the_kl_needs_a_place_for_each_prompt(collector: RolloutCollector, places: tuple[int, ...]) -> None:
    drawn = collector.draw([PROMPTS[i] for i in PLAYED], 0)
    with pytest.raises(ValueError, match="zip"):
        collector.with_kl(drawn, places)
