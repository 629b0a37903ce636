"""What answers and judges behind a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from selfjudge.engines.base import SamplingParams
from selfjudge.judge import Judge
from selfjudge.records import Comparison, Completion, Verdict
from selfjudge.templates.chat import ChatEncoder

Told = Callable[[int, Completion], object]
"""Called with a completion that has just ended, after its place among the prompt's.

Where drawing is repeated (on another server, after a failure) it comes again, and the last stands.
"""


class Judged(NamedTuple):
    """Verdicts, and the tokens of all judgment prompts that were read for them."""

    verdicts: list[Verdict]
    tokens: int


class Policy(Protocol):
    """A model that candidates are drawn from. A call that is cancelled stops what can be stopped.

    ``chat`` encodes for it.
    """

    chat: ChatEncoder

    @property
    def max_length(self) -> int:
        """The most tokens, prompt and completion together, that the policy can take."""
        ...

    def running(self) -> AbstractAsyncContextManager[None]:
        """Within it, on one event loop, it can be asked."""
        ...

    async def sample(
        self, prompt: Sequence[int], params: SamplingParams, *, repeatable: bool, drawn: Told | None = None
    ) -> list[Completion]:
        """Returns ``params.n`` completions of a prompt (token ids).

        Args:
            prompt: token ids.
            params: how to draw.
            repeatable: False if ``params.seed`` need not be kept to.
            drawn: told of each completion, on the event loop, before all are returned.

        Raises:
            EngineError: if the model cannot be reached or fails.
        """
        ...


class Backend(Policy, Protocol):
    """A policy and a judge, which encodes and measures pairs; it is put to work through :meth:`verdicts`."""

    judge: Judge

    async def check(self) -> None:
        """Raises EngineError if it could not answer now."""
        ...

    async def verdicts(self, comparisons: Sequence[Comparison]) -> Judged:
        """Returns one verdict per comparison, in their order.

        Raises:
            DataError: if a judgment prompt is longer than the judge's context.
            EngineError: if the judge cannot be reached or fails.
        """
        ...


class NamedBackend(NamedTuple):
    """A backend, and the name under which clients know its model."""

    name: str
    backend: Backend
