"""Servers that hold the model: any number of them, asked by load. Nothing is kept here between requests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from selfjudge.engines.base import SamplingParams
from selfjudge.engines.openai_server import OpenAIEngine
from selfjudge.errors import EngineError, without_credentials
from selfjudge.judge import Judge
from selfjudge.records import Comparison, Completion
from selfjudge.serving.backend import Judged, Told
from selfjudge.serving.metrics import FAILOVERS
from selfjudge.templates.encode import JudgmentEncoder

_AVOIDED = 10.0
"""Seconds for which a server that failed is asked only after the others."""

T = TypeVar("T")
_logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Server:
    engine: OpenAIEngine
    calls: int = 0
    failed: float = field(default=float("-inf"))


class UpstreamBackend:
    """Engines of servers that serve the same model; each of them is policy and judge.

    A call goes to the server with the fewest calls under way. If it fails, the others are tried before the error is
    passed on: a server that dies costs no request its answer. A cancelled call drops its connection.
    """

    def __init__(self, engines: Sequence[OpenAIEngine], encoder: JudgmentEncoder) -> None:
        """Takes at least one engine; all have the tokenizer of ``encoder``."""
        self._servers = [_Server(engine) for engine in engines]
        self.chat = engines[0].chat
        # Measures against the smallest context, as any of the servers may be asked.
        self.judge = Judge(min(engines, key=lambda engine: engine.max_length), encoder)

    @property
    def max_length(self) -> int:
        """The smallest context of the servers, in tokens."""
        return self.judge.engine.max_length

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps connections to the servers."""
        async with AsyncExitStack() as stack:
            for server in self._servers:
                await stack.enter_async_context(server.engine.connected())
            yield

    async def check(self) -> None:
        """Raises EngineError if none of the servers answers."""
        await self._ask(lambda engine: engine.check())

    async def sample(
        self, prompt: Sequence[int], params: SamplingParams, *, repeatable: bool, drawn: Told | None = None
    ) -> list[Completion]:
        """Draws on one server; it is always repeatable, as far as the server is."""

        def told(_: int, place: int, completion: Completion) -> None:
            if drawn:
                drawn(place, completion)

        ended = told if drawn else None
        return (await self._ask(lambda engine: engine.sample_async([prompt], params, None, ended)))[0]

    async def verdicts(self, comparisons: Sequence[Comparison]) -> Judged:
        """Judges on one server."""
        # Tokenising takes its time; other requests go on meanwhile.
        questions = await asyncio.to_thread(self.judge.questions, comparisons)
        prompts = [question.prompt for question in questions]
        p = await self._ask(lambda engine: engine.label_probabilities_async(prompts))
        return Judged(self.judge.read(p), sum(len(prompt.token_ids) for prompt in prompts))

    async def _ask(self, call: Callable[[OpenAIEngine], Awaitable[T]]) -> T:
        """Returns the first answer.

        Raises:
            EngineError: if no server answers.
        """
        untried = list(self._servers)
        while True:
            server = min(untried, key=lambda s: (time.monotonic() - s.failed < _AVOIDED, s.calls))
            untried.remove(server)
            server.calls += 1
            try:
                return await call(server.engine)
            except EngineError as e:
                # Never left out: a request that every server refuses must not make them all look dead.
                server.failed = time.monotonic()
                FAILOVERS.labels(without_credentials(server.engine.base_url)).inc()
                if not untried:
                    raise
                _logger.warning("%s Trying another.", e)
            finally:
                server.calls -= 1
