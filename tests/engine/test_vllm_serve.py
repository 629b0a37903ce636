"""`selfjudge serve` in front of vLLM's own OpenAI server, each a process of its own, with the small model."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

if not all(map(importlib.util.find_spec, ("vllm", "openai", "fastapi", "prometheus_client", "sqlalchemy"))):
    pytest.skip("vLLM or the server's packages are not installed: `make test-vllm` runs these", allow_module_level=True)

import openai
from vllm_server import free_port, running

from selfjudge.engines.hf import TransformersEngine
from selfjudge.judge import Judge
from selfjudge.records import Comparison
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates

pytestmark = pytest.mark.timeout(600)
MESSAGES = [{"role": "user", "content": "Name two things of the sea for Ada."}]


@pytest.fixture(scope="module")
def vllm(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """The URL of a vLLM server, and the process to kill with its group."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", str(folder), "--served-model-name", "small", "--dtype", "float32", "--enforce-eager"]
    command += ["--gpu-memory-utilization", "0.1"]
    with running(command, port, tmp_path_factory.mktemp("vllm") / "log") as (url, process):
        yield url, process


@contextmanager
def in_front_of(backend: str, folder: Path) -> Iterator[openai.OpenAI]:
    """Runs `selfjudge serve` and gives a client of it."""
    command = [sys.executable, "-m", "selfjudge.cli.main", "serve", "--port", "0", "--model", str(folder)]
    command += ["--template", "world", "--backend", backend, "--n", "4", "--max-new-tokens", "12"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        line = server.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, line
        with openai.OpenAI(base_url=found.group(0), api_key="none", max_retries=0, timeout=120) as client:
            yield client
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


@pytest.fixture(scope="module")
def client(vllm: tuple[str, int], folder: Path) -> Iterator[openai.OpenAI]:
    with in_front_of(vllm[0], folder) as client:
        yield client


@pytest.fixture
def judge(true: TransformersEngine, chat: ChatEncoder) -> Judge:
    return Judge(true, JudgmentEncoder(load_templates("world"), chat))


def test_the_answer_wins_the_tournament_that_transformers_judges(client: openai.OpenAI, judge: Judge) -> None:
    ask = {"model": "small", "messages": MESSAGES, "seed": 3, "extra_body": {"n_candidates": 8, "selfjudge": True}}
    reply = client.chat.completions.create(**ask, n=3)
    found = reply.selfjudge
    assert (found["complete"], len(found["candidates"]), len(found["matches"])) == (True, 8, 7)
    assert len(set(found["candidates"])) > 2
    assert [c.message.content for c in reply.choices] == [found["candidates"][i] for i in found["placing"][:3]]
    for match in found["matches"]:
        a, b = (found["candidates"][match[side]] for side in "ab")
        expected = judge.compare(MESSAGES[0]["content"], a, b)
        assert match["verdict"]["strength"] == pytest.approx(expected.strength, abs=1e-2)
        if match["verdict"]["preferred"] != "tie":
            assert match["winner"] == match["a" if match["verdict"]["preferred"] == "A" else "b"]


def test_usage_counts_the_prompt_every_judgment_and_every_candidate(
    client: openai.OpenAI, judge: Judge, chat: ChatEncoder
) -> None:
    ask = {"model": "small", "messages": MESSAGES, "extra_body": {"selfjudge": True}}
    reply = client.chat.completions.create(**ask, max_tokens=6)
    texts, matches = reply.selfjudge["candidates"], reply.selfjudge["matches"]
    comparisons = [
        Comparison(id="0", prompt=MESSAGES, response_a=texts[m["a"]], response_b=texts[m["b"]]) for m in matches
    ]
    read = [len(q.prompt.token_ids) for q in judge.questions(comparisons)]
    prompt = len(chat.prompt_ids(comparisons[0].prompt))
    assert len(comparisons) == 3
    assert reply.usage.prompt_tokens == prompt + sum(read)
    assert 4 <= reply.usage.completion_tokens <= 4 * 6
    greedy = client.chat.completions.create(**ask, max_tokens=6, temperature=0)
    (choice,) = greedy.choices
    assert greedy.usage.prompt_tokens == prompt
    assert greedy.usage.completion_tokens <= 6
    assert greedy.usage.completion_tokens == 6 or choice.finish_reason == "stop"


def test_candidates_of_a_stream_come_one_by_one_and_are_those_of_an_answer(client: openai.OpenAI) -> None:
    fields = {"n_candidates": 8, "selfjudge": True}
    body = {"model": "small", "messages": MESSAGES, "seed": 3, **fields}
    expected = client.post("/chat/completions", cast_to=object, body=body)["selfjudge"]
    request = urllib.request.Request(
        f"{client.base_url}chat/completions", json.dumps(body | {"stream": True}).encode(),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request) as answer:
        lines = [line.decode().strip() for line in answer]
    comments = [json.loads(line.removeprefix(": ")) for line in lines if line.startswith(": ")]
    arrived = [event["candidate"] for event in comments if "candidate" in event]
    assert sorted(arrived) == list(range(8))
    assert arrived != sorted(arrived)  # short ones first
    assert [next(iter(set(event) - {"prompt"})) for event in comments[8:10]] == ["drawn", "pairings"]
    assert {event["candidate"]: event["text"] for event in comments[:8]} == dict(enumerate(expected["candidates"]))
    matches = [match for event in comments for match in event.get("matches", ())]
    assert [len(event["matches"]) for event in comments if "matches" in event] == [1] * 7
    assert sorted((m["a"], m["b"], m["winner"]) for m in matches) == sorted(
        (m["a"], m["b"], m["winner"]) for m in expected["matches"]
    )
    assert lines[-2] == "data: [DONE]"


def test_verdicts_equal_those_of_transformers(
    client: openai.OpenAI, judge: Judge, comparisons: list[Comparison]
) -> None:
    body = {"pairs": [c.model_dump(exclude={"label"}) for c in comparisons]}
    found = client.post("/judge", cast_to=object, body=body)["verdicts"]
    expected = judge.judge(comparisons)
    assert len({v.preferred for v in expected}) > 1
    assert [v["id"] for v in found] == [c.id for c in comparisons]
    assert [v["preferred"] for v in found] == [v.preferred for v in expected]
    assert [v["strength"] for v in found] == pytest.approx([v.strength for v in expected], abs=1e-2)
    for verdict, other in zip(found, expected, strict=True):
        for order in ("AB", "BA"):
            assert verdict["p"][order] == pytest.approx(getattr(other.p, order).model_dump(), abs=1e-2)


def test_when_vllm_is_killed_every_request_gets_a_whole_answer_or_an_error(
    vllm: tuple[str, int], client: openai.OpenAI
) -> None:
    """The last test of this file: the server does not come back."""

    def ask(seed: int) -> openai.OpenAIError | object:
        try:
            body = {"n_candidates": 16, "selfjudge": True}
            return client.chat.completions.create(model="small", messages=MESSAGES, seed=seed, extra_body=body)
        except openai.APIError as e:
            return e

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, seed) for seed in range(40)]
        answers[2].result()  # it is under load
        os.killpg(vllm[1], signal.SIGKILL)
        found = [answer.result() for answer in answers]
    good = [reply for reply in found if not isinstance(reply, Exception)]
    bad = [reply for reply in found if isinstance(reply, Exception)]
    assert good
    assert bad
    assert all(reply.selfjudge["complete"] for reply in good)
    for error in bad:
        assert isinstance(error, openai.APIStatusError)
        assert error.status_code == 503
        assert set(error.response.json()["error"]) == {"message", "type", "param", "code"}
        assert error.code in ("engine_failed", "judging_failed")
    root = str(client.base_url).removesuffix("/v1/")
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"{root}/readyz")
    assert urllib.request.urlopen(f"{root}/healthz").read() == b"ok"
