"""Worker processes end by SIGTERM whatever their parent does about it, and with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

SLEEPS = """
import contextlib, os, signal, time
from selfjudge.data.workers import worker_processes
signal.signal(signal.SIGTERM, lambda *_: None)
with {context}:
    child = os.fork()
    if child == 0:
        time.sleep(600)
print(child, flush=True)
time.sleep(600)
"""


def ended(pid: int, within: float) -> bool:
    """Whether a process ends within so many seconds; nobody may be there to reap it."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(("context", "ends"), [("worker_processes()", True), ("contextlib.nullcontext()", False)])
@pytest.mark.parametrize("end", ["SIGTERM to the worker", "SIGKILL to the parent"])
@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone ends a process with its parent")
def test_workers_end(context: str, ends: bool, end: str) -> None:
    code = SLEEPS.format(context=context)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.2)  # the child may not have come to its sleep
        try:
            if end == "SIGTERM to the worker":
                os.kill(child, signal.SIGTERM)
            else:
                parent.kill()
            assert ended(child, 20 if ends else 1) == ends
        finally:
            parent.kill()
            if not ended(child, 0.1):
                os.kill(child, signal.SIGKILL)
