"""What a server does when there is too much of it asked, or nobody left to answer."""

from __future__ import annotations

import gc
import hashlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from score_server import ScoreEngine, app_on, chat_body, listening

from selfjudge.errors import DataError
from selfjudge.serving import listen
from selfjudge.serving.gate import read_key_hashes
from selfjudge.serving.settings import ServeSettings
from selfjudge.templates.chat import ChatEncoder

CHAT = "/v1/chat/completions"
SETTINGS = ServeSettings(n=4, max_new_tokens=8)


@pytest.fixture
def engine(world_chat: ChatEncoder) -> ScoreEngine:
    return ScoreEngine(world_chat)


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def connected(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=5)


def accepted(url: str) -> int:
    """The requests that the server has under way, as its metrics tell."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith("selfjudge_accepted_requests "))))


def test_a_full_queue_answers_429_and_says_when_to_come_again(engine: ScoreEngine) -> None:
    engine.going.clear()
    with listening(app_on(engine, replace(SETTINGS, max_requests=2))) as (url, _), ThreadPoolExecutor() as pool:
        held = [pool.submit(httpx.post, url + CHAT, json=chat_body(), timeout=20) for _ in range(2)]
        wait_until(lambda: accepted(url) == 2)
        for path, body in ((CHAT, chat_body()), (CHAT, chat_body(stream=True)), ("/v1/judge", {"pairs": [
            {"prompt": "p", "response_a": "score 1", "response_b": "score 2"}]})):  # fmt: skip
            refused = httpx.post(url + path, json=body)
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "queue_full"
            assert 1 <= int(refused.headers["Retry-After"]) <= 60
        engine.going.set()
        assert [answer.result().status_code for answer in held] == [200, 200]
        assert httpx.post(url + CHAT, json=chat_body()).status_code == 200


def test_a_request_that_takes_too_long_ends_with_504(engine: ScoreEngine) -> None:
    engine.going.clear()
    with TestClient(app_on(engine, replace(SETTINGS, timeout=0.1))) as client:
        late = client.post(CHAT, json=chat_body())
        engine.going.set()
    assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
    assert late.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_client_that_left_has_waiting_is_dropped(engine: ScoreEngine, stream: bool) -> None:
    engine.going.clear()
    with listening(app_on(engine)) as (url, _), ThreadPoolExecutor() as pool:
        first = pool.submit(httpx.post, url + CHAT, json=chat_body(), timeout=20)
        assert engine.started.wait(10)  # the engine is busy: what comes now waits
        with pytest.raises(httpx.TimeoutException):
            httpx.post(url + CHAT, json=chat_body(n_candidates=3, stream=stream), timeout=0.2)
        wait_until(lambda: accepted(url) == 1)
        engine.going.set()
        assert first.result().status_code == 200
        assert httpx.post(url + CHAT, json=chat_body()).status_code == 200
    assert {params.n for _, params in engine.samples} == {4}  # never the 3 of the one who left


def test_no_more_rounds_are_judged_for_a_client_that_left(engine: ScoreEngine) -> None:
    engine.going.clear()
    with listening(app_on(engine)) as (url, _):
        with pytest.raises(httpx.TimeoutException):
            httpx.post(url + CHAT, json=chat_body(), timeout=0.3)
        wait_until(lambda: accepted(url) == 0)
        engine.going.set()
        assert httpx.get(f"{url}/healthz").status_code == 200
    assert len(engine.samples) == 1  # had begun, and cannot be broken off
    assert engine.judgments == []


def test_shutting_down_answers_what_was_accepted(engine: ScoreEngine) -> None:
    engine.going.clear()
    with ThreadPoolExecutor() as pool:
        with listening(app_on(engine)) as (url, server):
            held = [
                pool.submit(httpx.post, url + CHAT, json=chat_body(stream=stream), timeout=20)
                for stream in (False, True, False)
            ]
            wait_until(lambda: accepted(url) == 3)
            server.should_exit = True
            with pytest.raises(httpx.TransportError):  # nothing new is let in
                wait_until(lambda: httpx.get(f"{url}/healthz").status_code != 200)
            threading.Timer(0.2, engine.going.set).start()
        answers = [answer.result() for answer in held]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert all("score 13" in answer.text for answer in answers)


def test_a_huge_body_is_refused_and_others_are_served(engine: ScoreEngine) -> None:
    with listening(app_on(engine, replace(SETTINGS, max_body=2000))) as (url, _):
        for content in (b"x" * 2001, (b"x" * 500 for _ in range(5))):
            refused = httpx.post(url + CHAT, content=content, headers={"Content-Type": "application/json"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (413, "body_too_large")
        with connected(url) as early:  # told by its length, before any of it is sent
            early.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 2001\r\n\r\n".encode())
            assert b" 413 " in early.recv(4096)
        assert httpx.post(url + CHAT, json=chat_body()).status_code == 200


def test_a_slow_client_holds_nobody_up_and_is_sent_away(engine: ScoreEngine) -> None:
    with listening(app_on(engine, replace(SETTINGS, timeout=0.5))) as (url, _), connected(url) as slow:
        slow.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
        assert httpx.post(url + CHAT, json=chat_body()).status_code == 200
        assert b" 408 " in slow.recv(4096)


def test_heads_that_come_in_drops_are_cut_off_and_others_are_served(
    engine: ScoreEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "HEAD_SECONDS", 0.5)
    with listening(app_on(engine)) as (url, _), ExitStack() as stack:
        # The first head, one after an answer on the same connection, and the empty lines that may come before a head.
        slow = [stack.enter_context(connected(url)) for _ in range(5)]
        slow[1].sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: slow[1].recv(4096).endswith(b"ok"))
        for connection in slow[:2]:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: ")
        started = time.monotonic()
        left = dict(zip(slow, (b"x", b"x", b"\r\n", b"\r\n", b""), strict=True))
        while left:
            for connection, drop in list(left.items()):
                if is_closed(connection, drop):
                    del left[connection]
            assert httpx.post(url + CHAT, json=chat_body()).status_code == 200
            assert time.monotonic() - started < 5
            time.sleep(0.05)
        assert time.monotonic() - started > 0.4


def is_closed(connection: socket.socket, drop: bytes) -> bool:
    """Sends a drop, and returns whether the server has closed."""
    try:
        connection.sendall(drop)
        connection.setblocking(False)
        return connection.recv(4096) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.setblocking(True)


def test_a_request_that_takes_its_time_is_not_cut_off(engine: ScoreEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "HEAD_SECONDS", 0.2)
    engine.seconds = 0.3
    with listening(app_on(engine)) as (url, _), httpx.Client() as client:
        for _ in range(2):  # the second on the connection of the first, after a while
            assert client.post(url + CHAT, json=chat_body(), timeout=20).status_code == 200
            time.sleep(0.4)


def test_a_long_text_is_answered_as_a_short_one(engine: ScoreEngine) -> None:
    with TestClient(app_on(engine)) as client:
        padded = chat_body() | {"metadata": {"note": "x" * 20_000}}
        first, second = (client.post(CHAT, json=body).json() for body in (chat_body(), padded))
    assert first["choices"] == second["choices"]
    assert first["usage"] == second["usage"]


def test_keys(engine: ScoreEngine, tmp_path: Path) -> None:
    hashes = [hashlib.sha256(key.encode()).hexdigest() for key in ("first", "second")]
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{hashes[0]}  # Ada\n\n{hashes[1].upper()}\n")
    assert read_key_hashes(file) == set(hashes)
    with TestClient(app_on(engine, replace(SETTINGS, key_hashes=frozenset(hashes)))) as client:
        for header in ({}, {"Authorization": "Bearer third"}, {"Authorization": "Basic first"},
                       {"Authorization": f"Bearer {hashes[0]}"}):  # fmt: skip
            refused = client.post(CHAT, json=chat_body(), headers=header)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
            assert client.get("/v1/models", headers=header).status_code == 401
        for key in ("first", "second"):
            assert client.post(CHAT, json=chat_body(), headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert client.get("/healthz").status_code == 200
    assert len(engine.samples) == 2


@pytest.mark.parametrize(("content", "word"), [("", "no key"), ("hush-hush\n", "line 1"), (None, "cannot be read")])
def test_a_bad_file_of_keys(tmp_path: Path, content: str | None, word: str) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=word) as raised:
        read_key_hashes(file)
    assert "hush-hush" not in str(raised.value)


@pytest.mark.parametrize("asked", [False, True])
def test_the_log_has_text_only_if_asked(engine: ScoreEngine, caplog: pytest.LogCaptureFixture, asked: bool) -> None:
    caplog.set_level(logging.DEBUG)
    with TestClient(app_on(engine, replace(SETTINGS, log_text=asked))) as client:
        request_id = client.post(CHAT, json=chat_body()).headers["x-request-id"]
        client.post(CHAT, json=chat_body(n="a fox"))
        engine.judge_error = RuntimeError("broken")
        client.post(CHAT, json=chat_body())
    assert any(request_id in line and " 200 " in line for line in caplog.messages)
    assert ("a fox" in caplog.text) is asked
    assert ("score 13" in caplog.text) is asked


def test_a_server_spares_the_garbage_collector_what_is_there_to_stay() -> None:
    loaded = len(gc.get_objects())
    gc.unfreeze()  # another test of this process may have started a server
    listen.server(FastAPI())
    try:
        assert gc.get_freeze_count() > loaded / 2
    finally:
        gc.unfreeze()
