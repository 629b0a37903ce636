"""SIGTERM and Ctrl-C while a model is trained: noted, and acted upon where no step is torn apart."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(KeyboardInterrupt):
    """A signal ends the training. Libraries let a KeyboardInterrupt pass, as they do not any Exception."""


class Signals:
    """The signals received while it is entered; outside the main thread none is.

    The first is noted in ``received``. After :meth:`allow` it raises Interrupted, and so does :meth:`allow` itself
    where it came before. Ctrl-C after it ends the run at once, a further SIGTERM does nothing: schedulers send it to
    a job's processes more than once.
    """

    def __init__(self, *, at_once: bool) -> None:
        """Takes whether work may be broken off: not where other processes wait for this one's part of it."""
        self.received: signal.Signals | None = None
        self._at_once = at_once
        self._interruptible = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        global _current
        _current = self
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        global _current
        _current = None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def allow(self) -> None:
        """From here on work may be broken off, at once where a signal was received before."""
        self._interruptible = self._at_once
        if self._interruptible and self.received is not None:
            self.forbid()
            raise Interrupted

    def forbid(self) -> None:
        """From here on work must come to its end."""
        self._interruptible = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
            if self._interruptible:
                self.forbid()
                raise Interrupted
        elif number == signal.SIGINT:
            raise KeyboardInterrupt


_current: Signals | None = None


@contextmanager
def interruptible() -> Iterator[None]:
    """What runs within may be broken off by a signal, where a training waits for them; a step must not be under way."""
    if _current is None:
        yield
        return
    try:
        _current.allow()
        yield
    finally:
        _current.forbid()
