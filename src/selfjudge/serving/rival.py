"""A second policy to compare with, under the judge of the first.

The two are sampled independently: a request that names no seed gets random numbers of its own. Requests that name the
same seed have the same random numbers, whichever model they ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

from selfjudge.engines.base import Engine, SamplingParams
from selfjudge.records import Completion
from selfjudge.serving.backend import Backend, Policy, Told
from selfjudge.serving.in_process import InProcessBackend
from selfjudge.templates.chat import ChatEncoder


class EngineBeside:
    """Another engine in the process, drawn from on the thread of the first, which must run."""

    def __init__(self, first: InProcessBackend, engine: Engine, chat: ChatEncoder) -> None:
        """Takes the backend with the thread; ``chat`` encodes for ``engine``."""
        self._first, self._engine = first, engine
        self.chat = chat

    @property
    def max_length(self) -> int:
        """The engine's context in tokens."""
        return self._engine.max_length

    def running(self) -> AbstractAsyncContextManager[None]:
        """The thread is the first's."""
        return nullcontext()

    async def sample(
        self, prompt: Sequence[int], params: SamplingParams, *, repeatable: bool, drawn: Told | None = None
    ) -> list[Completion]:
        """Draws as the first does, in calls of this engine's own."""
        return await self._first.sample_from(self._engine, prompt, params, repeatable=repeatable, drawn=drawn)


class JudgedBy:
    """A policy under the judge of another backend: of two models that are compared only the policies differ."""

    def __init__(self, policy: Policy, first: Backend) -> None:
        """Takes the policy, and the backend whose judge judges it."""
        self._policy, self._first = policy, first
        self.chat, self.judge = policy.chat, first.judge
        self.running, self.sample = policy.running, policy.sample
        self.check, self.verdicts = first.check, first.verdicts

    @property
    def max_length(self) -> int:
        """The policy's context in tokens."""
        return self._policy.max_length
