"""The engine of a served model, against a real HTTP server with a real model behind it."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from served_model import NAME, ServedModel
from transformers import LlamaForCausalLM

from selfjudge.engines.base import SamplingParams, prompt_seed
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.openai_answers import next_token_logprobs, sampled_tokens
from selfjudge.engines.openai_server import OpenAIEngine
from selfjudge.errors import EngineError
from selfjudge.judge import Judge
from selfjudge.records import Comparison, Message
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder, JudgmentPrompt
from selfjudge.templates.template import load_templates
from selfjudge.tournament import play
from selfjudge.world.model import build_model
from selfjudge.world.people import preference_records

Serve = Callable[..., ServedModel]


@pytest.fixture(scope="module")
def model(world_chat: ChatEncoder) -> LlamaForCausalLM:
    return build_model(world_chat.tokenizer, seed=3).eval()


@pytest.fixture
def serve(model: LlamaForCausalLM, world_chat: ChatEncoder) -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda mode="vllm", **options: stack.enter_context(
            ServedModel(model, world_chat, mode, **options).running()
        )


@pytest.fixture(scope="module")
def pairs() -> list[Comparison]:
    """The better response comes first in every other pair; the last two responses are the same."""
    records = preference_records(7, seed=5)
    responses = [(r.chosen, r.rejected) if i % 2 else (r.rejected, r.chosen) for i, r in enumerate(records)]
    responses[-1] = (records[-1].chosen, records[-1].chosen)
    return [
        Comparison(id=r.id, prompt=r.prompt, response_a=a, response_b=b)
        for r, (a, b) in zip(records, responses, strict=True)
    ]


@pytest.fixture(scope="module")
def questions(world_chat: ChatEncoder, model: LlamaForCausalLM, pairs: list[Comparison]) -> list[JudgmentPrompt]:
    return [q.prompt for q in judge_on(TransformersEngine(model, world_chat), world_chat).questions(pairs)]


def judge_on(engine: TransformersEngine | OpenAIEngine, chat: ChatEncoder) -> Judge:
    return Judge(engine, JudgmentEncoder(load_templates("world"), chat))


def prompts(chat: ChatEncoder) -> list[list[int]]:
    texts = ["Name two things of the sea for Ada.", "Why?", "Name three animals for Ben.", "Name two trees, please."]
    return [chat.prompt_ids([Message(role="user", content=text)]) for text in texts]


@pytest.mark.parametrize("mode", ["vllm", "old vllm", "llama.cpp", "text"])
def test_label_probabilities_equal_those_of_the_transformers_engine(
    serve: Serve, mode: str, model: LlamaForCausalLM, world_chat: ChatEncoder, questions: list[JudgmentPrompt]
) -> None:
    engine = OpenAIEngine(serve(mode).url, world_chat, top_logprobs=len(world_chat.tokenizer))
    found = engine.label_probabilities(questions)
    expected = TransformersEngine(model, world_chat).label_probabilities(questions)
    assert expected.min() > 0
    assert np.ptp(expected) > 1e-4  # they differ, so that an exchange would show
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * expected.min())


def test_a_recent_vllm_gives_improbable_labels_too(
    serve: Serve, model: LlamaForCausalLM, world_chat: ChatEncoder, questions: list[JudgmentPrompt]
) -> None:
    found = OpenAIEngine(serve("vllm").url, world_chat, top_logprobs=1).label_probabilities(questions)
    expected = TransformersEngine(model, world_chat).label_probabilities(questions)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_verdicts_and_tournament_equal_those_of_the_transformers_engine(
    serve: Serve, model: LlamaForCausalLM, world_chat: ChatEncoder, pairs: list[Comparison]
) -> None:
    served, local = OpenAIEngine(serve().url, world_chat), TransformersEngine(model, world_chat)
    verdicts = [judge_on(engine, world_chat).judge(pairs) for engine in (served, local)]
    assert {v.preferred for v in verdicts[1]} == {"A", "B", "tie"}
    for a, b in zip(*verdicts, strict=True):
        assert a.preferred == b.preferred
        assert a.agree == b.agree
        assert a.strength == pytest.approx(b.strength, abs=1e-5)
        assert a.label_mass == pytest.approx(b.label_mass, rel=1e-5)
    asked = [pair.prompt for pair in pairs[:2]]
    candidates = [("coral tide", "coral oak oak", "oak", "bee bell", "quiz essay"), ("tide", "oak")]
    brackets = [play(judge_on(engine, world_chat), asked, candidates, seed=1) for engine in (served, local)]
    for mine, expected in zip(*brackets, strict=True):
        assert [(m.a, m.b, m.winner) for m in mine.matches] == [(m.a, m.b, m.winner) for m in expected.matches]
        assert mine.winner == expected.winner


@pytest.mark.parametrize("mode", ["vllm", "old vllm", "llama.cpp", "text"])
def test_greedy_samples_equal_those_of_the_transformers_engine(
    serve: Serve, mode: str, model: LlamaForCausalLM, world_chat: ChatEncoder
) -> None:
    params = SamplingParams(temperature=0, max_new_tokens=8)
    engine = OpenAIEngine(serve(mode).url, world_chat)
    found = engine.sample(prompts(world_chat), params)
    expected = TransformersEngine(model, world_chat).sample(prompts(world_chat), params)
    assert [[c.text for c in row] for row in found] == [[c.text for c in row] for row in expected]
    assert [[c.finish_reason for c in row] for row in found] == [[c.finish_reason for c in row] for row in expected]
    if "vllm" in mode:
        assert [[c.ids for c in row] for row in found] == [[c.ids for c in row] for row in expected]
    else:
        assert all(c.logprobs is None for row in found for c in row)
    # Servers draw one greedy completion and refuse more.
    several = engine.sample(prompts(world_chat), SamplingParams(n=3, temperature=0, max_new_tokens=8))
    assert several == [row * 3 for row in found]


def test_samples_hold_the_sampled_ids_their_end_and_their_log_probabilities(
    serve: Serve, model: LlamaForCausalLM, world_chat: ChatEncoder
) -> None:
    params = SamplingParams(n=20, max_new_tokens=150, seed=1)
    rows = OpenAIEngine(serve().url, world_chat).sample(prompts(world_chat), params)
    reasons = [c.finish_reason for row in rows for c in row]
    assert min(reasons.count("stop"), reasons.count("length")) > 3  # both cases are there to look at
    for prompt, row in zip(prompts(world_chat), rows, strict=True):
        assert len(row) == 20
        for c in row:
            assert (c.ids[-1] in world_chat.stop_ids) == (c.finish_reason == "stop")
            assert c.text == world_chat.decode(c.ids)
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *c.ids]])).logits[0, len(prompt) - 1 : -1]
            expected = logits.log_softmax(-1).gather(1, torch.tensor(c.ids)[:, None])[:, 0]
            assert c.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def test_text_only_samples_are_tokenised_again_with_their_end(serve: Serve, world_chat: ChatEncoder) -> None:
    params = SamplingParams(n=30, max_new_tokens=40, seed=2)
    rows = OpenAIEngine(serve("text").url, world_chat).sample(prompts(world_chat), params)
    completions = [c for row in rows for c in row]
    assert {c.finish_reason for c in completions} == {"stop", "length"}
    for c in completions:
        end = world_chat.stop_ids[-1:] if c.finish_reason == "stop" else ()
        assert c.ids == (*world_chat.text_ids(c.text), *end)


def test_the_request_asks_for_the_models_own_distribution(serve: Serve, world_chat: ChatEncoder) -> None:
    served = serve()
    engine = OpenAIEngine(served.url, world_chat)
    engine.sample(prompts(world_chat), SamplingParams(n=2, temperature=0.7, top_p=0.8, max_new_tokens=3, seed=4))
    assert sorted(r["prompt"] for r in served.requests) == sorted(prompts(world_chat))
    for r in served.requests:
        assert (r["model"], r["n"], r["temperature"], r["top_p"], r["max_tokens"]) == (NAME, 2, 0.7, 0.8, 3)
        assert r["stop_token_ids"] == list(world_chat.stop_ids)
        # A server would otherwise take these from the model's generation_config.json.
        assert (r["top_k"], r["min_p"], r["repetition_penalty"]) == (-1, 0, 1)


def test_every_prompt_has_its_own_stable_seed(serve: Serve, world_chat: ChatEncoder) -> None:
    served = serve()
    engine = OpenAIEngine(served.url, world_chat)
    same = [prompts(world_chat)[0]] * 3
    first = engine.sample(same, SamplingParams(n=2, max_new_tokens=8, seed=7))
    assert engine.sample(same, SamplingParams(n=2, max_new_tokens=8, seed=7)) == first
    assert engine.sample(same, SamplingParams(n=2, max_new_tokens=8, seed=8)) != first
    assert len({c.ids for row in first for c in row}) > 2
    seeds = {prompt_seed(seed, i) for seed in range(-3, 30) for i in range(30)}
    assert len(seeds) == 33 * 30
    assert min(seeds) >= 0
    assert max(seeds) < 2**31


def test_equal_prompts_are_asked_once_and_progress_counts_all(
    serve: Serve, world_chat: ChatEncoder, questions: list[JudgmentPrompt]
) -> None:
    served = serve()
    done: list[int] = []
    engine = OpenAIEngine(served.url, world_chat, concurrency=2)
    found = engine.label_probabilities([*questions, *questions[:3]], done.append)
    assert len(served.requests) == len(set(questions))
    assert served.most_at_once == 2
    assert sum(done) == len(questions) + 3
    assert (found[-3:] == found[:3]).all()
    engine.sample(prompts(world_chat), SamplingParams(max_new_tokens=2), done.append)
    assert sum(done) == len(questions) + 3 + 4
    assert engine.sample([], SamplingParams()) == []
    assert engine.label_probabilities([]).shape == (0, 2)


def test_a_missing_label_counts_as_nothing_and_two_are_an_error(
    serve: Serve, model: LlamaForCausalLM, world_chat: ChatEncoder, questions: list[JudgmentPrompt]
) -> None:
    every = len(world_chat.tokenizer)
    found = OpenAIEngine(serve("no B").url, world_chat, top_logprobs=every).label_probabilities(questions)
    expected = TransformersEngine(model, world_chat).label_probabilities(questions)
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=1e-5)
    assert (found[:, 1] == 0).all()
    with pytest.raises(EngineError, match=r"Neither label .* judgment prompt \d+: .*JSFT.*--max-logprobs"):
        OpenAIEngine(serve("old vllm").url, world_chat, top_logprobs=1).label_probabilities(questions)


def test_texts_that_belong_to_several_tokens_are_no_labels(
    serve: Serve, world_chat: ChatEncoder, questions: list[JudgmentPrompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = type(world_chat.tokenizer).batch_decode
    monkeypatch.setattr(
        type(world_chat.tokenizer), "batch_decode", lambda *args, **kw: [t.strip() for t in decode(*args, **kw)]
    )
    engine = OpenAIEngine(serve("text").url, world_chat)
    with pytest.raises(EngineError, match="'A' is the text of more than one"):
        engine.label_probabilities(questions)


@pytest.mark.parametrize(
    ("mode", "message"),
    [("no logprobs", "gave no log-probabilities for judgment prompt 0"), ("web page", "gave no log-probabilities")],
)
def test_an_answer_without_log_probabilities_is_an_error(
    serve: Serve, mode: str, message: str, world_chat: ChatEncoder, questions: list[JudgmentPrompt]
) -> None:
    with pytest.raises(EngineError, match=message):
        OpenAIEngine(serve(mode).url, world_chat).label_probabilities(questions[:1])


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("one completion", "gave 1 of 2 completions for prompt 0"),
        ("web page", "gave 0 of 2 completions for prompt 0"),
        ("aborts", "broke off a completion of prompt 0 \\('abort'\\)"),
    ],
)
def test_an_incomplete_sample_is_an_error(serve: Serve, mode: str, message: str, world_chat: ChatEncoder) -> None:
    with pytest.raises(EngineError, match=message):
        OpenAIEngine(serve(mode).url, world_chat).sample(prompts(world_chat)[:1], SamplingParams(n=2, max_new_tokens=2))


def test_passing_errors_are_tried_again(
    serve: Serve, model: LlamaForCausalLM, world_chat: ChatEncoder, questions: list[JudgmentPrompt]
) -> None:
    fail = (500, {"error": {"message": "not now"}})
    served = serve(failures=[fail, fail])
    found = OpenAIEngine(served.url, world_chat).label_probabilities(questions[:1])
    assert len(served.requests) == 3
    expected = TransformersEngine(model, world_chat).label_probabilities(questions[:1])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(EngineError, match=r"refused prompt 0 .* with 500 \(not now\): look at its log"):
        OpenAIEngine(serve(failures=[fail]).url, world_chat, max_retries=0).label_probabilities(questions[:1])


def test_a_refused_request_becomes_one_sentence(
    serve: Serve, world_chat: ChatEncoder, questions: list[JudgmentPrompt]
) -> None:
    too_long = "This model's maximum context length is 256 tokens. However, you requested 300 tokens."
    served = serve(failures=[(400, {"error": {"message": too_long, "code": 400}})])
    with pytest.raises(EngineError) as caught:
        OpenAIEngine(served.url, world_chat).label_probabilities(questions[:1])
    assert len(served.requests) == 1  # such an error is not tried again
    sentence = f"The server at {served.url} refused prompt 0 (model 'tiny') with 400 ({too_long.rstrip('.')}): "
    assert str(caught.value).startswith(sentence + "shorten the prompt")
    assert "\n" not in str(caught.value)


def test_a_server_that_hangs_times_out(serve: Serve, world_chat: ChatEncoder, questions: list[JudgmentPrompt]) -> None:
    engine = OpenAIEngine(serve("hangs").url, world_chat, timeout=0.3, max_retries=0)
    with pytest.raises(EngineError, match=r"did not answer prompt 0 within 0\.3 s"):
        engine.label_probabilities(questions[:1])


def test_the_first_failure_ends_the_other_requests(
    serve: Serve, world_chat: ChatEncoder, questions: list[JudgmentPrompt]
) -> None:
    served = serve("hangs after one", failures=[(400, {"error": {"message": "no"}})])
    engine = OpenAIEngine(served.url, world_chat, concurrency=2)
    start = time.monotonic()
    with pytest.raises(EngineError, match="with 400"):
        engine.label_probabilities(questions)
    assert time.monotonic() - start < 10
    assert len(served.requests) < len(set(questions))


def test_a_server_that_is_not_there(world_chat: ChatEncoder) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(EngineError, match=f"The server at {url} cannot be reached .*: start it"):
            OpenAIEngine(url, world_chat, max_retries=0)


def test_wrong_names_urls_and_keys(serve: Serve, world_chat: ChatEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve(key="secret")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(EngineError, match=r"refused the list of models with 401 \(Unauthorized\): set OPENAI_API_KEY"):
        OpenAIEngine(served.url, world_chat)
    with pytest.raises(EngineError, match="does not serve 'other': name one of 'tiny', 'second'"):
        OpenAIEngine(served.url, world_chat, model="other", api_key="secret")
    with pytest.raises(EngineError, match=r"with 404 .* ends with /v1"):
        OpenAIEngine(served.url.removesuffix("/v1"), world_chat, api_key="secret")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert OpenAIEngine(served.url, world_chat).model == NAME
    assert OpenAIEngine(served.url, world_chat, model="second").model == "second"


def test_the_context_length_is_the_servers_else_the_tokenizers(serve: Serve, world_chat: ChatEncoder) -> None:
    assert OpenAIEngine(serve(max_model_len=100).url, world_chat).max_length == 100
    assert OpenAIEngine(serve(max_model_len=100).url, world_chat, model="second").max_length == 100
    assert OpenAIEngine(serve(max_model_len=100).url, world_chat, max_length=50).max_length == 50
    silent = serve(max_model_len=None)
    assert OpenAIEngine(silent.url, world_chat).max_length == world_chat.tokenizer.model_max_length


def test_it_works_where_a_loop_is_running(
    serve: Serve, world_chat: ChatEncoder, questions: list[JudgmentPrompt]
) -> None:
    async def notebook() -> np.ndarray:
        return OpenAIEngine(serve().url, world_chat).label_probabilities(questions[:2])

    assert (asyncio.run(notebook()) > 0).all()


def test_reading_answers() -> None:
    assert sampled_tokens({"token_ids": [1, 2], "logprobs": {"token_logprobs": [-1, None]}}) == ([1, 2], None)
    assert sampled_tokens({"token_ids": []}) == ([], None)
    assert sampled_tokens({"logprobs": {"tokens": ["token_id:5", "x"], "token_logprobs": [-1, -2]}}) is None
    assert sampled_tokens({"logprobs": None}) is None
    assert next_token_logprobs({"logprobs": {"top_logprobs": [None]}}) == {}
    assert next_token_logprobs({"logprobs": {"top_logprobs": []}}) == {}
    assert next_token_logprobs({"logprobs": {"top_logprobs": [{"token_id:": -1, "A": -2}]}}) == {
        "token_id:": -1,
        "A": -2,
    }


SERVER, TOKENIZER = os.environ.get("SELFJUDGE_TEST_SERVER"), os.environ.get("SELFJUDGE_TEST_MODEL")


@pytest.mark.skipif(
    not (SERVER and TOKENIZER),
    reason="set SELFJUDGE_TEST_SERVER to a server's URL and SELFJUDGE_TEST_MODEL to the model that it serves",
)
def test_a_real_server_agrees_with_the_transformers_engine() -> None:
    from selfjudge.engines.load import load_model

    loaded = load_model(TOKENIZER or "")
    local, served = TransformersEngine(loaded.model, loaded.chat), OpenAIEngine(SERVER or "", loaded.chat)
    pairs = [
        Comparison(id=r.id, prompt=r.prompt, response_a=r.chosen, response_b=r.rejected)
        for r in preference_records(20, seed=6)
    ]
    encoder = JudgmentEncoder(load_templates(loaded.templates), loaded.chat)
    questions = [q.prompt for q in Judge(local, encoder).questions(pairs)]
    # The dtype and the kernels of the server may be others.
    difference = served.label_probabilities(questions) - local.label_probabilities(questions)
    assert np.abs(difference).max() < 0.02
    asked = [loaded.chat.prompt_ids(pair.prompt) for pair in pairs]
    completions = served.sample(asked, SamplingParams(n=2, max_new_tokens=16))
    assert all(len(row) == 2 for row in completions)
