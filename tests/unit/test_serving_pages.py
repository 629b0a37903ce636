"""Pages of the server: what they may load, and that they load it from nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from score_server import MODEL, ScoreEngine, app_on, chat_body

from selfjudge.serving.pages import FILES
from selfjudge.templates.chat import ChatEncoder

STATIC = sorted(f"/static/{file.name}" for file in FILES.iterdir())
PAGES = ("/", "/docs", *STATIC)
OTHERS = ("/openapi.json", "/v1/models", "/healthz", "/readyz", "/metrics", "/nothing", "/redoc", "/static/nothing")
NAMESPACE = "http://www.w3.org/2000/svg"  # a name that is not loaded


@pytest.fixture
def client(world_chat: ChatEncoder) -> Iterator[TestClient]:
    with TestClient(app_on(ScoreEngine(world_chat))) as client:
        yield client


@pytest.mark.parametrize("path", PAGES)
def test_pages_are_served_with_a_strict_policy(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    policy = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", [*PAGES, *OTHERS])
def test_no_answer_refers_to_another_host(client: TestClient, path: str) -> None:
    answer = client.get(path)
    text = answer.text.replace(NAMESPACE, "") + str(answer.headers)
    assert re.findall(r"(?:https?:)?//[\w.]+\.\w+", text) == []


def test_answers_and_errors_of_post_refer_to_no_host(client: TestClient) -> None:
    pair = {"prompt": "x", "response_a": "score 1", "response_b": "score 2"}
    for path, body in (
        ("/v1/chat/completions", chat_body(selfjudge=True)), ("/v1/judge", {"pairs": [pair]}), ("/v1/judge", {}),
        ("/v1/completions", {"model": MODEL, "prompt": "x", "max_tokens": 4}), ("/v1/nothing", {}),
    ):  # fmt: skip
        assert "://" not in client.post(path, json=body).text


def test_what_pages_name_is_there_and_nothing_is_inline(client: TestClient) -> None:
    for path in ("/", "/docs"):
        html = client.get(path).text
        named = re.findall(r'(?:src|href)="([^"#:]+)"', html)
        assert named
        assert all(client.get(f"/{name.removeprefix('./')}").status_code == 200 for name in named)
        assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", html)
    for path in STATIC:
        if path.endswith(".js"):
            script = client.get(path).text
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script
            )
            assert all((FILES / name).is_file() for name in re.findall(r'from "\./([^"]+)"', script))


def test_nothing_outside_the_folder_is_served(client: TestClient) -> None:
    for path in ("/static/../pages.py", "/static/%2e%2e/pages.py", "/static/..%2fpages.py"):
        assert client.get(path).status_code == 404


def test_the_principles_of_a_verdict_are_told_on_request_only(client: TestClient) -> None:
    pair = {"prompt": "x", "response_a": "score 1", "response_b": "score 2"}
    plain = client.post("/v1/judge", json={"pairs": [pair]}).json()["verdicts"][0]
    (verdict,) = client.post("/v1/judge", json={"pairs": [pair], "principles": True}).json()["verdicts"]
    (principle,) = verdict.pop("principles")
    assert verdict == plain
    assert principle.pop("principle") == "overall"
    assert principle == {name: plain[name] for name in ("preferred", "strength", "agree", "label_mass", "p")}
