"""The server's API: OpenAI's shapes, and answers that are the winners of tournaments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from fastapi.testclient import TestClient
from score_server import DOWN, MODEL, ScoreEngine, app_on, chat_body, judge_on, judgments, listening, scores

from selfjudge.records import Message
from selfjudge.serving.settings import ServeSettings
from selfjudge.templates.chat import ChatEncoder
from selfjudge.tournament import play

CHAT = "/v1/chat/completions"
PROMPT = (Message(role="user", content="Name a fox."),)


@pytest.fixture
def engine(world_chat: ChatEncoder) -> ScoreEngine:
    return ScoreEngine(world_chat)


@pytest.fixture
def client(engine: ScoreEngine) -> Iterator[TestClient]:
    with TestClient(app_on(engine)) as client:
        yield client


def text(reply: dict[str, Any], index: int = 0) -> str:
    return str(reply["choices"][index]["message"]["content"])


def error(response: Any, status: int) -> dict[str, Any]:
    """The error of a response, which must have OpenAI's shape and nothing else."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    found = response.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    assert found["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    return dict(found)


def test_the_answer_is_the_winner_of_the_tournament_that_play_plays(client: TestClient, engine: ScoreEngine) -> None:
    reply = client.post(CHAT, json=chat_body(n_candidates=7, selfjudge=True)).json()
    found = reply["selfjudge"]
    assert found["candidates"] == [f"score {s}" for s in scores(7)]
    (bracket,) = play(judge_on(engine, engine.chat), [PROMPT], [found["candidates"]], found["seed"])
    assert text(reply) == found["candidates"][bracket.winner] == f"score {max(scores(7))}"
    assert found["matches"] == [match.model_dump(mode="json") for match in bracket.matches]
    assert (found["order"], found["byes"]) == (list(bracket.order), [list(bye) for bye in bracket.byes])
    assert (found["complete"], found["failure"], found["placing"][0]) == (True, None, bracket.winner)


def test_the_bracket_is_told_on_request_only(client: TestClient) -> None:
    assert set(client.post(CHAT, json=chat_body()).json()) == {"id", "object", "created", "model", "choices", "usage"}


def test_n_returns_the_best_in_the_order_of_their_placing(client: TestClient) -> None:
    reply = client.post(CHAT, json=chat_body(n=3, n_candidates=8, selfjudge=True)).json()
    found = reply["selfjudge"]
    assert [c["index"] for c in reply["choices"]] == [0, 1, 2]
    assert [text(reply, i) for i in range(3)] == [found["candidates"][place] for place in found["placing"][:3]]
    assert text(reply) == f"score {max(scores(8))}"
    assert len(client.post(CHAT, json=chat_body(n=6)).json()["choices"]) == 6  # more than the default of 4 candidates


@pytest.mark.parametrize(("fields", "drawn"), [({"n_candidates": 1}, 1), ({"temperature": 0}, 1)])
def test_one_candidate_or_greedy_is_an_ordinary_server(
    client: TestClient, engine: ScoreEngine, fields: dict[str, Any], drawn: int
) -> None:
    reply = client.post(CHAT, json=chat_body(**fields)).json()
    assert text(reply) == f"score {scores(1)[0]}"
    assert [params.n for _, params in engine.samples] == [drawn]
    assert engine.judgments == []
    prompt = len(engine.chat.prompt_ids(PROMPT))
    answer = len(engine.chat.text_ids(text(reply)))
    assert reply["usage"] == {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def test_usage_counts_all_candidates_and_all_judgments(client: TestClient, engine: ScoreEngine) -> None:
    reply = client.post(CHAT, json=chat_body(n_candidates=4, selfjudge=True)).json()
    found = reply["selfjudge"]
    drawn = [engine.chat.text_ids(candidate) for candidate in found["candidates"]]
    judge = judge_on(engine, engine.chat)
    read = len(engine.chat.prompt_ids(PROMPT))
    for match in found["matches"]:
        for first, second in ((match["a"], match["b"]), (match["b"], match["a"])):
            encoder = judge.encoder.principles["overall"]
            read += len(encoder.prompt(PROMPT, found["candidates"][first], found["candidates"][second]).token_ids)
    assert len(found["matches"]) == 3
    assert reply["usage"]["prompt_tokens"] == read
    assert reply["usage"]["completion_tokens"] == sum(map(len, drawn))


def test_parameters_reach_the_engine(client: TestClient, engine: ScoreEngine) -> None:
    body = chat_body(temperature=0.5, top_p=0.8, seed=7, max_completion_tokens=5, max_tokens=6)
    for _ in range(2):
        assert client.post(CHAT, json=body).status_code == 200
    first, second = (params for _, params in engine.samples)
    assert first == second
    assert (first.n, first.temperature, first.top_p, first.seed, first.max_new_tokens) == (4, 0.5, 0.8, 7, 5)
    client.post(CHAT, json=chat_body())
    last = engine.samples[-1][1]
    assert (last.temperature, last.top_p, last.max_new_tokens) == (1.0, 1.0, 8)


def test_a_stop_text_ends_the_candidates_before_they_are_judged(client: TestClient) -> None:
    reply = client.post(CHAT, json=chat_body(stop=["3", "nothing"], selfjudge=True, n=4)).json()
    assert reply["selfjudge"]["candidates"] == ["score ", "score 8", "score 1", "score 1"]
    assert text(reply) == "score 8"
    assert "score " in [text(reply, i) for i in range(4)]


def test_completions_take_texts_and_token_ids(client: TestClient, engine: ScoreEngine) -> None:
    ids = engine.chat.text_ids("Name a fox.")
    for prompt, answers in (("Name a fox.", 2), (ids, 2), (["Name a fox.", "Name an owl."], 4), ([ids, ids, ids], 6)):
        reply = client.post("/v1/completions", json={"model": MODEL, "prompt": prompt, "n": 2, "selfjudge": True})
        assert reply.status_code == 200, reply.text
        choices = reply.json()["choices"]
        assert [choice["index"] for choice in choices] == list(range(answers))
        assert [choice["text"] for choice in choices[::2]] == ["score 13"] * (answers // 2)
        assert len(reply.json()["selfjudge"]) == answers // 2
    assert {params.max_new_tokens for _, params in engine.samples} == {16}


def test_verdicts_have_the_fields_of_the_judge_command(client: TestClient) -> None:
    pairs = [
        {"prompt": "Name a fox.", "response_a": "score 4", "response_b": "score 2", "id": "mine"},
        {"prompt": [{"role": "user", "content": "Name a fox."}], "response_a": "score 1", "response_b": "score 9"},
        {"prompt": "Name a fox.", "response_a": "score 1", "response_b": "score 1"},
    ]
    verdicts = client.post("/v1/judge", json={"pairs": pairs}).json()["verdicts"]
    assert [(v["id"], v["preferred"]) for v in verdicts] == [("mine", "A"), ("1", "B"), ("2", "tie")]
    assert set(verdicts[0]) == {"id", "preferred", "strength", "agree", "label_mass", "p"}
    assert verdicts[1]["p"] == {"AB": {"A": 0.1, "B": 0.9}, "BA": {"A": 0.9, "B": 0.1}}
    assert (
        error(client.post("/v1/judge", json={"pairs": [pairs[0] | {"prompt": " "}]}), 400)["param"] == "pairs.0.prompt"
    )
    assert error(client.post("/v1/judge", json={"pairs": []}), 400)["param"] == "pairs"
    long = {"prompt": "fox " * 400, "response_a": "a", "response_b": "b"}
    assert error(client.post("/v1/judge", json={"pairs": [long]}), 400)["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("fields", "status", "param", "word"),
    [
        ({"model": "other"}, 404, "model", "other"),
        ({"tools": [{"type": "function"}]}, 400, "tools", "support"),
        ({"logprobs": True}, 400, "logprobs", "support"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format", "support"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty", "support"),
        ({"nonsense": 1}, 400, "nonsense", "Unrecognized"),
        ({"n": 0}, 400, "n", "greater"),
        ({"n": "2"}, 400, "n", "integer"),
        ({"n": 5, "n_candidates": 4}, 400, "n", "n_candidates"),
        ({"n_candidates": 65}, 400, "n_candidates", "64"),
        ({"temperature": 2.5}, 400, "temperature", "2"),
        ({"messages": []}, 400, "messages", "at least 1"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "messages", "user"),
        ({"messages": [{"role": "user", "content": "fox " * 400}]}, 400, None, "shorten"),
        ({"max_tokens": 200}, 400, None, "max_tokens"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    client: TestClient, engine: ScoreEngine, fields: dict[str, Any], status: int, param: str | None, word: str
) -> None:
    found = error(client.post(CHAT, json=chat_body(**fields)), status)
    assert found["param"] == param
    assert word in found["message"]
    assert engine.samples == []


def test_what_changes_nothing_is_accepted(client: TestClient) -> None:
    harmless = {"user": "me", "tools": [], "logprobs": False, "frequency_penalty": 0.0, "n": None, "tool_choice": None,
                "response_format": {"type": "text"}, "stream": False, "metadata": {"a": "b"}}  # fmt: skip
    assert client.post(CHAT, json=chat_body(**harmless)).status_code == 200


def test_malformed_json_unknown_paths_and_methods(client: TestClient) -> None:
    found = client.post(CHAT, content=b'{"model": ', headers={"Content-Type": "application/json"})
    assert error(found, 400)["code"] == "invalid_json"
    assert error(client.post(CHAT, content=b"[1]", headers={"Content-Type": "application/json"}), 400)
    for half in ('"model": "\\ud800"', '"\\ud800": 1', '"messages": [{"role": "user", "content": "\\ud800"}]'):
        body = json.dumps(chat_body())[:-1] + f", {half}}}"
        assert error(client.post(CHAT, content=body, headers={"Content-Type": "application/json"}), 400)
    assert error(client.get("/v1/nothing"), 404)["code"] == "not_found"
    assert error(client.get(CHAT), 405)
    assert client.get(CHAT).headers["Allow"] == "POST"


def test_judgments_are_counted_and_those_that_the_first_shown_won(client: TestClient) -> None:
    before = judgments(client)
    pairs = [
        {"prompt": "Name a fox.", "response_a": "score 4", "response_b": "score 2"},
        {"prompt": "Name a fox.", "response_a": "score 1", "response_b": "score 1"},
    ]
    client.post("/v1/judge", json={"pairs": pairs})
    # Two orders of two pairs: one goes to the first shown and one to the second, and two are ties.
    assert judgments(client) == (before[0] + 4, before[1] + 1 + 2 * 0.5)
    client.post(CHAT, json=chat_body(n_candidates=4))
    # Three matches between different scores, in two orders.
    assert judgments(client) == (before[0] + 10, before[1] + 2 + 3)


def test_a_judge_that_always_takes_the_first_shown_shows_in_the_metrics(
    client: TestClient, engine: ScoreEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "label_probabilities", lambda prompts, _: np.array([[0.9, 0.1]] * len(prompts)))
    before = judgments(client)
    client.post(CHAT, json=chat_body(n_candidates=8))
    assert judgments(client) == (before[0] + 14, before[1] + 14)


def test_models_health_and_metrics(client: TestClient) -> None:
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == (MODEL, "model", 256)
    assert client.get("/healthz").text == client.get("/readyz").text == "ok"
    client.post(CHAT, json=chat_body())
    metrics = client.get("/metrics").text
    assert f'selfjudge_requests_total{{path="{CHAT}",status="200"}}' in metrics
    assert "selfjudge_accepted_requests 0.0" in metrics
    assert client.get("/docs").status_code == 200


def test_a_failure_in_judging_is_an_error_and_no_answer(client: TestClient, engine: ScoreEngine) -> None:
    engine.judge_error, engine.judge_error_from = DOWN, 1
    assert error(client.post(CHAT, json=chat_body()), 503)["code"] == "judging_failed"
    engine.judge_error = None
    assert client.post(CHAT, json=chat_body()).status_code == 200


def test_the_best_so_far_is_marked(engine: ScoreEngine) -> None:
    engine.judge_error, engine.judge_error_from = RuntimeError("broken"), 1
    settings = ServeSettings(n=4, max_new_tokens=8, on_judge_failure="best-so-far")
    with TestClient(app_on(engine, settings)) as client:
        reply = client.post(CHAT, json=chat_body())
    found = reply.json()["selfjudge"]
    assert (found["complete"], "failed" in found["failure"]) == (False, True)
    assert {match["round"] for match in found["matches"]} == {0}
    winners = {match["winner"] for match in found["matches"]}
    assert found["placing"][0] in winners
    assert text(reply.json()) == found["candidates"][found["placing"][0]]


@pytest.mark.parametrize(("raised", "status"), [(DOWN, 503), (RuntimeError("secret detail"), 500)])
def test_a_failure_in_drawing(client: TestClient, engine: ScoreEngine, raised: Exception, status: int) -> None:
    engine.sample_error = raised
    found = error(client.post(CHAT, json=chat_body()), status)
    assert "secret" not in found["message"]
    assert "http://x" not in found["message"]


def events(response: Any) -> tuple[list[dict[str, Any]], list[Any]]:
    """The comments and the data of an event stream."""
    lines = response.text.split("\n\n")
    comments = [json.loads(line.removeprefix(": ")) for line in lines if line.startswith(": ")]
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return comments, [d if d == "[DONE]" else json.loads(d) for d in data]


def test_a_stream_tells_progress_and_then_the_winner(client: TestClient) -> None:
    body = chat_body(stream=True, n_candidates=4)
    response = client.post(CHAT, json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    comments, data = events(response)
    drawn = [("candidate", place) for place in (3, 2, 1, 0)]  # in the order in which they end
    told = [*drawn, ("drawn", 4), ("pairings", 2), ("matches", 1), ("matches", 1), ("pairings", 1), ("matches", 1)]
    assert comments == [{"prompt": 0, what: many} for what, many in told]
    assert data[-1] == "[DONE]"
    assert "".join(d["choices"][0]["delta"].get("content", "") for d in data[:-1]) == "score 13"
    comments, data = events(
        client.post(CHAT, json=body | {"selfjudge": True, "stream_options": {"include_usage": True}})
    )
    texts = ["score 3", "score 8", "score 13", "score 1"]
    assert comments[:4] == [{"prompt": 0, "candidate": i, "text": texts[i]} for i in (3, 2, 1, 0)]
    assert comments[4]["drawn"] == texts
    matches = [match for comment in comments for match in comment.get("matches", ())]
    assert [match["winner"] for match in matches][2:] == [2]
    assert comments[5]["pairings"] == [[match["a"], match["b"]] for match in matches[:2]]
    assert comments[8]["pairings"] == [[match["a"], match["b"]] for match in matches[2:]]
    assert data[-3]["selfjudge"]["matches"] == matches
    assert data[-3]["selfjudge"]["placing"][0] == 2
    assert data[-2]["usage"]["total_tokens"] > 0


def test_an_error_in_a_stream_is_told_in_the_stream(client: TestClient, engine: ScoreEngine) -> None:
    engine.judge_error = DOWN
    comments, data = events(client.post(CHAT, json=chat_body(stream=True)))
    assert comments[-2:] == [{"prompt": 0, "drawn": 4}, {"prompt": 0, "pairings": 2}]
    assert [d["error"]["code"] for d in data] == ["judging_failed"]
    assert error(client.post(CHAT, json=chat_body(stream=True, model="other")), 404)


def test_the_openai_client_works_unchanged(engine: ScoreEngine) -> None:
    with listening(app_on(engine)) as (url, _), openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        assert [model.id for model in client.models.list()] == [MODEL]
        messages: Any = [{"role": "user", "content": "Name a fox."}]
        reply = client.chat.completions.create(model=MODEL, messages=messages, n=2, extra_body={"n_candidates": 5})
        assert reply.choices[0].message.content == f"score {max(scores(5))}"
        assert reply.usage is not None
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
        chunks = list(client.chat.completions.create(model=MODEL, messages=messages, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "score 13"
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert client.completions.create(model=MODEL, prompt="Name a fox.").choices[0].text == "score 13"
        with pytest.raises(openai.NotFoundError, match="not served"):
            client.chat.completions.create(model="other", messages=messages)
        engine.judge_error = DOWN
        with pytest.raises(openai.APIError, match="Judging failed"):
            list(client.chat.completions.create(model=MODEL, messages=messages, stream=True))
