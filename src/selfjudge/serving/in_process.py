"""A model in this process: one thread owns it, and the requests of many clients share its batches.

While the engine works, what arrives waits; then all that goes together goes as one call. Between two calls there is a
moment in which those just answered can ask for their next round, or their next answer: clients that take turns would
else stay two half batches for ever.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from selfjudge.engines.base import Engine, SamplingParams
from selfjudge.errors import DataError
from selfjudge.judge import Judge
from selfjudge.records import Comparison, Completion
from selfjudge.serving.backend import Judged, Told
from selfjudge.serving.metrics import CALLS
from selfjudge.templates.chat import ChatEncoder

_QUIET = 0.002, 0.01
"""A call begins when nobody new has asked for so many seconds, or for this part of what it will take, if longer."""
_PATIENCE = 0.1
"""It is put off no longer than for this part of what it will take."""
_ROUNDS = 8
"""Calls of the judge in a row while samples wait. Enough for tournaments of 256, so that those under way are finished
first and their clients' next requests join the samples that wait."""

Work = Callable[[list[Any]], list[Any]]
"""Takes the items of many jobs and returns a result, or the error of one job, for each."""


@dataclass(frozen=True, eq=False)
class _Job:
    """An item of work; jobs with equal keys share a call."""

    kind: str
    key: Hashable
    work: Work
    item: Any
    answer: asyncio.Future[Any]


class InProcessBackend:
    """An engine behind a queue. What has not been started is dropped when its caller is cancelled; a call of the
    engine that runs is not broken off.
    """

    def __init__(self, policy: Engine, judge: Judge, chat: ChatEncoder) -> None:
        """Takes the policy's engine, and the judge on the same weights or on others."""
        self.policy = policy
        self.judge = judge
        self.chat = chat
        self._waiting: list[_Job] = []
        self._arrived = asyncio.Event()
        self._seconds: dict[str, float] = {}
        self._judged = 0

    @property
    def max_length(self) -> int:
        """The policy's context in tokens."""
        return self.policy.max_length

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Starts the thread; at the end waits for the call that runs."""
        # The weights do not change while they are served, so prefixes can be kept all the time.
        with ThreadPoolExecutor(1, "engine") as thread, self.judge.engine.reusing_prefixes():
            dispatcher = asyncio.create_task(self._dispatch(thread))
            try:
                yield
            finally:
                dispatcher.cancel()

    async def check(self) -> None:
        """A model that is loaded is ready."""

    async def sample(
        self, prompt: Sequence[int], params: SamplingParams, *, repeatable: bool, drawn: Told | None = None
    ) -> list[Completion]:
        """Draws together with others of equal parameters; by a seed to keep to, in a call of its own.

        An engine draws by the seed and the prompt's place in the call, and the place depends on who else asks.
        """
        return await self.sample_from(self.policy, prompt, params, repeatable=repeatable, drawn=drawn)

    async def sample_from(
        self,
        engine: Engine,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        repeatable: bool,
        drawn: Told | None = None,
    ) -> list[Completion]:
        """As :meth:`sample`, from another engine that this backend's thread owns as well."""
        told = drawn and _on_this_loop(drawn)
        shared = params if repeatable else replace(params, seed=0)
        key = object() if repeatable else (id(engine), shared)
        draw = partial(_sample if repeatable else _sample_anyhow, engine, shared)
        completions: list[Completion] = await self._submit("sample", key, draw, (prompt, told))
        return completions

    async def verdicts(self, comparisons: Sequence[Comparison]) -> Judged:
        """Judges together with all other tournaments that wait for verdicts."""
        judged: Judged = await self._submit("judge", "judge", self._judge, comparisons)
        return judged

    async def _submit(self, kind: str, key: Hashable, work: Work, item: Any) -> Any:
        job = _Job(kind, key, work, item, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._arrived.set()
        return await job.answer

    async def _dispatch(self, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            await self._gather()
            if jobs := self._take():
                started = time.monotonic()
                results = await loop.run_in_executor(thread, _run, jobs)
                self._seconds[jobs[0].kind] = time.monotonic() - started
                for job, result in zip(jobs, results, strict=True):
                    _settle(job.answer, result)

    async def _gather(self) -> None:
        """Waits for those who ask at once."""
        started, known = time.monotonic(), 0
        while first := self._first():
            # What it will take is about what the last call of its kind took.
            expected = self._seconds.get(first.kind, 0.0)
            late = time.monotonic() - started > _PATIENCE * expected
            if len(self._waiting) <= known or (known and late):
                return
            known = len(self._waiting)
            await asyncio.sleep(max(_QUIET[0], _QUIET[1] * expected))

    def _first(self) -> _Job | None:
        """Returns the job that goes next, after forgetting those that were given up."""
        self._waiting = [job for job in self._waiting if not job.answer.done()]
        judging = (job for job in self._waiting if job.kind == "judge")
        oldest = self._waiting[0] if self._waiting else None
        return next(judging, oldest) if self._judged < _ROUNDS else oldest

    def _take(self) -> list[_Job]:
        """Takes the job that goes next, and all that go with it."""
        first = self._first()
        if first is None:
            self._arrived.clear()
            return []
        self._judged = self._judged + 1 if first.kind == "judge" else 0
        taken = [job for job in self._waiting if job.key == first.key]
        self._waiting = [job for job in self._waiting if job.key != first.key]
        return taken

    def _judge(self, requests: list[Sequence[Comparison]]) -> list[Judged | DataError]:
        """Judges the comparisons of all requests; one that is too long is the error of its own request only."""
        asked = [self._questions(comparisons) for comparisons in requests]
        good = [questions for questions in asked if not isinstance(questions, DataError)]
        verdicts = iter(self.judge.verdicts([question for questions in good for question in questions]))
        results: list[Judged | DataError] = []
        for comparisons, questions in zip(requests, asked, strict=True):
            if isinstance(questions, DataError):
                results.append(questions)
            else:
                tokens = sum(len(question.prompt.token_ids) for question in questions)
                results.append(Judged([next(verdicts) for _ in comparisons], tokens))
        return results

    def _questions(self, comparisons: Sequence[Comparison]) -> Any:
        try:
            return self.judge.questions(comparisons)
        except DataError as e:
            return e


_Ask = tuple[Sequence[int], Told | None]
"""A prompt, and who is told of its completions."""


def _on_this_loop(drawn: Told) -> Told:
    """Returns what an engine's thread may call."""
    loop = asyncio.get_running_loop()
    return lambda place, completion: loop.call_soon_threadsafe(drawn, place, completion)


def _sample(engine: Engine, params: SamplingParams, asked: list[_Ask]) -> list[list[Completion]]:
    prompts = [prompt for prompt, _ in asked]
    if not any(told for _, told in asked):
        return engine.sample(prompts, params)

    def drawn(prompt: int, place: int, completion: Completion) -> None:
        if told := asked[prompt][1]:
            told(place, completion)

    return engine.sample(prompts, params, drawn=drawn)


def _sample_anyhow(engine: Engine, params: SamplingParams, asked: list[_Ask]) -> list[list[Completion]]:
    return _sample(engine, replace(params, seed=random.getrandbits(31)), asked)


def _run(jobs: list[_Job]) -> list[Any]:
    """Runs jobs of one key, in the engine's thread. If they fail together each runs alone, to fail by itself only."""
    CALLS.labels(jobs[0].kind).observe(len(jobs))
    try:
        results = jobs[0].work([job.item for job in jobs])
        return [result for _, result in zip(jobs, results, strict=True)]
    except Exception as e:  # whatever an engine raises is told to those who asked
        return [e] if len(jobs) == 1 else [_run([job])[0] for job in jobs]


def _settle(answer: asyncio.Future[Any], result: Any) -> None:
    if answer.done():  # given up meanwhile
        return
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)
