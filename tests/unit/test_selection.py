"""Which samples RSO, RAFT and ReST learn from."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from selfjudge.baselines.rounds import above, best_of_each
from selfjudge.baselines.rso import accepted_pairs
from selfjudge.baselines.samples import ScoredSamples
from selfjudge.baselines.selection import at_least, best, statistical_rejection_sampling
from selfjudge.recipes.comparison import RsoSection
from selfjudge.records import Completion, Message
from selfjudge.training.pairing import RolloutPrompt


def group(name: str, rewards: list[float], texts: str | None = None) -> ScoredSamples:
    prompt = RolloutPrompt(name, (Message(role="user", content=name),), (1, 2))
    texts = texts or "abcdefgh"[: len(rewards)]
    samples = tuple(Completion(ids=(ord(t), 0), text=t, finish_reason="stop") for t in texts)
    return ScoredSamples(prompt, samples, tuple(rewards))


def test_accepted_samples_follow_the_tilted_distribution() -> None:
    # Four responses under π_sft; what is accepted first is distributed as π_sft exp(r / β), normalised.
    sft, reward, beta = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.0, 0.3, 0.8, 1.0]), 0.5
    rng = random.Random(0)
    counts: Counter[int] = Counter()
    for _ in range(1500):
        # Many candidates, so that the best response is among them and the rest of the pool hardly changes.
        drawn = rng.choices(range(4), sft, k=40)
        accepted = statistical_rejection_sampling([reward[i] for i in drawn], 3, beta, rng)
        counts.update(drawn[i] for i in accepted)
    expected = sft * np.exp(reward / beta)
    expected /= expected.sum()
    found = np.array([counts[i] for i in range(4)]) / counts.total()
    assert found == pytest.approx(expected, abs=0.02)
    assert np.abs(found - sft).max() > 0.1  # the tilt is there to be seen


@pytest.mark.parametrize(("reward", "beta"), [(0.0, 0.4), (0.5, 0.4), (0.5, 2.0), (1.0, 0.4)])
def test_acceptance_rates_are_those_of_the_paper(reward: float, beta: float) -> None:
    # The first of two is the one accepted if it passes; if it does not, the best one passes for sure.
    rng = random.Random(0)
    first = [statistical_rejection_sampling([reward, 1.0], 1, beta, rng) == [0] for _ in range(4000)]
    assert np.mean(first) == pytest.approx(np.exp((reward - 1.0) / beta), abs=0.03)


@pytest.mark.parametrize("n", [1, 4, 9])
def test_each_is_accepted_once_and_all_of_them_at_most(n: int) -> None:
    accepted = statistical_rejection_sampling([0.0, -30.0, 2.0, 1.0], n, 0.1, random.Random(1))
    assert len(accepted) == len(set(accepted)) == min(n, 4)
    assert accepted[0] == 2  # with a small β the best comes first


def test_a_large_beta_accepts_nearly_all_in_order() -> None:
    assert statistical_rejection_sampling([0.0, 1.0, 0.5], 3, 1e9, random.Random(0)) == [0, 1, 2]
    assert statistical_rejection_sampling([0.0, 1.0, 0.5], 2, 1e9, random.Random(0)) == [0, 1]


def test_pairs_of_the_accepted() -> None:
    section = RsoSection(candidates=4, accepted=4, rejection_beta=1e9)
    pairs = accepted_pairs([group("p", [0.1, 0.9, 0.5, 0.7])], section, seed=0)
    assert len(pairs) == 2
    reward = {ord(t): r for t, r in zip("abcd", [0.1, 0.9, 0.5, 0.7], strict=True)}
    assert all(reward[p.chosen_ids[0]] > reward[p.rejected_ids[0]] for p in pairs)
    assert {i for p in pairs for i in (p.chosen_ids[0], p.rejected_ids[0])} == set(reward)
    assert all((p.prompt_ids, p.strength) == ((1, 2), 1.0) for p in pairs)


def test_any_two_of_the_accepted_are_as_likely_to_meet() -> None:
    # A small β accepts the best first; in that order it would always meet the second best.
    section = RsoSection(candidates=4, accepted=4, rejection_beta=0.01)
    groups = [group("p", [0.1, 0.9, 0.5, 0.7]) for _ in range(600)]
    pairs = accepted_pairs(groups, section, seed=0)
    met = Counter(chr(p.rejected_ids[0]) for p in pairs if p.chosen_ids[0] == ord("b"))
    assert [met[t] / 600 for t in "acd"] == pytest.approx([1 / 3] * 3, abs=0.07)


@pytest.mark.parametrize(("rewards", "texts"), [([0.5, 0.5], "ab"), ([0.5, 0.6], "aa")], ids=["tie", "same text"])
def test_two_that_do_not_differ_are_no_pair(rewards: list[float], texts: str) -> None:
    section = RsoSection(candidates=2, accepted=2, rejection_beta=1e9)
    assert accepted_pairs([group("p", rewards, texts)], section, seed=0) == []


def test_raft_keeps_the_best_of_each_prompt() -> None:
    assert best([1.0, 3.0, 3.0]) == 1
    kept = best_of_each([group("p", [0.1, 0.9, 0.5]), group("q", [-1.0, -2.0, -0.5])])
    assert [(p.id, s.text) for p, s in kept] == [("p", "b"), ("q", "c")]


def test_rest_keeps_what_is_above_a_growing_threshold() -> None:
    rewards = [0.0, 1.0, 2.0, 3.0, 4.0]
    assert at_least(rewards, 0.0) == [0, 1, 2, 3, 4]
    assert at_least(rewards, 0.5) == [2, 3, 4]
    assert at_least(rewards, 0.8) == [4]
    assert at_least([1.0, 1.0], 0.9) == [0, 1]  # never nothing
    groups = [group("p", [0.0, 3.0]), group("q", [2.0, 2.0], "xx"), group("r", [4.0])]
    # Over all prompts, not within each; equal samples of a prompt count once.
    assert [(p.id, s.text) for p, s in above(0.5)(groups)] == [("p", "b"), ("q", "x"), ("r", "a")]
    assert [(p.id, s.text) for p, s in above(0.9)(groups)] == [("r", "a")]
