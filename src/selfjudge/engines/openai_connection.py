"""The requests to an OpenAI-compatible server: how many at once, how patiently, and in one sentence what goes wrong."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from selfjudge.engines.openai_answers import Choice, StreamedChoices
from selfjudge.errors import EngineError, MissingExtraError, without_secret

try:
    import openai
except ImportError as e:
    raise MissingExtraError("Asking a model server", "openai") from e

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
"""Seconds between the requests to a server that is gone; each pause is twice the one before."""

T = TypeVar("T")
_logger = logging.getLogger(__name__)


class ServerConnection:
    """Asks one server. Every method raises EngineError if it cannot be reached, or refuses a request."""

    model = ""  # the name it is served under, once it is known
    adapter: Path | None = None  # where ``model`` is an adapter that we have the server load
    _shared: openai.AsyncOpenAI | None = None
    _gone = False  # and waited for

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        concurrency: int,
        timeout: float,
        max_retries: int,
        patience: float,
    ) -> None:
        """Takes what :class:`selfjudge.engines.openai_server.OpenAIEngine` takes."""
        self.base_url = base_url
        self._api_key = _key(api_key)
        self._concurrency = concurrency
        self._timeout = timeout
        self._max_retries = max_retries
        self._patience = patience

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Within it, the asynchronous methods share one client and its connections: for use on one event loop."""
        async with self._new_client() as self._shared:
            try:
                yield
            finally:
                self._shared = None

    async def models(self) -> dict[str, int | None]:
        """Returns the served names with their context lengths where the server says them; there is at least one."""
        async with self._client() as client:
            page = await self._request(client.models.list(), "the list of models")
        models = {m.id: getattr(m, "max_model_len", None) for m in getattr(page, "data", None) or ()}
        if not models:
            raise EngineError(
                f"The server at {self.base_url} lists no models: check that the URL ends with /v1 and that a model is "
                "loaded."
            )
        return models

    async def load(self) -> None:
        """Has a vLLM server load the adapter, from a folder that it sees, under the name ``model``."""
        async with self._client() as client:
            await self._load(client)

    async def unload(self, model: str) -> None:
        """Has the server forget an adapter; that it does not know it, or is gone, is no error."""
        async with self._client() as client:
            with suppress(EngineError):
                await self._request(_command(client, "unload_lora_adapter", lora_name=model), f"to unload {model!r}")

    async def ask(
        self,
        bodies: Sequence[dict[str, Any]],
        read: Callable[[int, list[Choice]], T],
        ended: Callable[[int, Choice], None] | None = None,
    ) -> list[T]:
        """Sends all requests, a bounded number at once, and returns what ``read`` makes of each answer.

        With ``ended`` the answers are streamed, and it is told of each choice that is there.
        """
        room = asyncio.Semaphore(self._concurrency)

        async def one(i: int, body: dict[str, Any]) -> T:
            async with room:
                if ended:
                    choices = await self._streamed(client, i, body, ended)
                else:
                    answer = await self._answer(client, i, body)
                    choices = self._understood(partial(_choices, answer))
            return self._understood(partial(read, i, choices))

        async with self._client() as client:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(i, body)) for i, body in enumerate(bodies)]
            except BaseExceptionGroup as failures:
                # The first failure cancelled the others.
                raise failures.exceptions[0] from failures.exceptions[0].__cause__
        return [task.result() for task in tasks]

    async def _answer(self, client: openai.AsyncOpenAI, i: int, body: dict[str, Any]) -> Any:
        def request() -> Awaitable[Any]:
            return client.completions.create(model=self.model, **body)

        try:
            return await self._patiently(request, f"prompt {i}")
        except EngineError as e:
            if self.adapter is None or not isinstance(e.__cause__, openai.NotFoundError):
                raise
        await self._load(client)  # the server was started anew, and had lost it
        return await self._patiently(request, f"prompt {i}")

    async def _load(self, client: openai.AsyncOpenAI) -> None:
        def request() -> Awaitable[str]:
            return _command(client, "load_lora_adapter", lora_name=self.model, lora_path=str(self.adapter))

        try:
            await self._patiently(request, f"to load {self.adapter}")
        except EngineError as e:
            if not isinstance(e.__cause__, openai.APIStatusError):
                raise
            if "already been loaded" in str(e):  # for another process or another prompt
                return
            raise EngineError(
                f"The server at {self.base_url} does not load the adapter {self.adapter} ({_short(e.__cause__)}): "
                "start vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, --enable-lora and a --max-lora-rank no "
                "less than the adapter's, where it sees that folder."
            ) from e.__cause__

    def _understood(self, read: Callable[[], T]) -> T:
        """Returns what ``read`` makes of an answer.

        Raises:
            EngineError: if the answer is not what OpenAI's completions are.
        """
        try:
            return read()
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as e:
            raise EngineError(
                f"What the server at {self.base_url} answers is no completion ({type(e).__name__}): use one that "
                "speaks OpenAI's /v1/completions."
            ) from e

    async def _streamed(
        self, client: openai.AsyncOpenAI, i: int, body: dict[str, Any], ended: Callable[[int, Choice], None]
    ) -> list[Choice]:
        """Returns the choices of a streamed answer, those of them that came to their end."""
        request = client.completions.create(model=self.model, stream=True, **body)
        found: dict[int, Choice] = {}
        streamed = StreamedChoices()
        async with await self._request(request, f"prompt {i}") as stream:
            async for chunk in self._unbroken(stream, i):
                for choice in self._understood(partial(_ended, streamed, chunk)):
                    found[choice["index"]] = choice
                    ended(i, choice)
        return [found[place] for place in sorted(found)]

    async def _unbroken(self, stream: AsyncIterator[T], i: int) -> AsyncIterator[T]:
        try:
            async for chunk in stream:
                yield chunk
        except Exception as e:  # older clients let the transport's and JSON's own errors through
            said = f"The server at {self.base_url} broke off its answer to prompt {i} ({_short(e)}): look at its log."
            raise EngineError(without_secret(said, self._api_key)) from e

    def _client(self) -> AbstractAsyncContextManager[openai.AsyncOpenAI]:
        """A client belongs to one event loop, so each call has its own unless it is made when :meth:`connected`."""
        return nullcontext(self._shared) if self._shared else self._new_client()

    def _new_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=self.base_url, api_key=self._api_key, timeout=self._timeout, max_retries=self._max_retries
        )

    async def _patiently(self, request: Callable[[], Awaitable[T]], what: str) -> T:
        """Repeats a request, with growing pauses, while the server is gone and patience lasts."""
        begin, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            try:
                answer = await self._request(request(), what)
                self._gone = False
                return answer
            except EngineError as e:
                waited = time.monotonic() - begin
                if not _passing(e.__cause__) or waited + pause > self._patience:
                    raise
                if not self._gone:
                    _logger.warning("%s Waiting for it, %.0f s at most.", e, self._patience)
                self._gone = True
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _request(self, request: Awaitable[T], what: str) -> T:
        try:
            return await request
        except openai.APIError as e:
            # Servers and HTTP libraries have been seen to repeat the key.
            raise EngineError(without_secret(self._sentence(e, what), self._api_key)) from e

    def _sentence(self, error: openai.APIError, what: str) -> str:
        server = f"The server at {self.base_url}"
        served = f" (model {self.model!r})" if self.model else ""
        if isinstance(error, openai.APITimeoutError):
            return f"{server} did not answer {what} within {self._timeout:g} s{served}: look at its log."
        if isinstance(error, openai.APIConnectionError):
            reason = _short(error.__cause__ or error)
            return f"{server} cannot be reached ({reason}): start it, or correct the URL."
        status = error.status_code if isinstance(error, openai.APIStatusError) else "unreadable answer"
        advice = {
            400: "shorten the prompt or draw fewer tokens if it is too long, lower top_logprobs if it is too high",
            401: "set OPENAI_API_KEY to a key that it takes",
            403: "set OPENAI_API_KEY to a key that it takes",
            404: "check that the URL ends with /v1 and names a server of /v1/completions",
        }.get(getattr(error, "status_code", 0), "look at its log")
        return f"{server} refused {what}{served} with {status} ({_short(error)}): {advice}."


def _command(client: openai.AsyncOpenAI, name: str, **body: str) -> Awaitable[str]:
    """Asks for what vLLM has beyond OpenAI's API; such a server answers with a line of text."""
    return client.post(f"/{name}", cast_to=str, body=body)


def _passing(error: BaseException | None) -> bool:
    """Whether a server may be back after such an error."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code >= 500
    return isinstance(error, openai.APIConnectionError)


def _key(given: str | None) -> str:
    """Returns a key without the line break that files of keys end with: it is no part of a header."""
    return (given or os.environ.get("OPENAI_API_KEY") or "").strip() or "EMPTY"


def _choices(answer: Any) -> list[Choice]:
    """Returns the choices of an answer or a chunk; what is no completion (another service's page) has none."""
    return [choice.to_dict(warnings=False) for choice in getattr(answer, "choices", None) or ()]


def _ended(streamed: StreamedChoices, chunk: Any) -> list[Choice]:
    """Returns the choices that end with a chunk."""
    return [choice for piece in _choices(chunk) if (choice := streamed.add(piece))]


def _short(error: BaseException) -> str:
    """Returns what an error says, the server's own words where they came along, on one line."""
    body = getattr(error, "body", None)
    message = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(message or error).split())[:300].rstrip(".") or type(error).__name__


def wait_for(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end; where this thread already has a running loop (a notebook), in another thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
