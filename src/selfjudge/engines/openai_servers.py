"""Several servers of one model as one engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from selfjudge.engines.base import Drawn, Progress, SamplingParams
from selfjudge.engines.openai_connection import wait_for
from selfjudge.engines.openai_server import OpenAIEngine
from selfjudge.errors import EngineError
from selfjudge.records import Completion
from selfjudge.templates.encode import JudgmentPrompt

T = TypeVar("T")
_logger = logging.getLogger(__name__)


class OpenAIServers:
    """Samples from and judges with a model behind several servers; each gets an equal share, all at the same time.

    A share whose server fails is asked of the next one, and so on. Every method raises EngineError if none answers.
    """

    def __init__(self, engines: Sequence[OpenAIEngine], first: int = 0) -> None:
        """Takes at least one engine; all have one tokenizer.

        Args:
            engines: of the servers.
            first: which of them gets the first prompts; another in each process, so that small batches spread too.
        """
        shift = first % len(engines)
        self.engines = [*engines[shift:], *engines[:shift]]
        self.chat = engines[0].chat

    @property
    def max_length(self) -> int:
        """The smallest context of the servers, in tokens."""
        return min(engine.max_length for engine in self.engines)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        progress: Progress | None = None,
        drawn: Drawn | None = None,
    ) -> list[list[Completion]]:
        """Returns ``params.n`` completions per prompt, whose seeds are those of one server that has them all."""

        def ask(engine: OpenAIEngine, share: list[int], finished: Progress) -> Awaitable[list[list[Completion]]]:
            places = tuple(share if params.places is None else (params.places[i] for i in share))
            told: Drawn | None = drawn and (lambda i, place, one: drawn(share[i], place, one))
            return engine.sample_async([prompts[i] for i in share], replace(params, places=places), finished, told)

        return wait_for(self._shared(len(prompts), ask, progress))

    def label_probabilities(
        self, prompts: Sequence[JudgmentPrompt], progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """Returns [n, 2] label probabilities. Equal prompts are asked once."""
        distinct = list(dict.fromkeys(prompts))

        def ask(engine: OpenAIEngine, share: list[int], finished: Progress) -> Awaitable[NDArray[np.float64]]:
            return engine.label_probabilities_async([distinct[i] for i in share], finished)

        found = dict(zip(distinct, wait_for(self._shared(len(distinct), ask, progress)), strict=True))
        if progress and len(prompts) > len(distinct):
            progress(len(prompts) - len(distinct))
        return np.array([found[prompt] for prompt in prompts], dtype=np.float64).reshape(-1, 2)

    def reusing_prefixes(self) -> AbstractContextManager[None]:
        """The servers remember prefixes by themselves, or not at all."""
        return nullcontext()

    async def _shared(
        self,
        n: int,
        ask: Callable[[OpenAIEngine, list[int], Progress], Awaitable[Iterable[T]]],
        progress: Progress | None,
    ) -> list[T]:
        """Returns one result for each of ``n`` prompts; ``ask`` has a server answer those with the given numbers."""
        count = len(self.engines)

        async def one(number: int, share: list[int]) -> Iterable[T]:
            told = 0
            for engine in (*self.engines[number:], *self.engines[:number]):
                counted = 0

                def finished(more: int) -> None:
                    nonlocal counted, told
                    counted += more
                    if progress and counted > told:  # else these were finished before, by a server that then failed
                        progress(counted - told)
                        told = counted

                try:
                    return await ask(engine, share, finished)
                except EngineError as e:
                    failed = e
                    if count > 1:
                        _logger.warning("%s Trying another.", e)
            raise failed

        shares = [list(range(number, n, count)) for number in range(min(count, n))]
        # What is under way when one fails, or a signal ends it all, is cancelled with the loop.
        answers = await asyncio.gather(*(one(number, share) for number, share in enumerate(shares)))
        result: dict[int, T] = {}
        for share, answer in zip(shares, answers, strict=True):
            result.update(zip(share, answer, strict=True))
        return [result[i] for i in range(n)]
