"""The server under load, on this machine alone, beside the same work without a server.

    python benchmarks/serve_load.py

For each engine and number of clients: requests per second, the median and 99th percentile of a request's time, the
processor time of the server for each request, and what the server adds to the wall time of the same tournaments called
directly in groups of as many prompts. Engines:

- instant: samples and judges in no time, so that all that is measured is the server and the tokenizer;
- timed: each call takes 1 s for samples and 50 ms for a round of judgments, whatever its size, as those of a GPU might;
- world: the small world's model with random weights, on the CPU.

Takes a minute or two: at most --requests requests for each line, and at most --seconds seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from urllib.request import urlopen

import numpy as np
import torch
from numpy.typing import NDArray

from selfjudge import (
    Judge,
    JudgmentEncoder,
    SamplingParams,
    TransformersEngine,
    load_model,
    load_templates,
    self_reject,
)
from selfjudge.engines.base import Engine, Progress
from selfjudge.engines.load import load_tokenizer
from selfjudge.records import Completion
from selfjudge.serving.app import create_app
from selfjudge.serving.in_process import InProcessBackend
from selfjudge.serving.listen import server
from selfjudge.serving.settings import ServeSettings
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentPrompt

CLIENTS = (1, 8, 64)
NEW_TOKENS = 8
PROMPT = "Name two things of the sea for Ada, number {}."


@dataclass
class FakeEngine:
    """Takes a fixed time for each call, however many prompts it has."""

    chat: ChatEncoder
    sample_seconds: float
    judge_seconds: float
    max_length: int = 256

    def sample(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, progress: Progress | None = None
    ) -> list[list[Completion]]:
        """Returns the same completions for every prompt."""
        time.sleep(self.sample_seconds)
        drawn = [Completion(ids=(1, 2), text=f"answer {i}", finish_reason="stop") for i in range(params.n)]
        return [drawn for _ in prompts]

    def label_probabilities(
        self, prompts: Sequence[JudgmentPrompt], progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """Prefers the first of both."""
        time.sleep(self.judge_seconds)
        return np.tile([0.6, 0.4], (len(prompts), 1))

    def reusing_prefixes(self) -> AbstractContextManager[None]:
        """Remembers nothing."""
        return nullcontext()


def open_engine(name: str) -> tuple[Engine, Judge, ChatEncoder]:
    """Returns an engine, the judge on it, and the encoder of its tokenizer."""
    engine: Engine
    if name == "world":
        loaded = load_model("builtin:world", device="cpu")
        chat, engine = loaded.chat, TransformersEngine(loaded.model, loaded.chat)
    else:
        chat = load_tokenizer("builtin:world")
        engine = FakeEngine(chat, *((1.0, 0.05) if name == "timed" else (0.0, 0.0)))
    return engine, Judge(engine, JudgmentEncoder(load_templates("world"), chat)), chat


def serve(name: str, file_descriptor: int) -> None:
    """Serves an engine on a socket that the parent listens on."""
    torch.set_num_threads(1)
    engine, judge, chat = open_engine(name)
    settings = ServeSettings(max_new_tokens=NEW_TOKENS, max_requests=2 * max(CLIENTS))
    app = create_app(InProcessBackend(engine, judge, chat), name, settings)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=file_descriptor)
    server(app).run(sockets=[listener])


async def client(port: int, left: list[bytes], stop: float, seconds: list[float]) -> None:
    """Sends those bodies that are left one after the other on one connection.

    Written on the bare socket: a client library takes more time than the server that is to be measured.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    while left and time.perf_counter() < stop:
        body = left.pop()
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        started = time.perf_counter()
        writer.write(request)
        headers = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        answer = await reader.readexactly(int(headers.split("content-length: ")[1].split("\r\n")[0]))
        seconds.append(time.perf_counter() - started)
        if " 200 " not in headers:
            raise SystemExit(answer.decode())
    writer.close()


async def load(
    port: int, name: str, candidates: int, clients: int, limits: argparse.Namespace
) -> tuple[float, list[float]]:
    """Returns the wall time of all clients together, and the time of each request."""
    prompts = ([{"role": "user", "content": PROMPT.format(i)}] for i in range(limits.requests))
    left = [json.dumps({"model": name, "messages": p, "n_candidates": candidates}).encode() for p in prompts]
    seconds: list[float] = []
    started = time.perf_counter()
    await asyncio.gather(*(client(port, left, started + limits.seconds, seconds) for _ in range(clients)))
    return time.perf_counter() - started, seconds


def direct(name: str, candidates: int, clients: int, requests: int) -> float:
    """Returns the wall time of as many tournaments without a server, in groups of as many prompts as clients."""
    engine, judge, chat = open_engine(name)
    params = SamplingParams(n=candidates, max_new_tokens=NEW_TOKENS)
    prompts = [PROMPT.format(i) for i in range(requests)]
    gc.collect()
    gc.freeze()  # as the server does
    started = time.perf_counter()
    for done in range(0, requests, clients):
        self_reject(engine, chat, judge, prompts[done : done + clients], params)
    return time.perf_counter() - started


def cpu_seconds(port: int) -> float:
    """Returns the processor time that the server has taken until now."""
    metrics = urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    return float(metrics.split("\nprocess_cpu_seconds_total ")[1].split()[0])


def measure(name: str, candidates: int, limits: argparse.Namespace) -> None:
    """Prints one line for each number of clients."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, __file__, "--serve", name, "--fd", str(listener.fileno())]
        child = subprocess.Popen(command, pass_fds=[listener.fileno()])
        try:
            for clients in CLIENTS:
                asyncio.run(load(port, name, candidates, clients, argparse.Namespace(requests=clients, seconds=60)))
                cpu = cpu_seconds(port)
                wall, seconds = asyncio.run(load(port, name, candidates, clients, limits))
                cpu = 1000 * (cpu_seconds(port) - cpu) / len(seconds)
                alone = direct(name, candidates, clients, len(seconds))
                p50, p99 = np.quantile(seconds, [0.5, 0.99]) * 1000
                print(
                    f"{name:8} {candidates:10} {clients:7} {len(seconds):8} {len(seconds) / wall:10.0f} {p50:8.1f} "
                    f"{p99:8.1f} {cpu:8.2f} {100 * (wall / alone - 1):+10.1f} %",
                    flush=True,
                )
        finally:
            child.terminate()
            child.wait()


def main() -> None:
    """Reads the options and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="requests of each line at most")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of each line at most, about")
    parser.add_argument("--engines", nargs="+", default=["instant", "timed", "world"])
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 4], help="n_candidates of the requests")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.fd)
        return
    torch.set_num_threads(1)
    print("engine   candidates clients requests requests/s   p50 ms   p99 ms   cpu ms over direct")
    for name in options.engines:
        for candidates in options.candidates:
            measure(name, candidates, options)


if __name__ == "__main__":
    main()
