"""The server of a policy that thinks: answers are what follows the thought, and the thought is told beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from score_server import MODEL, ScoreEngine, ThinkingEngine, app_on, chat_body, judge_on, scores
from served_model import NAME, ServedModel
from thinking_model import thinking_model, thinking_tokenizer

from selfjudge.engines.openai_server import OpenAIEngine
from selfjudge.serving.app import create_app
from selfjudge.serving.backend import NamedBackend
from selfjudge.serving.in_process import InProcessBackend
from selfjudge.serving.rival import EngineBeside, JudgedBy
from selfjudge.serving.settings import ServeSettings
from selfjudge.serving.upstream import UpstreamBackend
from selfjudge.serving.votes import VoteStore
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
def client(world_chat: ChatEncoder) -> Iterator[TestClient]:
    """Thoughts of scores below 6 never end; of four candidates (3, 8, 13, 1) two have answers."""
    with TestClient(app_on(ThinkingEngine(world_chat, least=6))) as client:
        yield client


def events(client: TestClient, path: str = CHAT, **fields: Any) -> tuple[list[Any], list[Any]]:
    """The comments and the chunks of a stream."""
    body = (
        chat_body(stream=True, **fields) if path == CHAT else {"model": MODEL, "prompt": "q", "stream": True, **fields}
    )
    lines = [line for line in client.post(path, json=body).text.splitlines() if line]
    assert lines.pop() == "data: [DONE]"
    told = [json.loads(line.partition(": ")[2]) for line in lines]
    return [t for t, line in zip(told, lines, strict=True) if line[0] == ":"], [
        t for t, line in zip(told, lines, strict=True) if line[0] != ":"
    ]


def test_the_answer_is_what_follows_the_winners_thought(client: TestClient, world_chat: ChatEncoder) -> None:
    reply = client.post(CHAT, json=chat_body(selfjudge=True)).json()
    assert reply["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "score 13", "reasoning_content": "score 13?"},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ]
    assert reply["selfjudge"]["candidates"] == ["", "score 8", "score 13", ""]
    spent = sum(len(world_chat.text_ids(f"score {s}?score {s}")) for s in scores(4))
    assert reply["usage"]["completion_tokens"] == spent  # thoughts and what never became an answer included


def test_a_thought_that_never_ends_takes_no_part(client: TestClient) -> None:
    reply = client.post(CHAT, json=chat_body(selfjudge=True, n=4)).json()
    found = reply["selfjudge"]
    assert found["placing"] == [2, 1, 0, 3]
    assert set(found["order"]) == {1, 2}
    assert [{match["a"], match["b"]} for match in found["matches"]] == [{1, 2}]
    assert [choice["finish_reason"] for choice in reply["choices"]] == ["stop", "stop", "length", "length"]
    assert [choice["message"]["content"] for choice in reply["choices"]] == ["score 13", "score 8", "", ""]
    assert reply["choices"][2]["message"]["reasoning_content"] == "score 3?"


def test_without_any_answer_the_reply_is_a_truncated_thought(world_chat: ChatEncoder) -> None:
    with TestClient(app_on(engine := ThinkingEngine(world_chat, least=99))) as client:
        (choice,) = client.post(CHAT, json=chat_body()).json()["choices"]
        assert choice["message"] == {"role": "assistant", "content": "", "reasoning_content": "score 3?"}
        assert choice["finish_reason"] == "length"
        assert engine.judgments == []


def test_a_stream_tells_the_thought_before_the_answer(client: TestClient) -> None:
    comments, chunks = events(client, selfjudge=True, n=2)
    assert [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "score 13?"},
        {"content": "score 13"},
        {},
        {"role": "assistant", "content": ""},
        {"reasoning_content": "score 8?"},
        {"content": "score 8"},
        {},
    ]
    (drawn,) = (comment for comment in comments if "drawn" in comment)
    assert drawn == {"prompt": 0, "drawn": ["", "score 8", "score 13", ""], "left_out": [0, 3]}
    (drawn,) = (comment for comment in events(client)[0] if "drawn" in comment)
    assert drawn == {"prompt": 0, "drawn": 4, "left_out": 2}


def test_a_completion_tells_the_thought_beside_its_text(client: TestClient) -> None:
    (choice,) = client.post(TEXT, json={"model": MODEL, "prompt": "q", "n_candidates": 4}).json()["choices"]
    assert (choice["text"], choice["reasoning_content"]) == ("score 13", "score 13?")
    _, (chunk,) = events(client, TEXT)
    assert chunk["choices"] == [choice]


def test_nothing_is_new_where_nobody_thought(world_chat: ChatEncoder) -> None:
    with TestClient(app_on(ScoreEngine(world_chat))) as client:
        (choice,) = client.post(CHAT, json=chat_body()).json()["choices"]
        assert choice["message"] == {"role": "assistant", "content": "score 13"}
        (choice,) = client.post(TEXT, json={"model": MODEL, "prompt": "q"}).json()["choices"]
        assert set(choice) == {"index", "text", "finish_reason", "logprobs"}
        for path, shape in ((CHAT, {}), (TEXT, {"index", "text", "finish_reason", "logprobs"})):
            comments, chunks = events(client, path)
            assert "reasoning_content" not in json.dumps(chunks)
            assert "left_out" not in json.dumps(comments)
            assert path == CHAT or set(chunks[0]["choices"][0]) == shape


def test_a_stop_text_is_looked_for_in_the_answer_alone(client: TestClient) -> None:
    (choice,) = client.post(CHAT, json=chat_body(stop=["?", "3"])).json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": "score 8", "reasoning_content": "score 8?"}


def test_a_client_may_send_back_the_message_it_got(client: TestClient, world_chat: ChatEncoder) -> None:
    message = client.post(CHAT, json=chat_body()).json()["choices"][0]["message"]
    engine_saw = []
    for earlier in (message, {key: message[key] for key in ("role", "content")}):
        turns = [{"role": "user", "content": "q"}, earlier, {"role": "user", "content": "and?"}]
        reply = client.post(CHAT, json={"model": MODEL, "messages": turns, "temperature": 0})
        assert reply.status_code == 200, reply.text
        engine_saw.append(reply.json()["usage"])
    assert engine_saw[0] == engine_saw[1]  # an earlier thought is no part of the prompt


@pytest.mark.parametrize("in_front", [False, True])
def test_a_real_model_behind_the_server(in_front: bool) -> None:
    chat = ChatEncoder(thinking_tokenizer(), thinking="on")
    with ServedModel(thinking_model(chat.tokenizer), chat).running() as served:
        if in_front:
            engines = [OpenAIEngine(served.url, chat, model=NAME)]
            backend: Any = UpstreamBackend(engines, JudgmentEncoder(load_templates("world"), chat))
        else:
            backend = InProcessBackend(served.engine, judge_on(served.engine, chat), chat)
        with TestClient(create_app(backend, MODEL, ServeSettings(n=12, max_new_tokens=12))) as client:
            reply = client.post(CHAT, json=chat_body(seed=1, n=12, selfjudge=True)).json()
    messages = [choice["message"] for choice in reply["choices"]]
    assert any(message.get("reasoning_content") for message in messages)
    assert all("</think>" not in message.get("reasoning_content", "") for message in messages)
    answered = len(reply["selfjudge"]["order"])
    assert 1 < answered < 12
    assert len(reply["selfjudge"]["matches"]) == answered - 1
    assert [choice["finish_reason"] for choice in reply["choices"][answered:]] == ["length"] * (12 - answered)
    assert {message["content"] for message in messages[answered:]} == {""}
    assert messages[0]["content"]


def test_the_arena_shows_and_keeps_what_follows_the_thought(world_chat: ChatEncoder, tmp_path: Path) -> None:
    here = InProcessBackend(thinking := ThinkingEngine(world_chat, least=0), judge_on(thinking, world_chat), world_chat)
    silent = ThinkingEngine(world_chat, least=99)
    rival = NamedBackend("silent", JudgedBy(EngineBeside(here, silent, world_chat), here))
    votes = VoteStore(str(tmp_path / "votes.db"))
    with TestClient(create_app(here, "talks", ServeSettings(max_new_tokens=8), rival=rival, votes=votes)) as client:
        pair = client.post("/v1/arena/pairs", json={"prompt": "Name a fox."}).json()
        assert {pair["response_a"], pair["response_b"]} == {"score 3", ""}
        side = "A" if pair["response_a"] else "B"
        assert client.post("/v1/arena/votes", json={"pair": pair["id"], "vote": side}).status_code == 200
        (kept,) = map(json.loads, client.get("/v1/arena/votes.jsonl").text.splitlines())
    assert (kept["chosen"][0]["content"], kept["rejected"][0]["content"]) == ("score 3", "")
