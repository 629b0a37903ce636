"""Streams tell what happens as it happens, and answer what an unstreamed request answers. On both backends."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx2 as httpx
import pytest
import torch
from fastapi import Request
from score_server import DOWN, MODEL, ScoreEngine, app_on, chat_body, judge_on, listening, scores
from served_model import NAME, ServedModel, served_models
from transformers import LlamaForCausalLM

from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.openai_server import OpenAIEngine
from selfjudge.judge import as_messages
from selfjudge.records import Comparison, Verdict
from selfjudge.serving.app import create_app
from selfjudge.serving.backend import Backend, Judged
from selfjudge.serving.contest import Task, hold
from selfjudge.serving.in_process import InProcessBackend
from selfjudge.serving.settings import ServeSettings
from selfjudge.serving.streaming import Progress, stream
from selfjudge.serving.upstream import UpstreamBackend
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.world.model import build_model

CHAT = "/v1/chat/completions"
SETTINGS = ServeSettings(n=4, max_new_tokens=8)
PARAMS = SamplingParams(n=4, max_new_tokens=8, seed=5)


@pytest.fixture
def model(world_chat: ChatEncoder) -> LlamaForCausalLM:
    model = build_model(world_chat.tokenizer, seed=3).eval()
    with torch.no_grad():  # samples that end at different lengths
        model.lm_head.weight[list(world_chat.stop_ids)] += 4 * model.lm_head.weight.std()
    return model


@pytest.fixture
def serve(model: LlamaForCausalLM, world_chat: ChatEncoder) -> Iterator[Callable[..., ServedModel]]:
    with served_models(model, world_chat) as serve:
        yield serve


def upstream(chat: ChatEncoder, *servers: ServedModel) -> UpstreamBackend:
    engines = [OpenAIEngine(server.url, chat, max_retries=0) for server in servers]
    return UpstreamBackend(engines, JudgmentEncoder(load_templates("world"), chat))


def told(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """The events of a stream, comments and data, as they come."""
    for line in filter(None, lines):
        kind, _, text = line.partition(": ")
        yield kind, text if text == "[DONE]" else json.loads(text)


@pytest.mark.parametrize("kind", ["in process", "in front of a server"])
def test_a_stream_and_an_answer_of_one_seed_are_the_same_tournament(
    serve: Callable[..., ServedModel], model: LlamaForCausalLM, world_chat: ChatEncoder, kind: str
) -> None:
    backend: Backend
    if kind == "in process":
        engine = TransformersEngine(model, world_chat)
        backend = InProcessBackend(engine, judge_on(engine, world_chat), world_chat)
    else:
        backend = upstream(world_chat, serve())
    body = chat_body(model=NAME, seed=12, n_candidates=7, selfjudge=True, max_tokens=30)
    with listening(create_app(backend, NAME, SETTINGS)) as (url, _):
        answer = httpx.post(url + CHAT, json=body, timeout=60).json()
        with httpx.stream("POST", url + CHAT, json=body | {"stream": True}, timeout=60) as response:
            events = list(told(response.iter_lines()))
    comments = [event for kind, event in events if not kind]
    expected = answer["selfjudge"]
    arrived = [event["candidate"] for event in comments if "candidate" in event]
    assert sorted(arrived) == list(range(7))
    assert arrived != sorted(arrived)  # and all the same:
    assert {e["candidate"]: e["text"] for e in comments if "text" in e} == dict(enumerate(expected["candidates"]))
    assert [event["drawn"] for event in comments if "drawn" in event] == [expected["candidates"]]
    found = next(event["selfjudge"] for kind, event in events if kind == "data" and "selfjudge" in event)
    for field in ("candidates", "order", "byes", "placing", "seed"):
        assert found[field] == expected[field], field
    results = [[(m["round"], m["a"], m["b"], m["winner"]) for m in one["matches"]] for one in (found, expected)]
    assert results[0] == results[1]
    assert sorted((m["a"], m["b"]) for e in comments for m in e.get("matches", ())) == sorted(
        r[1:3] for r in results[1]
    )
    text = "".join(e["choices"][0]["delta"].get("content", "") for k, e in events if k == "data" and e != "[DONE]"
                   and e["choices"])  # fmt: skip
    assert text == answer["choices"][0]["message"]["content"]


def test_candidates_are_sent_while_others_are_drawn(world_chat: ChatEncoder) -> None:
    engine = ScoreEngine(world_chat)
    engine.permits = threading.Semaphore(0)
    body = chat_body(stream=True, selfjudge=True, stop=["8"])
    with listening(app_on(engine)) as (url, _), httpx.stream("POST", url + CHAT, json=body, timeout=20) as response:
        events = told(response.iter_lines())
        for place in (3, 2, 1, 0):
            engine.permits.release()
            text = f"score {scores(4)[place]}".replace("8", "")  # as judged: without what follows a stop text
            assert next(events) == ("", {"prompt": 0, "candidate": place, "text": text})
        assert "drawn" in next(events)[1]


def test_every_prompt_of_a_request_has_its_own_candidates(world_chat: ChatEncoder) -> None:
    body = {"model": MODEL, "prompt": ["Name a fox.", "Name an owl."], "n_candidates": 2, "stream": True}
    app, path = app_on(ScoreEngine(world_chat)), "/v1/completions"
    with listening(app) as (url, _), httpx.stream("POST", url + path, json=body, timeout=20) as response:
        events = [event for kind, event in told(response.iter_lines()) if not kind]
    for prompt in (0, 1):
        own = [event for event in events if event["prompt"] == prompt]
        assert [set(event) - {"prompt"} for event in own] == [
            {"candidate"}, {"candidate"}, {"drawn"}, {"pairings"}, {"matches"},
        ]  # fmt: skip


def test_only_streams_are_told_even_where_a_call_is_shared(world_chat: ChatEncoder) -> None:
    engine = ScoreEngine(world_chat)
    heard: dict[int, list[int]] = {0: [], 1: []}

    async def work() -> None:
        backend = InProcessBackend(engine, judge_on(engine, world_chat), world_chat)
        async with backend.running():
            await asyncio.gather(
                backend.sample([1], PARAMS, repeatable=False, drawn=lambda place, _: heard[0].append(place)),
                backend.sample([2], PARAMS, repeatable=False),
                backend.sample([3], PARAMS, repeatable=False, drawn=lambda place, _: heard[1].append(place)),
            )

    asyncio.run(work())
    assert [n for n, _ in engine.samples] == [3]
    assert heard == {0: [3, 2, 1, 0], 1: [3, 2, 1, 0]}


def test_who_leaves_while_candidates_are_drawn_gets_no_tournament_and_others_are_served(
    world_chat: ChatEncoder,
) -> None:
    engine = ScoreEngine(world_chat)
    engine.permits = threading.Semaphore(1)
    with listening(app_on(engine)) as (url, _):
        with httpx.stream("POST", url + CHAT, json=chat_body(stream=True), timeout=20) as response:
            assert next(told(response.iter_lines()))[1] == {"prompt": 0, "candidate": 3}
        engine.permits.release(3)
        assert httpx.post(url + CHAT, json=chat_body(), timeout=20).status_code == 200
    assert engine.judgments == [4, 2]  # both orders of the matches of the one who stayed


def test_who_leaves_midway_drops_the_connection_to_the_server(
    serve: Callable[..., ServedModel], world_chat: ChatEncoder
) -> None:
    backend = upstream(world_chat, serve(stream="waits"))
    cancelled = threading.Event()
    server = backend._servers[0].engine._server
    ask = server._streamed

    async def watched(*args: Any) -> Any:
        try:
            return await ask(*args)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    server._streamed = watched  # type: ignore[method-assign]
    with listening(create_app(backend, NAME, SETTINGS)) as (url, _):
        body = chat_body(model=NAME, stream=True, seed=11, n_candidates=7)
        with httpx.stream("POST", url + CHAT, json=body, timeout=20) as response:
            events = told(response.iter_lines())  # kept: httpx drops the connection once the iterator is collected
            assert "candidate" in next(events)[1]
            assert not cancelled.wait(0.3)
        assert cancelled.wait(5)  # the server would have waited for far longer


def test_a_stream_that_is_closed_cancels_its_work() -> None:
    """As where sending fails before the server has heard that the client is gone."""

    async def never(*_: Any) -> Any:
        await asyncio.Event().wait()

    async def close() -> bool:
        work, progress = asyncio.create_task(never()), Progress(whole=False)
        progress.report(0, {"candidate": 0})
        events = stream(work, progress, Request({"type": "http"}, never), lambda _: []).body_iterator
        assert "candidate" in str(await anext(events))
        await events.aclose()  # type: ignore[attr-defined]
        await asyncio.wait({work}, timeout=5)
        return work.cancelled()

    assert asyncio.run(close())


@pytest.mark.parametrize("stream", ["breaks", "fails", "ends"])
def test_a_server_that_dies_midway_costs_no_stream_its_answer(
    serve: Callable[..., ServedModel], world_chat: ChatEncoder, stream: str
) -> None:
    bad, good = serve(stream=stream), serve()
    body = chat_body(model=NAME, stream=True, selfjudge=True, seed=11)
    app = create_app(upstream(world_chat, bad, good), NAME, SETTINGS)
    with listening(app) as (url, _), httpx.stream("POST", url + CHAT, json=body, timeout=30) as response:
        events = list(told(response.iter_lines()))
    assert bad.requests[0]["stream"]
    assert events[-1] == ("data", "[DONE]")
    candidates = [event for kind, event in events if "candidate" in event]
    assert len(candidates) == 5  # the one of the server that died comes again
    (drawn,) = [event["drawn"] for _, event in events if "drawn" in event]
    assert {event["candidate"]: event["text"] for event in candidates} == dict(enumerate(drawn))


class _Reversed:
    """Answers a round's matches one by one, the last first; fails where it is told to."""

    def __init__(self, engine: ScoreEngine, fails: str | None = None) -> None:
        self.inner = InProcessBackend(engine, judge_on(engine, engine.chat), engine.chat)
        self.waiting: list[asyncio.Event] = []
        self.fails = fails

    async def sample(self, *args: Any, **named: Any) -> Any:
        return await self.inner.sample(*args, **named)

    async def verdicts(self, comparisons: Sequence[Comparison]) -> Judged:
        judged: list[Verdict] = self.inner.judge.judge(comparisons)
        mine = asyncio.Event()
        self.waiting.append(mine)
        await asyncio.sleep(0)  # the others of the round come
        if self.waiting[-1] is not mine:
            await self.waiting[self.waiting.index(mine) + 1].wait()
        mine.set()
        if comparisons[0].id == self.fails:
            raise DOWN
        return Judged(judged, 1)


def test_matches_are_told_as_they_are_judged_and_seated_all_the_same(world_chat: ChatEncoder) -> None:
    events: list[dict[str, Any]] = []

    async def work(streamed: bool) -> Any:
        engine = ScoreEngine(world_chat)
        backend = _Reversed(engine) if streamed else InProcessBackend(engine, judge_on(engine, world_chat), world_chat)
        params = SamplingParams(n=8, max_new_tokens=8, seed=5)
        task = Task(as_messages("p"), (1, 2), params, True, (), True, streamed)
        async with (backend.inner if isinstance(backend, _Reversed) else backend).running():
            return await hold(backend, task, "error", events.append if streamed else lambda event: None)  # type: ignore[arg-type]

    outcome, plain = asyncio.run(work(True)), asyncio.run(work(False))
    first = events.index(next(event for event in events if "pairings" in event))
    pairings = events[first]["pairings"]
    assert [[(m["a"], m["b"]) for m in event["matches"]] for event in events[first + 1 : first + 5]] == [
        [pair] for pair in reversed(pairings)
    ]
    assert outcome.bracket.matches == plain.bracket.matches
    assert outcome.placing == plain.placing
    assert outcome.prompt_tokens == 2 + 7  # one for each match


def test_when_judging_fails_midway_the_matches_that_were_told_count(world_chat: ChatEncoder) -> None:
    engine = ScoreEngine(world_chat)
    params = SamplingParams(n=4, max_new_tokens=8, seed=5)
    task = Task(as_messages("p"), (1, 2), params, True, (), True, True)
    events: list[dict[str, Any]] = []

    async def work(fails: str) -> Any:
        backend = _Reversed(engine, fails)
        async with backend.inner.running():
            return await hold(backend, task, "best-so-far", events.append)  # type: ignore[arg-type]

    probe = asyncio.run(work("none"))
    (a, b), (c, d) = ((m.a, m.b) for m in probe.bracket.matches[:2])
    events.clear()
    outcome = asyncio.run(work(f"{a}-{b}"))  # the second match of the round was judged before
    assert outcome.failure
    assert [(m["a"], m["b"]) for event in events for m in event.get("matches", ())] == [(c, d)]
    (match,) = outcome.bracket.matches
    assert outcome.placing[0] == match.winner
    assert outcome.placing[-1] == c + d - match.winner
    assert sorted(outcome.placing) == [0, 1, 2, 3]
