"""A client of `selfjudge serve` for what OpenAI's own does not know: verdicts, and answers with their tournament.

For everything else, streams among it, use ``openai.AsyncOpenAI``: the server speaks its API. This one stands on it, so
that connections, retries with growing pauses (those that the server asks for by Retry-After) and timeouts are its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Sequence
from itertools import chain
from types import TracebackType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from selfjudge.errors import EngineError, MissingExtraError, without_secret
from selfjudge.records import Comparison, Message
from selfjudge.replies import ChatReply, JudgeReply, PairVerdict

try:
    import openai
except ImportError as e:
    raise MissingExtraError("Asking a server", "openai") from e

_PAIRS = 64
"""Pairs of one request: few enough to be judged well within a timeout, and far fewer than the server takes."""

R = TypeVar("R", bound=BaseModel)
T = TypeVar("T")


class AsyncClient:
    """Asks one server, from one event loop: ``async with AsyncClient(url) as client``.

    Every method raises EngineError, in one sentence, if the server cannot be reached or refuses.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        concurrency: int = 32,
        timeout: float = 600.0,
        max_retries: int = 5,
    ) -> None:
        """Opens nothing yet.

        Args:
            base_url: such as ``http://localhost:8000/v1``.
            api_key: by default $OPENAI_API_KEY, else ``EMPTY``.
            concurrency: requests under way at once, of all calls together.
            timeout: seconds that one request may wait for the server.
            max_retries: how often a request is repeated after a lost connection, 408, 409, 429 or 5xx.
        """
        # A line break at the end, as files of keys have it, is no part of a header.
        self._key = (api_key or os.environ.get("OPENAI_API_KEY") or "").strip() or "EMPTY"
        self._url = base_url
        self._openai = openai.AsyncOpenAI(
            base_url=base_url, api_key=self._key, timeout=timeout, max_retries=max_retries
        )
        self._room = asyncio.Semaphore(concurrency)
        self._model: str | None = None

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._openai.close()

    async def judge(self, pairs: Sequence[Comparison]) -> list[PairVerdict]:
        """Returns one verdict per pair, in their order; many pairs are several requests at once.

        The first request that fails cancels the others.
        """
        parts = [pairs[i : i + _PAIRS] for i in range(0, len(pairs), _PAIRS)]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._judge(part)) for part in parts]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from failures.exceptions[0].__cause__
        return list(chain.from_iterable(task.result() for task in tasks))

    async def complete(self, prompt: str | Sequence[Message], **fields: Any) -> ChatReply:
        """Returns the reply to a prompt, with its tournament in ``reply.selfjudge``.

        Args:
            prompt: what a user says, or a dialogue that ends with the user.
            fields: of the request, such as ``n_candidates``, ``n``, ``temperature``, ``max_tokens``, ``seed``. The
                ``model`` is by default the one that is served.
        """
        turns = [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
        body: dict[str, Any] = {"messages": [turn.model_dump() for turn in turns], "selfjudge": True, **fields}
        if "model" not in body:
            body["model"] = self._model or await self._served()
        return await self._post("/chat/completions", body, ChatReply)

    async def _judge(self, pairs: Sequence[Comparison]) -> list[PairVerdict]:
        body = {"pairs": [pair.model_dump(exclude={"label"}) for pair in pairs]}
        return (await self._post("/judge", body, JudgeReply)).verdicts

    async def _served(self) -> str:
        """Returns the name of the only model there is, and remembers it."""
        page = await self._ask(self._openai.models.list())
        self._model = page.data[0].id
        return self._model

    async def _post(self, path: str, body: dict[str, Any], reply: type[R]) -> R:
        answer = await self._ask(self._openai.post(path, cast_to=object, body=body))
        try:
            return reply.model_validate(answer)
        except ValidationError as e:
            raise EngineError(
                f"What answers at {self._url} is no `selfjudge serve`: check the URL, which ends with /v1."
            ) from e

    async def _ask(self, request: Awaitable[T]) -> T:
        async with self._room:
            try:
                return await request
            except openai.APIStatusError as e:
                said = e.body.get("message") if isinstance(e.body, dict) else None
                reply = without_secret(str(said or e.message), self._key)
                raise EngineError(f"The server at {self._url} answered {e.status_code}: {reply}") from e
            except openai.APITimeoutError as e:
                raise EngineError(f"The server at {self._url} did not answer in time: raise the timeout.") from e
            except openai.APIConnectionError as e:
                reason = without_secret(str(e.__cause__ or e), self._key)
                raise EngineError(
                    f"The server at {self._url} cannot be reached ({reason}): start it, or correct the URL."
                ) from e
