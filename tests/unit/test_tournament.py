"""Tournaments with a fake engine that judges by a score written into the responses."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import numpy as np
import pytest
from call_counting import counting
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from score_server import ThinkingEngine, scores
from transformers import PreTrainedTokenizerFast

from selfjudge.core.bracket import tie_winner
from selfjudge.engines.base import Progress, SamplingParams
from selfjudge.errors import DataError
from selfjudge.judge import Judge
from selfjudge.records import Comparison, Completion, Message
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder, JudgmentPrompt
from selfjudge.templates.template import load_templates
from selfjudge.tournament import RunningBracket, play, self_reject

SCORE = re.compile(r"\n[AB]: score (\d+)")


class ScoreEngine:
    """Reads "score N" out of both responses of a prompt; equal scores give equal probabilities."""

    max_length = 256

    def __init__(self, chat: ChatEncoder) -> None:
        self.chat = chat
        self.batches: list[int] = []
        self.remembers: int | None = None

    def reusing_prefixes(self) -> AbstractContextManager[int | None]:
        return nullcontext(self.remembers)

    def label_probabilities(
        self, prompts: Sequence[JudgmentPrompt], progress: Progress | None = None
    ) -> NDArray[np.float64]:
        self.batches.append(len(prompts))
        rows = []
        for prompt in prompts:
            a, b = map(int, SCORE.findall(self.chat.decode(prompt.token_ids)))
            rows.append([0.9, 0.1] if a > b else [0.1, 0.9] if b > a else [0.5, 0.5])
        if progress:
            progress(len(prompts))
        return np.array(rows)

    def sample(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, progress: Progress | None = None
    ) -> list[list[Completion]]:
        if progress:
            progress(len(prompts))
        return [
            [Completion(ids=(1,), text=f"score {len(prompt) * i % 7}", finish_reason="stop") for i in range(params.n)]
            for prompt in prompts
        ]


PROMPT = (Message(role="user", content="p"),)


@pytest.fixture(scope="module")
def engine(world_chat: ChatEncoder) -> ScoreEngine:
    return ScoreEngine(world_chat)


@pytest.fixture(scope="module")
def judge(engine: ScoreEngine) -> Judge:
    return Judge(engine, JudgmentEncoder(load_templates("world"), engine.chat))


@pytest.fixture(scope="module")
def tournament(judge: Judge) -> Callable[..., list]:
    def run(scores: Sequence[Sequence[int]], seed: int = 0) -> list:
        return play(judge, [PROMPT] * len(scores), [[f"score {s}" for s in row] for row in scores], seed)

    return run


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True), st.integers(0, 100))
def test_with_a_perfect_judge_the_best_always_wins(tournament: Callable[..., list], row: list[int], seed: int) -> None:
    bracket = tournament([row], seed)[0]
    assert row[bracket.winner] == max(row)
    assert len(bracket.matches) == len(row) - 1
    played = {c for m in bracket.matches for c in (m.a, m.b)}
    assert played == (set(range(len(row))) if len(row) > 1 else set())
    assert all(m.verdict.preferred == ("A" if m.winner == m.a else "B") and m.verdict.agree for m in bracket.matches)
    assert bracket.seed == seed


def test_one_candidate_needs_no_judge(judge: Judge, engine: ScoreEngine) -> None:
    engine.batches.clear()
    bracket = play(judge, [PROMPT], [["anything at all"]])[0]
    assert (bracket.winner, bracket.matches, engine.batches) == (0, (), [])


def test_prompts_are_played_in_groups_that_the_engine_remembers(judge: Judge) -> None:
    texts = [[f"score {(3 * i + j) % 5}" for j in range(4)] for i in range(5)]
    together = play(judge, [PROMPT] * 5, texts, seed=7)
    engine = judge.engine
    pair = Comparison(id="", prompt=PROMPT, response_a=texts[0][0], response_b=texts[0][1])
    engine.remembers = 2 * 4 * judge.longest_prompt(pair)  # two prompts' first rounds
    engine.batches.clear()
    try:
        assert play(judge, [PROMPT] * 5, texts, seed=7) == together
    finally:
        engine.remembers = None
    # Two matches a prompt, then one, two orders each: groups of two, two and one prompt.
    assert engine.batches == [8, 4, 8, 4, 4, 2]


def test_a_prompts_first_two_candidates_say_how_long_its_judgments_are(judge: Judge, engine: ScoreEngine) -> None:
    texts = [["score 1", "score 2 " + "fox " * 5, "score 3 " + "fox " * 20]] * 3
    pair = Comparison(id="", prompt=PROMPT, response_a=texts[0][0], response_b=texts[0][1])
    engine.remembers = 2 * 3 * judge.longest_prompt(pair)  # two prompts
    engine.batches.clear()
    try:
        play(judge, [PROMPT] * 3, texts)
    finally:
        engine.remembers = None
    assert engine.batches == [4, 4, 2, 2]  # three candidates are one match, then one


@pytest.mark.parametrize(
    ("sizes", "remembered", "batches"),
    [
        # Candidates of each prompt; what the engine remembers, in judgments of this length; judgments of each call: two
        # for each match of a round. One candidate alone is not judged.
        ([4, 1, 2, 4], 6, [6, 2, 4, 2]),  # 4 + 0 + 2 just fit
        ([4, 4, 2], 6, [4, 2, 6, 2]),  # as they do in the second group
        ([4, 1, 2, 4], 5, [4, 2, 2, 4, 2]),
        ([1, 4, 2], 1, [4, 2, 2]),  # each is larger than what is remembered
        ([1, 1, 2], 0, [2]),
        ([2, 2, 2], 4, [4, 2]),
    ],
)
def test_groups_are_as_large_as_what_the_engine_remembers(
    judge: Judge, sizes: list[int], remembered: int, batches: list[int]
) -> None:
    texts = [[f"score {(3 * i + j) % 5}" for j in range(n)] for i, n in enumerate(sizes)]
    prompts, engine = [PROMPT] * len(sizes), judge.engine
    together = play(judge, prompts, texts, seed=7)
    pair = Comparison(id="", prompt=PROMPT, response_a="score 1", response_b="score 2")
    engine.remembers = remembered * judge.longest_prompt(pair)
    engine.batches.clear()
    try:
        assert play(judge, prompts, texts, seed=7) == together
    finally:
        engine.remembers = None
    assert engine.batches == batches


def test_the_tokenizer_is_called_once_a_round(world_tokenizer: PreTrainedTokenizerFast) -> None:
    engine = ScoreEngine(ChatEncoder(world_tokenizer))
    judge = Judge(engine, JudgmentEncoder(load_templates("world"), engine.chat))
    tokenizer = counting(engine.chat)
    texts = [[f"score {i + j}" for j in range(4)] for i in range(5)]
    play(judge, [PROMPT] * 5, texts)
    assert len(tokenizer.calls) == 2
    tokenizer.calls.clear()
    engine.remembers = 10_000
    play(judge, [PROMPT] * 5, texts)
    assert len(tokenizer.calls) == 1 + 2  # all prompts' lengths, then the rounds


def test_no_candidates_and_uneven_lists_are_errors(judge: Judge) -> None:
    with pytest.raises(ValueError, match="at least one candidate"):
        play(judge, [PROMPT, PROMPT], [["score 1"], []])
    with pytest.raises(ValueError, match="2 prompts but 1"):
        play(judge, [PROMPT, PROMPT], [["score 1"]])
    assert play(judge, [], []) == []


def test_the_callers_lists_are_untouched(judge: Judge) -> None:
    candidates = [[f"score {i}" for i in (3, 1, 4, 5, 9)], [f"score {i}" for i in (2, 6)]]
    before, prompts = copy.deepcopy(candidates), [PROMPT, PROMPT]
    play(judge, prompts, candidates, seed=5)
    assert candidates == before
    assert prompts == [PROMPT, PROMPT]


def test_prompts_of_different_sizes_advance_together(tournament: Callable[..., list], engine: ScoreEngine) -> None:
    engine.batches.clear()
    brackets = tournament([[5, 1, 2, 3], [7], [1, 2], [4, 9, 6]])
    assert [b.winner for b in brackets] == [0, 0, 1, 1]
    # Matches: 2 + 0 + 1 + 1 in the first round, 1 + 0 + 0 + 1 in the second; each match is two prompts.
    assert engine.batches == [8, 4]


def test_the_draw_is_by_seed_and_position(tournament: Callable[..., list]) -> None:
    rows = [[1, 2, 3, 4, 5, 6]] * 3
    again, first = tournament(rows, 8), tournament(rows, 8)
    assert first == again
    assert len({b.order for b in first}) == 3  # equal candidates, but every prompt has its own draw
    assert tournament(rows[:1], 9)[0].order == first[1].order  # prompt i uses seed + i


def test_the_first_draw_is_that_of_seed_0(judge: Judge) -> None:
    candidates = [f"score {i}" for i in range(6)]
    (found,) = play(judge, [PROMPT], [candidates])
    assert found == play(judge, [PROMPT], [candidates], seed=0)[0] != play(judge, [PROMPT], [candidates], seed=1)[0]


def test_a_match_that_does_not_fit_is_named_by_prompt_and_candidates(judge: Judge) -> None:
    texts = [["score 1", "score 2"], ["score 1", "score 2 " + "fox " * 250]]
    with pytest.raises(DataError, match=r"Row '1:(0-1|1-0)'"):
        play(judge, [PROMPT] * 2, texts)


def test_a_tie_is_called_and_decided_by_the_coin(tournament: Callable[..., list]) -> None:
    winners = []
    for seed in range(60):
        bracket = tournament([[4, 4]], seed)[0]
        match = bracket.matches[0]
        assert match.verdict.preferred == "tie"
        assert bracket.winner == tie_winner(0, 1, seed, 0)
        winners.append(bracket.winner)
    assert 15 < winners.count(0) < 45  # 30 expected, standard deviation 3.9


def test_progress_counts_every_judgment_prompt(judge: Judge) -> None:
    counts: list[int] = []
    play(judge, [PROMPT], [[f"score {i}" for i in range(5)]], progress=counts.append)
    assert sum(counts) == 2 * 4  # two orders of N - 1 matches


def test_self_rejection_samples_judges_and_answers(judge: Judge, engine: ScoreEngine) -> None:
    prompts = ["Name two things.", (Message(role="user", content="q"),)]
    sampled: list[int] = []
    answers = self_reject(engine, engine.chat, judge, prompts, SamplingParams(n=4, seed=3), sampled.append)
    assert sampled == [2]  # prompts; the judgments are not counted
    assert [a.prompt for a in answers] == [(Message(role="user", content="Name two things."),), prompts[1]]
    for i, answer in enumerate(answers):
        assert len(answer.candidates) == 4
        assert answer.winner == max(answer.candidates, key=lambda text: int(text.split()[1]))
        assert answer.bracket.seed == 3 + i


def test_a_candidate_without_an_answer_takes_no_part(judge: Judge, engine: ScoreEngine) -> None:
    # The judge ties "" with "score 0", so that a coin would now and then let it win.
    candidates = [None, "score 0", None, "score 0", None]
    counts: list[int] = []
    for seed in range(20):
        (bracket,) = play(judge, [PROMPT], [candidates], seed, counts.append)
        assert bracket.winner in (1, 3)
        assert [{match.a, match.b} for match in bracket.matches] == [{1, 3}]
        assert set(bracket.order) == {1, 3}
        assert bracket.byes == ()
    assert sum(counts) == 20 * 2
    running = RunningBracket(PROMPT, candidates, seed=0)
    running.take(judge.judge(running.comparisons()))
    assert running.placing()[2:] == (0, 2, 4)


def test_the_only_answer_wins_and_without_any_the_first_stands_for_all(judge: Judge, engine: ScoreEngine) -> None:
    engine.batches.clear()
    for candidates, winner in ([None, None, "score 0"], 2), ([None, None, None], 0):
        for seed in range(5):
            (bracket,) = play(judge, [PROMPT], [candidates], seed)
            assert (bracket.winner, bracket.order, bracket.matches) == (winner, (winner,), ())
    assert engine.batches == []


@pytest.mark.parametrize(
    ("text", "finish_reason", "thought", "answer"),
    [
        ("", "length", "hm", None),
        ("", "length", None, None),  # as where the first token of the thought ended the sample
        (" \n", "length", "hm", None),
        ("fo", "length", "hm", "fo"),  # cut off within the answer
        ("", "stop", "hm", ""),  # an answer, though an empty one
        ("fox", "stop", None, "fox"),
    ],
)
def test_what_is_cut_off_before_its_answer_has_none(
    text: str, finish_reason: Literal["stop", "length"], thought: str | None, answer: str | None
) -> None:
    completion = Completion(ids=(1,), text=text, finish_reason=finish_reason, reasoning_content=thought)
    assert completion.answer == answer
    assert "answer" not in completion.model_dump()


def test_self_rejection_judges_what_follows_the_thoughts(judge: Judge, world_chat: ChatEncoder) -> None:
    (answer,) = self_reject(ThinkingEngine(world_chat, least=6), world_chat, judge, ["q"], SamplingParams(n=5))
    assert scores(5) == [3, 8, 13, 1, 6]
    assert answer.candidates == ("", "score 8", "score 13", "", "score 6")
    assert answer.thoughts == ("score 3?", "score 8?", "score 13?", "score 1?", "score 6?")
    assert answer.winner == "score 13"
    assert set(answer.bracket.order) == {1, 2, 4}
    assert answer.placing[0] == 2
    assert answer.placing[3:] == (0, 3)


def test_groups_count_the_answers_alone(judge: Judge, engine: ScoreEngine) -> None:
    pair = Comparison(id="", prompt=PROMPT, response_a="score 1", response_b="score 2")
    for remembered, batches in ((8, [8]), (4, [4, 4])):
        engine.remembers = remembered * judge.longest_prompt(pair)
        engine.batches.clear()
        try:
            play(judge, [PROMPT] * 4, [[None, "score 1", None, "score 2"]] * 4)
        finally:
            engine.remembers = None
        assert engine.batches == batches


def test_a_round_is_decided_in_any_order(judge: Judge) -> None:
    texts = ["score 5", "score 1", "score 3", "score 2"]
    running = RunningBracket(PROMPT, texts, seed=1, id_prefix="p:")
    (a, b), (c, d) = running.state.pairings()
    comparisons = running.comparisons()
    assert [comparison.id for comparison in comparisons] == [f"p:{a}-{b}", f"p:{c}-{d}"]
    assert RunningBracket(PROMPT, texts, seed=1).comparisons()[0].id == f"{a}-{b}"
    first, second = judge.judge(comparisons)
    match = running.decide(1, second)
    ahead, behind = (c, d) if texts[c] > texts[d] else (d, c)
    assert (match.a, match.b, match.winner, match.round) == (c, d, ahead, 0)
    # Half a round: the winner has won once, the two of the other match not yet, and the loser is out.
    assert running.placing() == (ahead, a, b, behind)
    assert running.matches == [match]
    assert (running.state.round, running.finished) == (0, False)
    running.decide(0, first)
    assert [(m.a, m.b) for m in running.matches] == [(a, b), (c, d)]  # in the order of the pairings
    assert running.state.round == 1
    running.take(judge.judge(running.comparisons()))
    assert running.finished
    assert running.bracket() == play(judge, [PROMPT], [texts], seed=1)[0]


def test_a_bracket_is_whole_or_not_there(judge: Judge) -> None:
    running = RunningBracket(PROMPT, ["score 1", "score 2", "score 3"], seed=0)
    with pytest.raises(ValueError, match="not finished"):
        running.bracket()
    verdicts = judge.judge(running.comparisons())
    with pytest.raises(ValueError, match="zip"):
        running.take([*verdicts, *verdicts])
