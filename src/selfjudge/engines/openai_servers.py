"""Several servers of one model as one engine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from selfjudge.engines.base import Progress
from selfjudge.engines.openai_server import OpenAIEngine
from selfjudge.errors import EngineError
from selfjudge.templates.encode import JudgmentPrompt

T = TypeVar("T")
_logger = logging.getLogger(__name__)


class JudgeServers:
    """Judges with a model behind several servers; each gets an equal share of the prompts, all at the same time.

    A share whose server fails is asked of the next one, and so on.
    """

    def __init__(self, engines: Sequence[OpenAIEngine], first: int = 0) -> None:
        """Takes at least one engine; all have one tokenizer.

        Args:
            engines: of the servers.
            first: which of them gets the first prompts; another in each process, so that small batches spread too.
        """
        shift = first % len(engines)
        self._engines = [*engines[shift:], *engines[:shift]]
        self.chat = engines[0].chat

    @property
    def max_length(self) -> int:
        """The smallest context of the servers, in tokens."""
        return min(engine.max_length for engine in self._engines)

    def label_probabilities(
        self, prompts: Sequence[JudgmentPrompt], progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """Returns [n, 2] label probabilities. Equal prompts are asked once.

        Raises:
            EngineError: if no server answers.
        """
        places: dict[JudgmentPrompt, list[int]] = {}
        for i, prompt in enumerate(prompts):
            places.setdefault(prompt, []).append(i)
        distinct, count = list(places), len(self._engines)
        result = np.zeros((len(prompts), 2))
        with ThreadPoolExecutor(count) as pool:
            shares = [(number, distinct[number::count]) for number in range(count) if distinct[number::count]]
            asked = [pool.submit(self._ask, number, share) for number, share in shares]
            for (_, share), found in zip(shares, asked, strict=True):
                for prompt, p in zip(share, found.result(), strict=True):
                    result[places[prompt]] = p
                if progress:
                    progress(sum(len(places[prompt]) for prompt in share))
        return result

    def reusing_prefixes(self) -> AbstractContextManager[None]:
        """The servers remember prefixes by themselves, or not at all."""
        return nullcontext()

    def _ask(self, number: int, share: list[JudgmentPrompt]) -> NDArray[np.float64]:
        """Asks server ``number``, then those behind it."""
        for engine in (*self._engines[number:], *self._engines[:number]):
            try:
                return engine.label_probabilities(share)
            except EngineError as e:
                failed = e
                _logger.warning("%s Trying another.", e)
        raise failed
