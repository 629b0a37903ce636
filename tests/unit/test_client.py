"""The client against a real server with an engine whose best answer is known."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from score_server import DOWN, MODEL, ScoreEngine, app_on, judge_on, listening, scores

from selfjudge.client import AsyncClient
from selfjudge.errors import EngineError
from selfjudge.judge import as_messages
from selfjudge.records import Comparison, Message
from selfjudge.serving.settings import ServeSettings
from selfjudge.templates.chat import ChatEncoder
from selfjudge.tournament import play

SETTINGS = ServeSettings(n=4, max_new_tokens=8)


@pytest.fixture
def engine(world_chat: ChatEncoder) -> ScoreEngine:
    return ScoreEngine(world_chat)


@pytest.fixture
def url(engine: ScoreEngine) -> Iterator[str]:
    with listening(app_on(engine)) as (url, _):
        yield f"{url}/v1"


def pair(i: int) -> Comparison:
    return Comparison(
        id=f"p{i}", prompt=as_messages(f"Name {i}."), response_a="score 5", response_b=f"score {i % 11}", label="A"
    )


def test_verdicts_are_those_of_the_judge_in_the_order_of_the_pairs(url: str, engine: ScoreEngine) -> None:
    pairs = [pair(i) for i in range(150)]

    async def ask() -> list[Any]:
        async with AsyncClient(url) as client:
            assert await client.judge([]) == []
            return list(await client.judge(pairs))

    found = asyncio.run(ask())
    expected = judge_on(engine, engine.chat).judge(pairs)
    for verdict, comparison, other in zip(found, pairs, expected, strict=True):
        assert verdict.model_dump() == {
            "id": comparison.id,
            **other.model_dump(exclude={"principles"}),
            "principles": None,  # not asked for
        }
    assert {v.preferred for v in expected} == {"A", "B", "tie"}


def test_an_answer_has_its_tournament(url: str, engine: ScoreEngine) -> None:
    async def ask() -> list[Any]:
        async with AsyncClient(url) as client:
            dialogue = (Message(role="system", content="Be short."), *as_messages("Name a fox."))
            return [
                await client.complete("Name a fox.", n_candidates=7, seed=3),
                await client.complete(dialogue, n=2, model=MODEL),
            ]

    first, second = asyncio.run(ask())
    assert first.selfjudge.candidates == [f"score {s}" for s in scores(7)]
    (bracket,) = play(judge_on(engine, engine.chat), [as_messages("Name a fox.")], [first.selfjudge.candidates], 3)
    assert tuple(first.selfjudge.matches) == bracket.matches
    assert first.choices[0].message.content == f"score {max(scores(7))}"
    assert len(second.choices) == 2
    assert [p.n for _, p in engine.samples] == [7, 4]
    assert engine.samples[0][1].seed == 3


def test_a_full_server_is_asked_again(engine: ScoreEngine) -> None:
    with listening(app_on(engine, replace(SETTINGS, max_requests=1))) as (url, _):

        async def ask() -> list[list[Any]]:
            async with AsyncClient(f"{url}/v1") as client:
                return [list(v) for v in await asyncio.gather(*(client.judge([pair(i)]) for i in range(4)))]

        engine.seconds = 0.1
        assert [verdicts[0].id for verdicts in asyncio.run(ask())] == ["p0", "p1", "p2", "p3"]


class Counting(BaseHTTPRequestHandler):
    """Counts the requests that are under way at once, and answers each slowly."""

    now = most = 0

    def do_POST(self) -> None:
        Counting.now += 1
        Counting.most = max(Counting.most, Counting.now)
        pairs = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["pairs"]
        asyncio.run(asyncio.sleep(0.05))
        order = {"A": 0.5, "B": 0.5}
        verdict = {
            "preferred": "tie",
            "strength": 0.5,
            "agree": True,
            "label_mass": 1.0,
            "p": {"AB": order, "BA": order},
        }
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        payload = json.dumps({"verdicts": [verdict | {"id": p["id"]} for p in pairs], "usage": usage}).encode()
        Counting.now -= 1
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize("concurrency", [1, 3])
def test_requests_at_once_are_bounded_over_all_calls(concurrency: int) -> None:
    Counting.most = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()

    async def ask() -> None:
        async with AsyncClient(f"http://127.0.0.1:{server.server_port}/v1", concurrency=concurrency) as client:
            many, one = await asyncio.gather(client.judge([pair(i) for i in range(400)]), client.judge([pair(7)]))
            assert ([v.id for v in many], [v.id for v in one]) == ([f"p{i}" for i in range(400)], ["p7"])

    try:
        asyncio.run(ask())
    finally:
        server.shutdown()
        server.server_close()
    assert Counting.most == concurrency


def failing(url: str, *, key: str | None = None, timeout: float = 5, fields: dict[str, object] | None = None) -> str:
    async def ask() -> None:
        async with AsyncClient(url, api_key=key, timeout=timeout, max_retries=0) as client:
            await client.complete("Name a fox.", **(fields or {}))

    with pytest.raises(EngineError) as raised:
        asyncio.run(ask())
    return str(raised.value)


def test_failures_are_told_in_one_sentence(url: str, engine: ScoreEngine) -> None:
    assert "answered 404: The model `other` is not served here" in failing(url, fields={"model": "other"})
    assert "answered 400: n is 5, but n_candidates only 4." in failing(url, fields={"n": 5, "n_candidates": 4})
    assert "answered 404: Not Found" in failing(f"{url}/wrong")
    engine.judge_error = DOWN
    assert "answered 503: Judging failed" in failing(url)
    engine.judge_error, engine.seconds = None, 1.0
    assert "did not answer in time" in failing(url, timeout=0.2)
    assert "cannot be reached" in failing("http://127.0.0.1:1/v1")


def test_a_key_is_sent(engine: ScoreEngine) -> None:
    settings = replace(SETTINGS, key_hashes=frozenset({hashlib.sha256(b"right").hexdigest()}))
    with listening(app_on(engine, settings)) as (url, _):
        assert "answered 401" in failing(f"{url}/v1", key="wrong")

        async def ask() -> str:
            async with AsyncClient(f"{url}/v1", api_key="right") as client:
                return (await client.complete("Name a fox.")).choices[0].message.content

        assert asyncio.run(ask()) == f"score {max(scores(4))}"


def test_another_service_is_not_taken_for_the_server() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Other)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert "is no `selfjudge serve`" in failing(f"http://127.0.0.1:{server.server_port}/v1", fields={"model": "x"})
    finally:
        server.shutdown()
        server.server_close()


class Other(BaseHTTPRequestHandler):
    """Some service that answers anything with the same."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "18")
        self.end_headers()
        self.wfile.write(b'{"hello": "world"}')

    def log_message(self, *args: object) -> None:
        pass
