"""What stands before the app: keys, the size of bodies, the log and the metrics."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selfjudge.errors import DataError
from selfjudge.serving.contest import Outcome, Task
from selfjudge.serving.errors import ApiError, as_api_error
from selfjudge.serving.ids import new_id
from selfjudge.serving.metrics import REQUESTS, SECONDS
from selfjudge.serving.settings import ServeSettings

_logger = logging.getLogger("selfjudge.serving")


class Gate:
    """ASGI middleware: lets in who has a key, reads bodies up to their limit, and writes down what was answered."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        """Stands before ``app``."""
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status = 499  # if nothing is answered
        request_id = new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._admit(scope, receive, noted)
        finally:
            # Of a path that is not ours nothing is kept: anybody could fill the metrics with such.
            route = scope.get("route")
            path = getattr(route, "path", "other")
            seconds = time.monotonic() - started
            REQUESTS.labels(path, status).inc()
            SECONDS.labels(path).observe(seconds)
            _logger.info("%s %s %s %d %.3f s", request_id, scope["method"], path, status, seconds)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            if scope["path"].startswith("/v1/"):
                self._check_key(Headers(scope=scope).get("authorization", ""))
            await self._app(scope, await self._body(scope, receive), watched)
        except Exception as e:
            if started:
                raise
            await as_api_error(e).response()(scope, receive, send)

    def _check_key(self, authorization: str) -> None:
        """Compares with every hash, always to the end: the time taken tells nothing."""
        if not self._settings.key_hashes:
            return
        kind, _, key = authorization.partition(" ")
        found = sha256(key.strip().encode()).hexdigest()
        matches = [hmac.compare_digest(found, known) for known in self._settings.key_hashes]
        if kind.lower() != "bearer" or not any(matches):
            raise ApiError(
                401, "This server wants a key: send `Authorization: Bearer KEY`.", "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip

    async def _body(self, scope: Scope, receive: Receive) -> Receive:
        """Reads the body and returns a ``receive`` that gives it again.

        Raises:
            ApiError: 413, if it is too large; 408, if it does not come in time.
        """
        limit = self._settings.max_body
        too_large = ApiError(413, f"The body has more than {limit} bytes.", "body_too_large")
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length) > limit:
            raise too_large
        body = bytearray()
        more = True
        try:
            async with asyncio.timeout(self._settings.timeout):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(499, "The client has gone.", "client_gone")
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > limit:
                        raise too_large
        except TimeoutError as e:
            raise ApiError(408, "The body did not come in time.", "timeout") from e
        scope["state"]["body_size"] = len(body)
        replay = iter([{"type": "http.request", "body": bytes(body), "more_body": False}])

        async def again() -> Message:
            return next(replay, None) or await receive()

        return again


def log_text(request: Request, tasks: Sequence[Task], outcomes: Sequence[Outcome]) -> None:
    """Writes prompts and winners to the log; for operators who asked for it."""
    for task, outcome in zip(tasks, outcomes, strict=True):
        prompt = [message.model_dump() for message in task.prompt]
        winner = outcome.candidates[outcome.placing[0]].text
        _logger.info("%s %s", request.state.request_id, json.dumps({"prompt": prompt, "answer": winner}))


def read_key_hashes(path: Path) -> frozenset[str]:
    """Returns the hashes of a file: SHA-256 as hex, one a line; ``#`` begins a comment.

    Raises:
        DataError: if the file cannot be read, holds something else, or holds nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{path}: the keys cannot be read ({e}).") from e
    return frozenset(_hashes(path, lines))


def _hashes(path: Path, lines: Iterable[str]) -> list[str]:
    hashes = []
    for number, line in enumerate(lines, 1):
        word = line.partition("#")[0].strip().lower()
        if not word:
            continue
        if len(word) != 64 or set(word) - set("0123456789abcdef"):
            raise DataError(
                f"{path}, line {number}: this is no SHA-256 hash of a key; make one with "
                "`printf %s KEY | sha256sum | cut -d' ' -f1`."
            )
        hashes.append(word)
    if not hashes:
        raise DataError(f"{path}: there is no key in it.")
    return hashes
