"""`selfjudge serve`, the installed command in a process of its own, with a real tiny model."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx2 as httpx
import openai
import pytest
from serve_process import serving
from served_model import ServedModel

from selfjudge.client import AsyncClient
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import load_model
from selfjudge.judge import Judge, as_messages
from selfjudge.records import Comparison
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.world.model import build_model


def test_the_openai_client_against_a_model_in_process(runs):
    adapter = ("--adapter", runs / "train")
    with serving("--model", runs / "jsft", *adapter) as (url, _), openai.OpenAI(base_url=url, api_key="none") as client:
        model, base = client.models.list()
        assert (model.id, base.id) == (str(runs / "jsft"), f"{runs / 'jsft'} without the adapter")
        assert model.judge == base.judge == base.id
        messages = [{"role": "user", "content": "Name two things of the sea for Ada."}]
        ask = {"model": model.id, "messages": messages, "extra_body": {"selfjudge": True}}
        reply, again = (client.chat.completions.create(**ask, seed=5) for _ in range(2))
        found = reply.selfjudge
        assert (len(found["candidates"]), len(found["matches"]), found["complete"]) == (3, 2, True)
        assert reply.choices[0].message.content == found["candidates"][found["placing"][0]]
        assert found["candidates"] == again.selfjudge["candidates"]  # a seed draws the same again
        greedy = client.chat.completions.create(**ask, temperature=0)
        assert (len(greedy.selfjudge["candidates"]), greedy.selfjudge["matches"]) == (1, [])
        other = client.chat.completions.create(**ask | {"model": base.id}, temperature=0)
        loaded = load_model(runs / "jsft", device="cpu")
        ids = loaded.chat.prompt_ids(as_messages(messages[0]["content"]))
        params = SamplingParams(temperature=0, max_new_tokens=6)
        ((expected,),) = TransformersEngine(loaded.model, loaded.chat).sample([ids], params)
        assert (other.model, other.choices[0].message.content) == (base.id, expected.text)


def test_a_server_in_front_of_servers(world_chat, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae\n")  # of "foo"
    model = build_model(world_chat.tokenizer, seed=0).eval()
    with ServedModel(model, world_chat).running() as one, ServedModel(model, world_chat).running() as other:
        backends = ("--backend", one.url, "--backend", other.url)
        with serving("--model", "builtin:world", *backends, "--api-keys", keys, "--rival", "second") as (url, _):
            body = {"model": "tiny", "messages": [{"role": "user", "content": "Name a fox."}]}
            assert httpx.post(f"{url}/chat/completions", json=body).status_code == 401
            for name in ("tiny", "second"):
                body["model"] = name
                answer = httpx.post(f"{url}/chat/completions", json=body, headers={"Authorization": "Bearer foo"})
                assert answer.status_code == 200, answer.text
    requests = one.requests + other.requests
    assert [request["model"] for request in requests if request["max_tokens"] > 1] == ["tiny", "second"]
    assert {request["model"] for request in requests if request["max_tokens"] == 1} == {"tiny"}  # judges both


def test_our_client_against_a_model_in_process(runs):
    pairs = [
        Comparison(id=str(i), prompt=as_messages("Name a fox."), response_a=a, response_b=b)
        for i, (a, b) in enumerate([("fox", "owl"), ("owl oak", "fox"), ("fox", "fox")])
    ]

    async def ask(url):
        async with AsyncClient(url) as client:
            other = await client.complete("Name a fox.", model="builtin:world")
            return await client.complete("Name a fox.", seed=5), await client.judge(pairs), other

    with serving("--model", runs / "jsft", "--rival", "builtin:world") as (url, _):
        reply, verdicts, other = asyncio.run(ask(url))
    assert (reply.model, other.model) == (str(runs / "jsft"), "builtin:world")
    assert (len(other.selfjudge.candidates), len(other.selfjudge.matches)) == (3, 2)
    loaded = load_model(runs / "jsft", device="cpu")
    encoder = JudgmentEncoder(load_templates(loaded.templates), loaded.chat)
    expected = Judge(TransformersEngine(loaded.model, loaded.chat), encoder).judge(pairs)
    assert [v.strength for v in verdicts] == pytest.approx([v.strength for v in expected], abs=1e-5)
    assert [v.id for v in verdicts] == ["0", "1", "2"]
    found = reply.selfjudge
    assert (len(found.candidates), len(found.matches), found.complete) == (3, 2, True)
    assert reply.choices[0].message.content == found.candidates[found.placing[0]]


def test_ten_thousand_open_connections_and_others_are_served():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections = min(10_000, hard - 200)  # as many are open in the server; it has other files too
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with serving("--model", "builtin:world") as (url, process), ExitStack() as stack:
            address = ("127.0.0.1", int(url.split(":")[2].split("/")[0]))
            idle = [stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(connections)]
            body = {"model": "builtin:world", "messages": [{"role": "user", "content": "Name a fox."}], "n": 2}
            answer = httpx.post(f"{url}/chat/completions", json=body, timeout=60)
            assert answer.status_code == 200, answer.text
            assert len(os.listdir(f"/proc/{process.pid}/fd")) > connections
            for connection in idle[-1000::100]:  # those that were idle are served as well
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                with connection.makefile("rb") as reader:
                    assert reader.readline().split()[1] == b"200"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_runs_without_a_model_and_beside_one(runs):
    for options, models in ((), 0), (("--model", "builtin:world"), 1):
        with serving("--runs", runs, *options) as (url, _):
            assert len(httpx.get(f"{url}/models").json()["data"]) == models
            assert {run["name"] for run in httpx.get(f"{url}/runs").json()["runs"]} == {"jsft", "train"}
            told = httpx.get(f"{url}/run", params={"name": "train"}).json()
            assert (told["run"]["status"], told["run"]["step"]) == ("finished", 4)
            assert len(told["pairs"]) == told["verdicts"]["pairs"] == 8


def test_without_a_model_runs_alone_can_be_served(run, tmp_path):
    for options, word in (
        ((), "--model"),
        (("--runs", tmp_path, "--adapter", "x"), "--model"),
        (("--runs", tmp_path, "--arena", "votes.db"), "--model"),
        (("--runs", tmp_path, "--backend", "http://localhost:1/v1"), "--model"),
        (("--runs", tmp_path / "nothing"), "--runs"),
    ):
        result = run("serve", *options)
        assert result.code == 2, result.out
        assert word in result.err


def test_bad_options_end_in_a_sentence(run, tmp_path):
    for options, word in (
        (("--on-judge-failure", "guess"), "--on-judge-failure"),
        (("--n", "100"), "--n"),
        (("--backend", "http://localhost:1/v1", "--adapter", "x"), "--adapter"),
        (("--api-keys", tmp_path / "nothing"), "cannot be read"),
        (("--backend", "http://127.0.0.1:1/v1"), "cannot be reached"),
        (("--served-model", "x"), "--served-model"),
        (("--arena", tmp_path / "votes.db"), "--adapter"),
        (("--arena", tmp_path / "votes.db", "--backend", "http://localhost:1/v1"), "--rival"),
        (("--rival", "builtin:world"), "name another"),
        (("--rival", "x", "--engine", "vllm"), "--backend"),
        (("--rival", tmp_path / "nothing"), "nothing"),
    ):
        result = run("serve", "--model", "builtin:world", *options)
        assert result.code == 2, result.out
        assert word in result.err
        assert "Traceback" not in result.err


def test_a_port_that_is_taken_ends_in_a_sentence(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "--model", "builtin:world", "--port", port)
    assert result.code == 2
    assert result.err.startswith(f"Error: 127.0.0.1:{port} cannot be listened on")


def test_without_the_optional_packages_the_sentence_names_them(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    for name in [name for name in sys.modules if name.startswith("selfjudge.serving")]:
        monkeypatch.delitem(sys.modules, name)
    result = run("serve", "--model", "builtin:world")
    assert result.code == 2
    assert "pip install 'selfjudge[serve]'" in result.err


def test_the_curl_examples_of_the_readme(tmp_path):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    server, calls = re.findall(r"```bash\n(.*?)```", readme.split("## As a server")[1].split("\n## ")[0], re.DOTALL)
    name = server.split("--model ")[1].split()[0]
    with serving("--model", "builtin:world") as (url, _):
        script = calls.replace("http://localhost:8000/v1", url).replace(name, "builtin:world")
        done = subprocess.run(["bash", "-e"], input=script.replace("curl ", "curl -sS --fail-with-body "), text=True,
                              capture_output=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    answer, verdicts = re.fullmatch(r"(\{.*\})(\{\"verdicts.*\})", done.stdout).groups()
    assert len(json.loads(answer)["selfjudge"]["candidates"]) == 4
    assert [v["id"] for v in json.loads(verdicts)["verdicts"]] == ["0"]


@pytest.mark.slow
def test_the_load_test_runs():
    script = Path(__file__).parents[2] / "benchmarks" / "serve_load.py"
    options = ("--requests", "70", "--seconds", "2", "--engines", "instant", "world", "--candidates", "3")
    done = subprocess.run([sys.executable, script, *options], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [(line[0], int(line[2])) for line in lines] == [(e, c) for e in ("instant", "world") for c in (1, 8, 64)]
    assert all(float(line[4]) > 0 for line in lines)
