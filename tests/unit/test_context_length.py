"""What fills a context to its last token, and what is one token too long for it.

In the small world "fox" is one token, so a text of n times "fox" has n tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from score_server import ScoreEngine, app_on, chat_body

from selfjudge.baselines.pairs import token_pairs
from selfjudge.cli.judge import _check_rationales
from selfjudge.cli.sample import _check_lengths
from selfjudge.data.load import prepare_data
from selfjudge.data.prompts import PromptRow
from selfjudge.engines.hf import TransformersEngine
from selfjudge.errors import DataError
from selfjudge.evaluation.own_style import mean_logprobs
from selfjudge.judge import Judge
from selfjudge.recipes.schema import Recipe
from selfjudge.records import Comparison, Message, PreferenceRecord
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.training.held_out import as_comparisons, judge_held_out

PROMPT = (Message(role="user", content="Name a fox."),)


def foxes(n: int) -> str:
    return " ".join(["fox"] * n)


def judge_of(context: int, chat: ChatEncoder) -> Judge:
    """A judge of which nothing but the length of its context is asked."""
    return Judge(SimpleNamespace(max_length=context), JudgmentEncoder(load_templates("world"), chat))  # type: ignore[arg-type]


def judgment_tokens(chat: ChatEncoder, a: str, b: str) -> int:
    """The tokens before the label; the small world has one principle."""
    text = f"{PROMPT[0].content}\nA: {a}\nB: {b}\nBetter: A or B?"
    return len(chat.prompt_ids([Message(role="user", content=text)]))


def test_a_judgment_prompt_leaves_its_label_a_token(world_chat: ChatEncoder) -> None:
    pair = Comparison(id="7", prompt=PROMPT, response_a=foxes(9), response_b=foxes(4))
    needed = judgment_tokens(world_chat, pair.response_a, pair.response_b)
    for context in (needed - 1, needed):
        assert not judge_of(context, world_chat).fits(pair)
        with pytest.raises(DataError, match=f"'7': its judgment prompt has {needed} tokens, the model takes {context}"):
            judge_of(context, world_chat).questions([pair])
    with pytest.raises(DataError, match="Row '0': its judgment prompt"):
        judge_of(needed, world_chat).compare(PROMPT, pair.response_a, pair.response_b)
    assert judge_of(needed + 1, world_chat).fits(pair)
    assert len(judge_of(needed + 1, world_chat).questions([pair])) == 2
    assert [len(judge_of(n, world_chat).fitting([pair])[0]) for n in (needed, needed + 1)] == [0, 2]


@pytest.mark.parametrize("context", [80, 81, 82, 83])
def test_room_is_what_two_responses_can_have_at_most(world_chat: ChatEncoder, context: int) -> None:
    judge = judge_of(context, world_chat)
    # An "x" stays a token of its own; a "fox" would merge with the space before it.
    texts = {n: f"x {foxes(n - 1)}" for n in range(2, 40)}
    pairs = {n: Comparison(id="0", prompt=PROMPT, response_a=text, response_b=text) for n, text in texts.items()}
    assert 2 < judge.room(PROMPT) == max(n for n, pair in pairs.items() if judge.fits(pair)) < 39


def test_a_pair_to_train_on_may_fill_the_length(world_chat: ChatEncoder) -> None:
    """The longer side counts, whichever it is."""
    for chosen, rejected in ((foxes(9), foxes(4)), (foxes(4), foxes(9))):
        record = PreferenceRecord(id="r", prompt=PROMPT, chosen=chosen, rejected=rejected)
        longest = len(world_chat.dialogues([*PROMPT, Message(role="assistant", content=foxes(9))])[0].ids)
        pairs, dropped = token_pairs([record], world_chat, longest)
        assert (len(pairs), dropped) == (1, [])
        with pytest.raises(DataError, match=f"longer than {longest - 1} tokens"):
            token_pairs([record], world_chat, longest - 1)


def test_a_response_whose_style_is_measured_may_fill_the_context(world_chat: ChatEncoder) -> None:
    pair = Comparison(id="0", prompt=PROMPT, response_a=foxes(4), response_b=foxes(9))
    longest = len(world_chat.dialogues([*PROMPT, Message(role="assistant", content=foxes(9))])[0].ids)

    def logprobs(rows: list[tuple[list[int], list[int]]]) -> list[float]:
        return [-2.0 * len(response) for _, response in rows]

    assert mean_logprobs(world_chat, logprobs, longest, [pair]) == [(-2.0, -2.0)]
    assert mean_logprobs(world_chat, logprobs, longest - 1, [pair]) == [None]


def test_held_out_pairs_may_fill_the_length_and_leave_the_context_a_token(
    tiny_recipe: Callable[..., Recipe], world_chat: ChatEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judged(max_length: int, context: int) -> int:
        monkeypatch.setattr(TransformersEngine, "max_length", context)
        found = judge_held_out(recipe(max_length), str(made.self_training.start))
        return len(found.comparisons) if found else 0

    def recipe(max_length: int) -> Recipe:
        return tiny_recipe(24, data={"held_out": 0.4, "max_length": max_length})

    made = recipe(250)
    judge = judge_of(256, world_chat)
    lengths = [judge.longest_prompt(c) for c in as_comparisons(prepare_data(made.data, made.seed).held_out)]
    longest, all_but = max(lengths), sum(length < max(lengths) for length in lengths)
    assert 0 < all_but < len(lengths)
    assert [judged(longest, 256), judged(longest - 1, 256)] == [len(lengths), all_but]
    assert [judged(250, longest + 1), judged(250, longest)] == [len(lengths), all_but]


def test_a_client_may_ask_for_all_the_room_there_is(world_chat: ChatEncoder) -> None:
    engine = ScoreEngine(world_chat)
    alone = engine.max_length - len(world_chat.prompt_ids(PROMPT))
    judged = (engine.max_length - 1 - judgment_tokens(world_chat, "", "")) // 2
    assert judged < alone
    with TestClient(app_on(engine)) as client:
        for candidates, room in ((1, alone), (2, judged)):
            bodies = [chat_body(n_candidates=candidates, max_tokens=n) for n in (room, room + 1)]
            fits, too_long = (client.post("/v1/chat/completions", json=body) for body in bodies)
            assert (fits.status_code, engine.samples[-1][1].max_new_tokens) == (200, room)
            assert (too_long.status_code, too_long.json()["error"]["code"]) == (400, "context_length_exceeded")
            assert f"room for {room} tokens" in too_long.json()["error"]["message"]


def test_a_rationale_may_fill_the_context(world_chat: ChatEncoder) -> None:
    pair = Comparison(id="7", prompt=PROMPT, response_a=foxes(9), response_b=foxes(4))
    needed = judgment_tokens(world_chat, pair.response_a, pair.response_b) + 1 + 6  # the label, the rationale
    world = load_templates("world")
    (template,) = world.templates
    templates = replace(world, templates=(replace(template, rationale="A: {rationale_a}\nB: {rationale_b}"),))
    for context, fits in ((needed, True), (needed - 1, False)):
        judge = Judge(SimpleNamespace(max_length=context), JudgmentEncoder(templates, world_chat))  # type: ignore[arg-type]
        questions = judge.questions([pair])
        with nullcontext() if fits else pytest.raises(DataError, match=f"'7': .* may take {needed} tokens"):
            _check_rationales(judge, questions, tokens=6)


def test_a_command_refuses_what_could_be_a_token_too_long(world_chat: ChatEncoder) -> None:
    given = PromptRow(id="g", prompt=PROMPT, candidates=("fox", foxes(9), foxes(4)))
    needed = judgment_tokens(world_chat, foxes(9), foxes(4))
    _check_lengths(judge_of(needed + 1, world_chat), [given], max_new_tokens=100)
    with pytest.raises(DataError, match=f"'g': .* can take {needed} tokens, .* shorten its candidates"):
        _check_lengths(judge_of(needed, world_chat), [given], max_new_tokens=100)
    drawn = PromptRow(id="d", prompt=PROMPT)
    needed = judgment_tokens(world_chat, "", "") + 2 * 7
    _check_lengths(judge_of(needed + 1, world_chat), [drawn], max_new_tokens=7)
    with pytest.raises(DataError, match=f"'d': .* can take {needed} tokens, .* lower --max-new-tokens"):
        _check_lengths(judge_of(needed, world_chat), [drawn], max_new_tokens=7)
