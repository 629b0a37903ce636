"""Requests to `selfjudge serve`, well-formed and not, sent to the app without a network between."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from typing import Any

from hypothesis import strategies as st
from score_server import MODEL, ScoreEngine, app_on

from selfjudge.serving.settings import ServeSettings
from selfjudge.templates.chat import ChatEncoder
from selfjudge.world.model import build_tokenizer

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/judge", "/v1/arena/pairs", "/v1/arena/votes", "/v1/nothing")
Request = tuple[str, str, list[tuple[bytes, bytes]], bytes]


def requests(values: st.SearchStrategy[Any], text: st.SearchStrategy[str]) -> st.SearchStrategy[Request]:
    """Method, path, headers and body."""
    role = st.sampled_from(["user", "assistant", "system", "developer", "tool"])
    content = st.one_of(
        text, st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": text}), max_size=2), values
    )
    messages = st.one_of(st.lists(st.fixed_dictionaries({"role": role, "content": content}), max_size=3), values)
    number = st.one_of(st.integers(-3, 90), st.floats(), st.sampled_from([10**30, -(10**30)]), values)
    common = dict.fromkeys(
        ("n", "n_candidates", "temperature", "top_p", "seed", "max_tokens", "logprobs", "presence_penalty"), number
    ) | {"stop": st.one_of(text, st.lists(text, max_size=5)), "stream": st.booleans(), "selfjudge": st.booleans()}
    model = st.one_of(st.just(MODEL), st.just(MODEL), st.just(MODEL), values)
    prompt = st.one_of(text, st.lists(text, max_size=3), st.lists(st.integers(-1, 500), max_size=5), values)
    pair = st.fixed_dictionaries(
        {"prompt": st.one_of(text, messages), "response_a": text, "response_b": text}, optional={"id": values}
    )
    bodies = st.one_of(
        st.fixed_dictionaries({"model": model, "messages": messages}, optional=common),
        st.fixed_dictionaries({"model": model, "prompt": prompt}, optional=common),
        st.fixed_dictionaries({"pairs": st.one_of(st.lists(st.one_of(pair, pair, values), max_size=3), values)}),
        values,
    )
    raw = st.one_of(bodies.map(lambda body: json.dumps(body).encode()), st.binary(max_size=30), st.just(b"[" * 3000))
    header = st.sampled_from([b"application/json", b"text/plain", b"application/json; charset=utf-16", b""])
    headers = st.fixed_dictionaries(
        {"content-type": header}, optional={"content-length": st.sampled_from([b"0", b"-1", b"x"])}
    )
    return st.tuples(
        st.sampled_from(["POST", "POST", "POST", "GET", "PUT"]),
        st.one_of(st.sampled_from(PATHS[:3]), st.sampled_from([*PATHS, "/static/../app.py", "/%2e%2e/x", "/docs"])),
        headers.map(lambda named: [(name.encode(), value) for name, value in named.items()]),
        raw,
    )


@cache
def _serving() -> tuple[asyncio.AbstractEventLoop, Any]:
    """An app that has been started, and the loop that it runs on."""
    loop = asyncio.new_event_loop()
    app = app_on(ScoreEngine(ChatEncoder(build_tokenizer())), ServeSettings(n=2, max_candidates=8, max_new_tokens=4))
    started = loop.create_future()

    async def receive() -> dict[str, Any]:
        if started.done():
            await asyncio.Event().wait()
        return {"type": "lifespan.startup"}

    async def send(message: dict[str, Any]) -> None:
        started.set_result(message["type"])

    _kept.append(loop.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)))
    assert loop.run_until_complete(started) == "lifespan.startup.complete"
    return loop, app


_kept: list[Any] = []


def check(request: Request) -> None:
    """Every request is answered, none by a failure of the server; what is refused is told as OpenAI's API does."""
    loop, app = _serving()
    status, headers, body = loop.run_until_complete(asyncio.wait_for(_send(app, request), 30))
    assert status < 500, (status, body)
    if status >= 400:
        error = json.loads(body)["error"]
        assert error["message"]
        assert "Traceback" not in error["message"]
    elif b"application/json" in headers.get(b"content-type", b""):
        json.loads(body)


async def _send(app: Any, request: Request) -> tuple[int, dict[bytes, bytes], bytes]:
    method, path, headers, body = request
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "state": {},
    }  # fmt: skip
    waiting = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop()
        return await asyncio.Event().wait()  # type: ignore[return-value]

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start = next(message for message in sent if message["type"] == "http.response.start")
    content = b"".join(message.get("body", b"") for message in sent)
    return start["status"], {name.lower(): value for name, value in start["headers"]}, content
