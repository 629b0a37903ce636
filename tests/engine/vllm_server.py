"""vLLM's own OpenAI server as a process, for the tests that need one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

START_SECONDS = 240


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[tuple[str, int]]:
    """Runs a vLLM server until the end of the block; gives its URL and its process group, and ends all of it."""
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ}
    with log.open("w") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        wait_for(server, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1", server.pid
    finally:
        for kind in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):  # the group is gone
                os.killpg(server.pid, kind)
            with suppress(subprocess.TimeoutExpired):
                server.wait(20)


def wait_for(server: subprocess.Popen[bytes], health: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        with suppress(OSError), urllib.request.urlopen(health, timeout=5):
            return
        time.sleep(0.5)
    what = f"ended with {server.returncode}" if server.poll() is not None else f"is not up after {START_SECONDS} s"
    pytest.fail(f"The vLLM server {what}. The end of its log:\n{log.read_text()[-5000:]}")
