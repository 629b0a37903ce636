"""One prompt's way through a server: candidates are drawn, a tournament is played, the placing is the answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from selfjudge.engines.base import SamplingParams
from selfjudge.errors import DataError
from selfjudge.records import Comparison, Completion, Message
from selfjudge.serving.backend import Backend
from selfjudge.serving.errors import ApiError
from selfjudge.serving.metrics import CANDIDATES, JUDGE_FAILURES, MATCHES, count_judgments
from selfjudge.serving.settings import OnJudgeFailure
from selfjudge.tournament import RunningBracket

Report = Callable[[dict[str, Any]], None]
"""Called with what has just happened: ``candidate``, the place of one just drawn, with its ``text``; ``drawn``,
the texts of all, and where some have no answer ``left_out``, their places; ``pairings`` of a round that begins;
``matches`` that have just been judged."""

_FAILURE = "Judging failed before the tournament was over"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What is asked for one prompt.

    Attributes:
        prompt: as the judge sees it.
        ids: as the policy sees it.
        params: how candidates are drawn; ``seed`` draws the bracket as well.
        repeatable: whether the request named the seed.
        stops: texts at the first of which a candidate is cut.
        judged: False to take the candidates in the order drawn.
        streamed: whether the client watches: candidates and matches are then reported one by one.
    """

    prompt: tuple[Message, ...]
    ids: tuple[int, ...]
    params: SamplingParams
    repeatable: bool
    stops: tuple[str, ...]
    judged: bool
    streamed: bool = False


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        candidates: as drawn.
        prompt_tokens: of the prompt and of all judgment prompts.
        completion_tokens: of all candidates.
        bracket: the tournament, where one was played; not finished where it was broken off.
        failure: why it was broken off.
    """

    candidates: list[Completion]
    prompt_tokens: int
    completion_tokens: int
    bracket: RunningBracket | None = None
    failure: str | None = None

    @property
    def placing(self) -> tuple[int, ...]:
        """The candidates, the best first; without a tournament in the order drawn."""
        return self.bracket.placing() if self.bracket else tuple(range(len(self.candidates)))


async def hold(backend: Backend, task: Task, on_judge_failure: OnJudgeFailure, report: Report) -> Outcome:
    """Draws and judges the candidates of a prompt.

    Raises:
        ApiError: 503, if judging fails and that is an error.
        DataError: if two candidates do not fit the judge's context together.
        EngineError: if drawing fails.
    """

    def tell(place: int, completion: Completion) -> None:
        report({"candidate": place, "text": cut(completion, task.stops).text})

    told = tell if task.streamed else None
    drawn = await backend.sample(task.ids, task.params, repeatable=task.repeatable, drawn=told)
    CANDIDATES.inc(len(drawn))
    candidates = [cut(completion, task.stops) for completion in drawn]
    outcome = Outcome(candidates, len(task.ids), sum(len(completion.ids) for completion in drawn))
    left_out = [place for place, candidate in enumerate(candidates) if candidate.answer is None]
    report({"drawn": [candidate.text for candidate in candidates], **({"left_out": left_out} if left_out else {})})
    if task.judged:
        outcome.bracket = RunningBracket(task.prompt, [c.answer for c in candidates], task.params.seed)
        await _play(backend, task, outcome, outcome.bracket, on_judge_failure, report)
    return outcome


async def _play(
    backend: Backend,
    task: Task,
    outcome: Outcome,
    bracket: RunningBracket,
    on_judge_failure: OnJudgeFailure,
    report: Report,
) -> None:
    try:
        while not bracket.finished:
            report({"pairings": bracket.state.pairings()})
            await _play_round(backend, outcome, bracket, report, one_by_one=task.streamed)
    except DataError:
        raise
    except Exception as e:  # whatever it is, the tournament has no winner
        JUDGE_FAILURES.inc()
        _logger.error(_FAILURE, exc_info=e)
        if on_judge_failure == "error":
            raise ApiError(503, f"{_FAILURE}: try again later.", "judging_failed") from e
        outcome.failure = f"{_FAILURE}."


async def _play_round(
    backend: Backend, outcome: Outcome, bracket: RunningBracket, report: Report, *, one_by_one: bool
) -> None:
    """Judges all matches of a round at once: as one call of the backend, or each as its own."""
    round_ = list(enumerate(bracket.comparisons()))

    async def judge(some: Sequence[tuple[int, Comparison]]) -> None:
        judged = await backend.verdicts([comparison for _, comparison in some])
        matches = [bracket.decide(place, v) for (place, _), v in zip(some, judged.verdicts, strict=True)]
        MATCHES.inc(len(matches))
        count_judgments(judged.verdicts)
        outcome.prompt_tokens += judged.tokens
        report({"matches": [match.model_dump() for match in matches]})

    if not one_by_one:
        await judge(round_)
        return
    try:
        async with asyncio.TaskGroup() as group:
            for match in round_:
                group.create_task(judge([match]))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures.exceptions[0].__cause__


def cut(completion: Completion, stops: tuple[str, ...]) -> Completion:
    """Returns a completion without what follows the first stop text; the text itself goes as well.

    Stop texts are looked for in the answer, not in a thought before it.
    """
    found = [place for place in map(completion.text.find, stops) if place >= 0]
    if not found:
        return completion
    return completion.model_copy(update={"text": completion.text[: min(found)], "finish_reason": "stop"})
