"""What the tests of the server share: an instant engine with a known best answer, and servers on free ports."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from selfjudge.engines.base import Drawn, Progress, SamplingParams
from selfjudge.errors import EngineError
from selfjudge.judge import Judge
from selfjudge.records import Completion
from selfjudge.serving import listen
from selfjudge.serving.app import create_app
from selfjudge.serving.backend import NamedBackend
from selfjudge.serving.in_process import InProcessBackend
from selfjudge.serving.rival import EngineBeside, JudgedBy
from selfjudge.serving.settings import ServeSettings
from selfjudge.serving.votes import VoteStore
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder, JudgmentPrompt
from selfjudge.templates.template import load_templates

MODEL = "scores"
_SCORE = re.compile(r"\n[AB]: score ?(\d*)")


class ScoreEngine:
    """Candidate i of a prompt is "score S"; the judge prefers the larger S. Faults and delays are set by tests."""

    max_length = 256

    def __init__(self, chat: ChatEncoder) -> None:
        self.chat = chat
        self.samples: list[tuple[int, SamplingParams]] = []
        self.judgments: list[int] = []
        self.seconds = 0.0
        self.sample_error: Exception | None = None
        # Raised from the judging call with this number (from 0) on.
        self.judge_error: Exception | None = None
        self.judge_error_from = 0
        self.going = threading.Event()
        self.going.set()
        self.started = threading.Event()
        # Where set, each candidate waits for a permit; they are told from the last to the first.
        self.permits: threading.Semaphore | None = None

    def reusing_prefixes(self) -> AbstractContextManager[None]:
        return nullcontext()

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        progress: Progress | None = None,
        drawn: Drawn | None = None,
    ) -> list[list[Completion]]:
        self.samples.append((len(prompts), params))
        self._work()
        if self.sample_error:
            raise self.sample_error
        rows = [[self._completion((5 * i + 3) % 17) for i in range(params.n)] for _ in prompts]
        for place in reversed(range(params.n if drawn else 0)):
            assert self.permits is None or self.permits.acquire(timeout=20)
            for i, row in enumerate(rows):
                drawn(i, place, row[place])
        return rows

    def label_probabilities(
        self, prompts: Sequence[JudgmentPrompt], progress: Progress | None = None
    ) -> NDArray[np.float64]:
        call = len(self.judgments)
        self.judgments.append(len(prompts))
        self._work()
        if self.judge_error and call >= self.judge_error_from:
            raise self.judge_error
        found = [_scores(self.chat.decode(p.token_ids)) for p in prompts]
        return np.array([[0.9, 0.1] if a > b else [0.1, 0.9] if b > a else [0.5, 0.5] for a, b in found])

    def _work(self) -> None:
        self.started.set()
        assert self.going.wait(20)
        time.sleep(self.seconds)

    def _completion(self, score: int) -> Completion:
        text = f"score {score}"
        return Completion(ids=tuple(self.chat.text_ids(text)), text=text, finish_reason="stop")


class AnswerEngine(ScoreEngine):
    """Always gives the same answer."""

    def __init__(self, chat: ChatEncoder, answer: str) -> None:
        super().__init__(chat)
        self.answer = answer

    def _completion(self, score: int) -> Completion:
        return Completion(ids=(1, 2), text=self.answer, finish_reason="stop")


class ThinkingEngine(ScoreEngine):
    """Thinks before it answers. A thought of a score below ``least`` never ends."""

    def __init__(self, chat: ChatEncoder, least: int) -> None:
        super().__init__(chat)
        self.least = least

    def _completion(self, score: int) -> Completion:
        text = f"score {score}"
        ids = tuple(self.chat.text_ids(f"{text}?{text}"))
        if score < self.least:
            return Completion(ids=ids, text="", finish_reason="length", reasoning_content=f"{text}?")
        return Completion(ids=ids, text=text, finish_reason="stop", reasoning_content=f"{text}?")


def _scores(judgment: str) -> list[int]:
    """The scores of both responses; what is no score counts 0."""
    return [0, 0, *(int(score or 0) for score in _SCORE.findall(judgment))][-2:]


def scores(n: int) -> list[int]:
    """The scores of the candidates that ScoreEngine draws."""
    return [(5 * i + 3) % 17 for i in range(n)]


def judge_on(engine: object, chat: ChatEncoder) -> Judge:
    return Judge(engine, JudgmentEncoder(load_templates("world"), chat))  # type: ignore[arg-type]


def app_on(engine: ScoreEngine, settings: ServeSettings | None = None) -> FastAPI:
    backend = InProcessBackend(engine, judge_on(engine, engine.chat), engine.chat)
    return create_app(backend, MODEL, settings or ServeSettings(n=4, max_new_tokens=8))


def arena_app_on(engine: ScoreEngine, database: str, answers: dict[str, str], settings: ServeSettings) -> FastAPI:
    """An app with an arena, in which each of two models always gives its own answer."""
    name, other = answers
    backend = InProcessBackend(AnswerEngine(engine.chat, answers[name]), judge_on(engine, engine.chat), engine.chat)
    beside = EngineBeside(backend, AnswerEngine(engine.chat, answers[other]), engine.chat)
    rival = NamedBackend(other, JudgedBy(beside, backend))
    return create_app(backend, name, settings, rival=rival, votes=VoteStore(database))


def judgments(client: TestClient) -> tuple[float, float]:
    """The judgments of the process so far, and how many of them the response shown first won."""
    counted = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
    return float(counted["selfjudge_judgments_total"]), float(counted["selfjudge_judgments_first_shown_total"])


@contextmanager
def listening(app: FastAPI) -> Iterator[tuple[str, uvicorn.Server]]:
    """Runs an app under uvicorn on a free port; gives its URL and the server."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        server = listen.server(app)
        # A daemon: a server that hangs fails its test, and not the end of all tests.
        thread = threading.Thread(target=server.run, kwargs={"sockets": [held]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{held.getsockname()[1]}", server
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def chat_body(**fields: object) -> dict[str, object]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "Name a fox."}], **fields}


DOWN = EngineError("The server at http://x is down.")
