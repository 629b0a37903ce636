"""Worker processes that end when they are told to, and with the process that they work for.

A forked worker has the signal handlers of its parent, which note a signal or raise an exception: a pool that waits for
a worker to end by SIGTERM can then wait for ever. Ctrl-C reaches the workers too, and each would print a traceback.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PR_SET_PDEATHSIG = 1

_forking = False


def processors() -> int:
    """Returns how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def worker_processes() -> Iterator[None]:
    """Processes forked within end by SIGTERM at once, leave Ctrl-C to their parent, and do not outlive it."""
    global _forking
    _forking = True
    try:
        yield
    finally:
        _forking = False


def _become_worker() -> None:
    if _forking:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_become_worker)
