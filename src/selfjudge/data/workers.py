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
_THREADS = "TOKENIZERS_PARALLELISM"

_forking = False


def processors() -> int:
    """Returns how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def worker_processes() -> Iterator[None]:
    """Processes forked within end by SIGTERM at once, leave Ctrl-C to their parent, and do not outlive it.

    What interrupts ``datasets.map`` is raised as it is: the library asks its workers for their results even then, and
    raises, or has Python print, that there are none.
    """
    from multiprocess.context import TimeoutError  # of the pools that datasets makes

    global _forking
    before = sys.unraisablehook
    sys.unraisablehook = lambda told: None if issubclass(told.exc_type, TimeoutError) else before(told)
    _forking = True
    try:
        yield
    except Exception as e:
        cause: BaseException | None = e
        while cause is not None and not isinstance(cause, KeyboardInterrupt | SystemExit):
            cause = cause.__context__
        if cause is None:
            raise
        raise cause from None
    finally:
        _forking = False
        sys.unraisablehook = before


@contextmanager
def one_thread_each(workers: int) -> Iterator[None]:
    """Lets the tokenizer use one thread in each of several workers, and shows no bar where there is one worker."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before, shown = os.environ.get(_THREADS), not are_progress_bars_disabled()
    if workers > 1:
        os.environ[_THREADS] = "false"
    else:
        disable_progress_bars()
    try:
        yield
    finally:
        if workers > 1 and before is None:
            del os.environ[_THREADS]
        elif before is not None:
            os.environ[_THREADS] = before
        if shown:
            enable_progress_bars()


def _become_worker() -> None:
    if _forking:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_become_worker)
