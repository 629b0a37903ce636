"""The server in front of model servers, over real HTTP, with a real tiny model behind them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import NoReturn

import httpx2 as httpx
import pytest
from score_server import listening
from served_model import NAME, ServedModel
from transformers import LlamaForCausalLM

from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.openai_server import OpenAIEngine
from selfjudge.errors import EngineError
from selfjudge.judge import Judge, as_messages
from selfjudge.records import Comparison
from selfjudge.serving.app import create_app
from selfjudge.serving.settings import ServeSettings
from selfjudge.serving.upstream import UpstreamBackend
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.tournament import play
from selfjudge.world.model import build_model

CHAT = "/v1/chat/completions"
BODY = {"model": NAME, "messages": [{"role": "user", "content": "Name two things of the sea for Ada."}],
        "n_candidates": 3, "selfjudge": True}  # fmt: skip
SETTINGS = ServeSettings(n=3, max_new_tokens=6)


@pytest.fixture(scope="module")
def model(world_chat: ChatEncoder) -> LlamaForCausalLM:
    return build_model(world_chat.tokenizer, seed=3).eval()


@pytest.fixture
def serve(model: LlamaForCausalLM, world_chat: ChatEncoder) -> Iterator[Callable[..., ServedModel]]:
    with ExitStack() as stack:
        yield lambda mode="vllm", **options: stack.enter_context(
            ServedModel(model, world_chat, mode, **options).running()
        )


def hang_up(body: object) -> NoReturn:
    """What a client sees of a server that was killed: a connection that is closed without an answer."""
    raise ConnectionResetError


def in_front_of(chat: ChatEncoder, *servers: ServedModel) -> UpstreamBackend:
    engines = [OpenAIEngine(server.url, chat, max_retries=0) for server in servers]
    return UpstreamBackend(engines, JudgmentEncoder(load_templates("world"), chat))


def test_the_winner_is_that_of_play_in_process(
    serve: Callable[..., ServedModel], model: LlamaForCausalLM, world_chat: ChatEncoder
) -> None:
    with listening(create_app(in_front_of(world_chat, serve()), NAME, SETTINGS)) as (url, _):
        assert httpx.get(f"{url}/readyz").status_code == 200
        reply = httpx.post(url + CHAT, json=BODY, timeout=30).json()
    found = reply["selfjudge"]
    judge = Judge(TransformersEngine(model, world_chat), JudgmentEncoder(load_templates("world"), world_chat))
    prompt = as_messages(BODY["messages"][0]["content"])  # type: ignore[index]
    (bracket,) = play(judge, [prompt], [found["candidates"]], found["seed"])
    assert [match["winner"] for match in found["matches"]] == [match.winner for match in bracket.matches]
    assert reply["choices"][0]["message"]["content"] == found["candidates"][bracket.winner]


def test_calls_are_spread_by_load(serve: Callable[..., ServedModel], world_chat: ChatEncoder) -> None:
    servers = [serve(), serve()]
    backend = in_front_of(world_chat, *servers)

    async def draw() -> None:
        async with backend.running():
            params = SamplingParams(max_new_tokens=4)
            await asyncio.gather(*(backend.sample([1, 2, 3], params, repeatable=False) for _ in range(10)))

    asyncio.run(draw())
    assert [len(server.requests) for server in servers] == [5, 5]


def test_a_server_that_failed_is_asked_after_the_others(
    serve: Callable[..., ServedModel], world_chat: ChatEncoder
) -> None:
    bad, good = serve("aborts"), serve()
    backend = in_front_of(world_chat, bad, good)

    async def draw() -> None:
        async with backend.running():
            for _ in range(5):
                await backend.sample([1, 2, 3], SamplingParams(max_new_tokens=4), repeatable=False)

    asyncio.run(draw())
    assert (len(bad.requests), len(good.requests)) == (1, 5)


def test_only_calls_under_way_are_load(
    serve: Callable[..., ServedModel], world_chat: ChatEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = [serve(failures=[(500, {"error": {"message": "not yet"}})]), serve()]
    backend = in_front_of(world_chat, *servers)
    counts: list[list[int]] = []

    async def draw() -> None:
        async with backend.running():
            params = SamplingParams(max_new_tokens=4)
            for _ in range(5):  # the second server has all of these
                await backend.sample([1, 2, 3], params, repeatable=False)
            counts.append([len(server.requests) for server in servers])
            monkeypatch.setattr("selfjudge.serving.upstream._AVOIDED", 0.0)
            await asyncio.gather(*(backend.sample([1, 2, 3], params, repeatable=False) for _ in range(10)))
            counts.append([len(server.requests) for server in servers])

    asyncio.run(draw())
    assert counts == [[1, 5], [6, 10]]


@pytest.mark.parametrize("fault", ["fails", "aborts", "is gone"])
def test_a_server_that_dies_costs_no_request_its_answer(
    serve: Callable[..., ServedModel], model: LlamaForCausalLM, world_chat: ChatEncoder, fault: str
) -> None:
    bad = ServedModel(model, world_chat, "aborts" if fault == "aborts" else "vllm")
    with ExitStack() as stack:
        running = stack.enter_context(bad.running())
        app = create_app(in_front_of(world_chat, running, serve()), NAME, SETTINGS)
        url, _ = stack.enter_context(listening(app))
        pool = stack.enter_context(ThreadPoolExecutor(8))
        answers = [pool.submit(httpx.post, url + CHAT, json=BODY, timeout=30) for _ in range(16)]
        wait({answers[3]})
        if fault == "fails":
            bad.failures = [(500, {"error": {"message": "dying"}})] * 1000
        if fault == "is gone":
            bad.complete = hang_up  # type: ignore[method-assign]
        found = [answer.result() for answer in answers]
    assert {answer.status_code for answer in found} == {200}
    assert all(answer.json()["selfjudge"]["complete"] for answer in found)
    assert bad.requests


def test_with_no_server_left_nothing_is_answered_and_nothing_is_ready(
    model: LlamaForCausalLM, world_chat: ChatEncoder
) -> None:
    with ServedModel(model, world_chat).running() as served:
        backend = in_front_of(world_chat, served)
    with listening(create_app(backend, NAME, SETTINGS)) as (url, _):
        answer = httpx.post(url + CHAT, json=BODY, timeout=30)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_failed")
        assert httpx.get(f"{url}/readyz").status_code == 503
        assert httpx.get(f"{url}/healthz").status_code == 200


def test_a_client_that_leaves_drops_the_connection_to_the_server(
    serve: Callable[..., ServedModel], world_chat: ChatEncoder
) -> None:
    backend = in_front_of(world_chat, serve("hangs"))
    cancelled = threading.Event()
    engine = backend._servers[0].engine
    ask = engine.sample_async

    async def watched(*args: object) -> object:
        try:
            return await ask(*args)  # type: ignore[arg-type]
        except asyncio.CancelledError:
            cancelled.set()
            raise

    engine.sample_async = watched  # type: ignore[method-assign,assignment]
    with listening(create_app(backend, NAME, SETTINGS)) as (url, _):
        started = time.monotonic()
        with pytest.raises(httpx.TimeoutException):
            httpx.post(url + CHAT, json=BODY, timeout=0.3)
        assert cancelled.wait(5)
    assert time.monotonic() - started < 10  # far less than the server hangs


def test_a_pair_that_is_too_long_is_not_sent(serve: Callable[..., ServedModel], world_chat: ChatEncoder) -> None:
    served = serve()
    with listening(create_app(in_front_of(world_chat, served), NAME, SETTINGS)) as (url, _):
        pair = {"prompt": "fox " * 400, "response_a": "a", "response_b": "b"}
        answer = httpx.post(f"{url}/v1/judge", json={"pairs": [pair]})
    assert (answer.status_code, served.requests) == (400, [])


def test_verdicts_equal_those_in_process(
    serve: Callable[..., ServedModel], model: LlamaForCausalLM, world_chat: ChatEncoder
) -> None:
    pair = Comparison(id="0", prompt=as_messages("Name a fox."), response_a="fox", response_b="owl oak")
    backend = in_front_of(world_chat, serve())

    async def judge() -> float:
        async with backend.running():
            return (await backend.verdicts([pair])).verdicts[0].strength

    here = Judge(TransformersEngine(model, world_chat), backend.judge.encoder).judge([pair])[0]
    assert asyncio.run(judge()) == pytest.approx(here.strength, rel=1e-5)
    with pytest.raises(EngineError, match="cannot be reached"):
        OpenAIEngine("http://127.0.0.1:1/v1", world_chat, max_retries=0)
