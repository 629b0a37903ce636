"""How the app is served: uvicorn, with a limit on how long a connection may take over the head of a request."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEAD_SECONDS = 20.0
"""A connection is closed after so many seconds without a request, and a request whose head takes longer."""
KEEP_ALIVE_SECONDS = 75
"""Longer than load balancers keep connections (60 s), or they would send requests into closed ones."""


def server(app: FastAPI) -> uvicorn.Server:
    """Returns the server of an app; its own log is left to the app's.

    What is there by now (libraries, the model) is there to stay: the garbage collector need not walk it again, which
    takes it a fifth of a second, and every request waits meanwhile.
    """
    gc.collect()
    gc.freeze()
    return uvicorn.Server(
        uvicorn.Config(app, http=BoundedHead, access_log=False, log_config=None, timeout_keep_alive=KEEP_ALIVE_SECONDS)
    )


def allow_connections() -> None:
    """Raises this process's limit of open files, each connection being one, as far as it may itself."""
    with contextlib.suppress(ImportError):  # not a Unix
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class BoundedHead(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Uvicorn's protocol waits for the head of a request for ever, and any byte ends its keep-alive timeout: a client
    that sends a byte now and then would hold its connection.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begins to wait for the first request."""
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Reads on; begins to wait where a request has begun, and ends where its head is there."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._late is None:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
