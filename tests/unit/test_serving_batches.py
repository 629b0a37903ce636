"""Requests of many clients share the calls of one engine, and fail each by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from prometheus_client import REGISTRY
from score_server import ScoreEngine, judge_on

from selfjudge.engines.base import SamplingParams
from selfjudge.errors import DataError
from selfjudge.judge import as_messages
from selfjudge.records import Comparison
from selfjudge.serving.contest import Outcome, Task, hold
from selfjudge.serving.in_process import InProcessBackend
from selfjudge.serving.settings import OnJudgeFailure
from selfjudge.templates.chat import ChatEncoder

PARAMS = SamplingParams(n=8, max_new_tokens=8)


@pytest.fixture
def engine(world_chat: ChatEncoder) -> ScoreEngine:
    return ScoreEngine(world_chat)


def run(engine: ScoreEngine, work: Callable[[InProcessBackend], Awaitable[list[object]]]) -> list[object]:
    backend = InProcessBackend(engine, judge_on(engine, engine.chat), engine.chat)

    async def main() -> list[object]:
        async with backend.running():
            return await work(backend)

    return asyncio.run(main())


def task(params: SamplingParams = PARAMS, *, repeatable: bool = False) -> Task:
    return Task(as_messages("p"), (1, 2), params, repeatable, (), judged=True)


def hold_all(tasks: Sequence[Task]) -> Callable[[InProcessBackend], Awaitable[list[object]]]:
    async def work(backend: InProcessBackend) -> list[object]:
        held = [hold(backend, task, "error", lambda event: None) for task in tasks]
        return list(await asyncio.gather(*held, return_exceptions=True))

    return work


def test_tournaments_of_many_clients_are_one_call_for_samples_and_one_for_each_round(engine: ScoreEngine) -> None:
    outcomes = run(engine, hold_all([task() for _ in range(20)]))
    assert [(n, params.n) for n, params in engine.samples] == [(20, 8)]
    assert engine.judgments == [20 * 2 * matches for matches in (4, 2, 1)]  # both orders of each match
    assert all(isinstance(o, Outcome) and o.candidates[o.placing[0]].text == "score 16" for o in outcomes)


def test_only_equal_parameters_share_a_call_and_a_seed_to_keep_has_its_own(engine: ScoreEngine) -> None:
    cold = SamplingParams(n=8, max_new_tokens=8, temperature=0.5)
    run(engine, hold_all([task(), task(cold), task(), task(repeatable=True), task(cold), task(repeatable=True)]))
    assert [(n, p.temperature) for n, p in engine.samples] == [(2, 1.0), (2, 0.5), (1, 1.0), (1, 1.0)]
    assert [p.seed for _, p in engine.samples[2:]] == [PARAMS.seed] * 2
    assert engine.samples[0][1].seed != engine.samples[1][1].seed


def test_a_pair_that_is_too_long_fails_alone(engine: ScoreEngine) -> None:
    def pair(response: str) -> Comparison:
        return Comparison(id="0", prompt=as_messages("p"), response_a=response, response_b="score 1")

    async def work(backend: InProcessBackend) -> list[object]:
        asked = [backend.verdicts([pair(text)]) for text in ("score 5", "fox " * 400, "score 0")]
        return list(await asyncio.gather(*asked, return_exceptions=True))

    first, long, last = run(engine, work)
    assert isinstance(long, DataError)
    assert (first.verdicts[0].preferred, last.verdicts[0].preferred) == ("A", "B")  # type: ignore[attr-defined]
    assert engine.judgments == [4]


def test_what_fails_together_is_tried_alone(engine: ScoreEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = engine.sample

    def poisoned(prompts: Sequence[Sequence[int]], params: SamplingParams, progress: None = None) -> object:
        if (6, 6) in [tuple(prompt) for prompt in prompts]:
            raise RuntimeError("poison")
        return draw(prompts, params)

    monkeypatch.setattr(engine, "sample", poisoned)

    async def work(backend: InProcessBackend) -> list[object]:
        asked = [backend.sample(prompt, PARAMS, repeatable=False) for prompt in ([1, 2], [6, 6], [3, 4])]
        return list(await asyncio.gather(*asked, return_exceptions=True))

    first, bad, last = run(engine, work)
    assert isinstance(bad, RuntimeError)
    assert len(first) == len(last) == 8  # type: ignore[arg-type]


def test_running_tournaments_are_finished_first_but_samples_do_not_wait_for_ever(engine: ScoreEngine) -> None:
    pair = Comparison(id="0", prompt=as_messages("p"), response_a="score 1", response_b="score 2")

    async def work(backend: InProcessBackend) -> list[object]:
        async def judge_on_and_on() -> None:
            for _ in range(12):
                await backend.verdicts([pair])

        judging = asyncio.create_task(judge_on_and_on())
        await backend.sample([1, 2], PARAMS, repeatable=False)
        before = len(engine.judgments)
        await judging
        return [before]

    assert run(engine, work) == [8]
    assert len(engine.judgments) == 12


def test_clients_that_take_turns_come_together(engine: ScoreEngine) -> None:
    engine.seconds = 0.2

    async def work(backend: InProcessBackend) -> list[object]:
        async def client(delay: float) -> None:
            await asyncio.sleep(delay)  # one begins while the engine works for the other
            for _ in range(3):
                await hold(backend, task(), "error", lambda event: None)

        await asyncio.gather(client(0), client(0.1))
        return []

    run(engine, work)
    assert [n for n, _ in engine.samples] == [1, 2, 2, 1]


def test_an_engine_that_leaves_somebody_out_fails_and_goes_on(
    engine: ScoreEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(backend: InProcessBackend) -> list[object]:
        with monkeypatch.context() as patch:
            patch.setattr(engine, "sample", lambda prompts, params: [])
            asked = backend.sample([1, 2], PARAMS, repeatable=False)
            failed = (await asyncio.gather(asked, return_exceptions=True))[0]
        return [failed, await backend.sample([1, 2], PARAMS, repeatable=False)]

    failed, good = run(engine, work)
    assert isinstance(failed, ValueError)
    assert len(good) == 8  # type: ignore[arg-type]


def counted() -> tuple[float, ...]:
    """Candidates, matches and broken tournaments so far; the counters are those of the whole process."""
    names = ("candidates", "matches", "judge_failures")
    return tuple(REGISTRY.get_sample_value(f"selfjudge_{name}_total") or 0.0 for name in names)


@pytest.mark.parametrize(
    ("broken_from", "expected"),
    [(None, (8, 7, 0)), (1, (8, 4, 1))],  # rounds of 4, 2 and 1 matches; the second fails
)
def test_candidates_matches_and_failures_are_counted(
    engine: ScoreEngine, broken_from: int | None, expected: tuple[int, ...]
) -> None:
    if broken_from is not None:
        engine.judge_error, engine.judge_error_from = RuntimeError("down"), broken_from
    before = counted()

    async def work(backend: InProcessBackend) -> list[object]:
        return [await hold(backend, task(), "best-so-far", lambda event: None)]

    (outcome,) = run(engine, work)
    assert tuple(now - then for now, then in zip(counted(), before, strict=True)) == expected
    assert bool(outcome.failure) is (broken_from is not None)  # type: ignore[attr-defined]


@pytest.mark.parametrize("on_failure", ["error", "best-so-far"])
def test_candidates_that_do_not_fit_the_judge_are_the_clients_error(
    engine: ScoreEngine, on_failure: OnJudgeFailure
) -> None:
    """Whatever the server does when its judge fails: trying again will not help."""
    engine.max_length = 20
    before = counted()

    async def work(backend: InProcessBackend) -> list[object]:
        held = hold(backend, task(), on_failure, lambda event: None)
        return list(await asyncio.gather(held, return_exceptions=True))

    assert isinstance(run(engine, work)[0], DataError)
    assert counted()[2] == before[2]
