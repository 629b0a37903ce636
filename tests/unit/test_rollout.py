"""From samples and verdicts to pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from call_counting import counting
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from selfjudge.engines.base import Progress, SamplingParams
from selfjudge.judge import Judge
from selfjudge.records import Completion, Message
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder, JudgmentPrompt
from selfjudge.templates.template import load_templates
from selfjudge.training.pairing import Labels, PairRules, RolloutPrompt
from selfjudge.training.pairs import Pair
from selfjudge.training.rollout import RolloutCollector, measures_kl, rollout_seed


def completion(text: str, ids: tuple[int, ...], *, cut: bool = False) -> Completion:
    return Completion(ids=ids, text=text, finish_reason="length" if cut else "stop")


END = 2  # the end-of-turn token of these fakes


class Scripted:
    """Answers by script, judges "good" above "bad", and gives -len(prompt) - 10 * sum(response) as log-prob, and
    len(prompt) + 10 * sum(response) as KL.
    """

    max_length = 60

    def __init__(self, chat: ChatEncoder, script: list[tuple[Completion, Completion]]) -> None:
        self.chat = chat
        self.script = script
        self.params: SamplingParams | None = None
        self.reference_rows: list[int] = []
        self.batches: list[list[Sequence[int]]] = []

    def sample(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, progress: Progress | None = None
    ) -> list[list[Completion]]:
        self.params = params
        return [list(pair) for pair in self.script]

    def label_probabilities(
        self, prompts: Sequence[JudgmentPrompt], progress: Progress | None = None
    ) -> NDArray[np.float64]:
        rows = []
        for prompt in prompts:
            first, second = self.chat.decode(prompt.token_ids).split("\nA: ")[1].split("\nB: ")
            better = ("good" in first) - ("good" in second)
            rows.append({1: [0.8, 0.1], -1: [0.2, 0.6], 0: [0.3, 0.3]}[better])
        return np.array(rows)

    def response_logprobs(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        self.reference_rows.append(len(rows))
        return [-float(len(x) + 10 * sum(y)) for x, y in rows]

    def batch_logprobs(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        self.batches.append([response for _, response in rows])
        return [-float(len(x) + 10 * sum(y)) for x, y in rows]

    def response_kl(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        return [float(len(x) + 10 * sum(y)) for x, y in rows]


SCRIPT = [
    (completion("good", (5, END)), completion("bad", (6, 7, END))),  # A wins
    (completion("bad", (6, END)), completion("good", (5, 5, 5), cut=True)),  # B wins, and was cut off
    (completion("bad", (6, END)), completion("bad", (6, END))),  # the same tokens
    (completion("bad", (6, 8, END)), completion(" bad\n", (6, 9, END))),  # they read the same
    (completion("bad", (6, END)), completion("worse", (7, END))),  # an exact tie
    (completion("good", (5, END)), completion("long " * 30, (8,), cut=True)),  # does not fit the judge
]
PROMPTS = [
    RolloutPrompt(f"p{i}", (Message(role="user", content="Q"),), tuple(range(10, 11 + i))) for i in range(len(SCRIPT))
]
# Verdict of "good" against "bad" shown (good, bad): p = .8, .1; shown (bad, good): p(A) = .2, p(B) = .6.
# s_good = (.8 + .6) / 2 = .7, s_bad = (.1 + .2) / 2 = .15; strength .7 / .85
STRENGTH = 0.7 / 0.85


def collect(world_chat: ChatEncoder, labels: Labels, seed: int = 3) -> tuple[Scripted, object]:
    engine = Scripted(world_chat, SCRIPT)
    judge = Judge(engine, JudgmentEncoder(load_templates("world"), world_chat))
    params = SamplingParams(n=2, temperature=0.7, max_new_tokens=9)
    collector = RolloutCollector(engine, judge, engine, params, PairRules(labels), engine.response_kl)
    return engine, collector.collect(PROMPTS, seed)


@pytest.mark.parametrize(("labels", "strength"), [("hard", 1.0), ("soft", STRENGTH)])
def test_pairs_by_hand(world_chat: ChatEncoder, labels: Labels, strength: float) -> None:
    engine, rollout = collect(world_chat, labels)
    assert engine.reference_rows == [4]  # one call for the rollout: both answers of each pair, and no others
    assert [(p.prompt_ids, p.chosen_ids, p.rejected_ids) for p in rollout.pairs] == [
        ((10,), (5, END), (6, 7, END)),
        ((10, 11), (5, 5, 5), (6, END)),  # ids as sampled: nothing ends what was cut off
    ]
    assert [p.strength for p in rollout.pairs] == pytest.approx([strength] * 2)
    # -len(prompt) - 10 * sum(response), END = 2: -(1 + 70), -(2 + 150); -(1 + 150), -(2 + 80)
    assert [p.reference_chosen for p in rollout.pairs] == [-71.0, -152.0]
    assert [p.reference_rejected for p in rollout.pairs] == [-151.0, -82.0]
    assert all(isinstance(p, Pair) for p in rollout.pairs)


def test_the_reference_computes_the_batches_of_the_training(world_chat: ChatEncoder) -> None:
    engine, whole = collect(world_chat, "hard")
    judge = Judge(engine, JudgmentEncoder(load_templates("world"), world_chat))
    rules, params = PairRules("hard"), SamplingParams(n=2, temperature=0.7, max_new_tokens=9)
    for per_batch, batches in (
        (6, [[(5, END), (5, 5, 5), (6, 7, END), (6, END)]]),  # all chosen, then all rejected
        (3, [[(5, END), (6, 7, END)], [(5, 5, 5), (6, END)]]),  # dealt out in turn
        (2, [[(5, END), (6, 7, END)], [(5, 5, 5), (6, END)], []]),
    ):
        engine.batches.clear()
        collector = RolloutCollector(
            engine, judge, engine, params, rules, engine.response_kl, prompts_per_batch=per_batch
        )
        assert collector.collect(PROMPTS, 3).pairs == whole.pairs
        assert engine.batches == batches


def test_everything_that_gave_no_pair_is_counted(world_chat: ChatEncoder) -> None:
    _, rollout = collect(world_chat, "soft")
    stats = rollout.stats
    assert (stats.prompts, stats.samples, stats.matches, stats.verdicts) == (6, 12, 6, 3)
    assert stats.identical_rate == pytest.approx(2 / 6)
    assert stats.unjudgeable_rate == pytest.approx(1 / 6)
    assert stats.tie_rate == pytest.approx(1 / 6)
    # Three verdicts. Disagreement: the tie has no preference in either order. Mass: .85, .85, .6.
    assert stats.disagreement_rate == pytest.approx(1 / 3)
    assert stats.first_shown_rate == pytest.approx((0.5 + 0.5 + 0.5) / 3)  # one for each response, twice; a tie
    assert stats.label_mass == pytest.approx((0.85 + 0.85 + 0.6) / 3)
    assert stats.strength == pytest.approx((STRENGTH + STRENGTH + 0.5) / 3)
    assert stats.truncated_rate == pytest.approx(2 / 12)
    # Tokens: 2 + 3, 2 + 3, 2 + 2, 3 + 3, 2 + 2, 2 + 1
    assert stats.response_length == pytest.approx(27 / 12)
    assert [not j.verdicts for j in rollout.judged] == [False, False, True, True, False, True]
    assert [j.samples for j in rollout.judged] == SCRIPT


def test_the_kl_is_that_of_the_first_samples_of_a_quarter_of_the_prompts(world_chat: ChatEncoder) -> None:
    _, rollout = collect(world_chat, "hard")
    # Of six prompts that in place 0, whose prompt has one token and whose first sample is 5 and END.
    assert (rollout.stats.kl, rollout.stats.kl_responses) == (1 + 10 * (5 + END), 1)
    assert rollout.of_policy is rollout.stats


def test_places_among_those_of_all_processes_decide_where_the_kl_is_measured(world_chat: ChatEncoder) -> None:
    engine = Scripted(world_chat, SCRIPT)
    judge = Judge(engine, JudgmentEncoder(load_templates("world"), world_chat))
    collector = RolloutCollector(engine, judge, engine, SamplingParams(n=2), PairRules(), engine.response_kl)
    rollout = collector.collect(PROMPTS, 0, (6, 7, 8, 9, 10, 11))
    # 7 and 10: prompts of 2 and 5 tokens, whose first samples are 6, END and 6, END.
    assert (rollout.stats.kl, rollout.stats.kl_responses) == (((2 + 80) + (5 + 80)) / 2, 2)
    nowhere = collector.with_kl(rollout, (1, 2, 3, 4, 5, 6))
    assert math.isnan(nowhere.stats.kl)
    assert nowhere.stats.kl_responses == 0


def test_the_places_of_the_kl_are_a_quarter_of_every_processes() -> None:
    measured = [place for place in range(256) if measures_kl(place)]
    assert measured[:5] == [0, 7, 10, 13, 19]
    assert [sum(start <= place < start + 4 for place in measured) for start in range(0, 256, 4)] == [1] * 64
    for processes, rows in [(2, 1), (4, 1), (8, 1), (2, 4), (8, 8)]:  # rows of a micro-batch of one process
        of_process = [place // rows % processes for place in measured]
        assert [of_process.count(process) for process in range(processes)] == [64 // processes] * processes


def test_two_samples_a_prompt_by_the_steps_seed(world_chat: ChatEncoder) -> None:
    engine, _ = collect(world_chat, "hard", seed=77)
    assert engine.params == SamplingParams(n=2, temperature=0.7, max_new_tokens=9, seed=77)


def test_a_rollout_without_pairs(world_chat: ChatEncoder) -> None:
    engine = Scripted(world_chat, SCRIPT[2:4])
    judge = Judge(engine, JudgmentEncoder(load_templates("world"), world_chat))
    collector = RolloutCollector(engine, judge, engine, SamplingParams(n=2), PairRules(), engine.response_kl)
    rollout = collector.collect(PROMPTS[:2], 0)
    assert rollout.pairs == []
    assert rollout.stats.identical_rate == 1.0
    assert math.isnan(rollout.stats.disagreement_rate)  # nothing was judged, so nothing is said


def test_rollout_seeds_depend_on_run_and_step() -> None:
    seeds = {rollout_seed(s, t) for s in range(20) for t in range(50)}
    assert len(seeds) == 1000
    assert rollout_seed(1, 2) == rollout_seed(1, 2)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_each_judgment_prompt_is_encoded_once(world_tokenizer: PreTrainedTokenizerFast) -> None:
    engine = Scripted(ChatEncoder(world_tokenizer), SCRIPT)
    judge = Judge(engine, JudgmentEncoder(load_templates("world"), engine.chat))
    tokenizer = counting(engine.chat)
    collector = RolloutCollector(engine, judge, engine, SamplingParams(n=2), PairRules("hard"), engine.response_kl)
    assert len(collector.collect(PROMPTS, 0).pairs) == 2
    (asked,) = tokenizer.calls
    assert sum("\nA: good\nB: bad\n" in text for text in asked) == 1  # of two matches
    assert len([text for text in asked if "\nB: " in text]) == 6  # three distinct matches in both orders
