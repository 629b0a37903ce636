"""Several servers of one model: the work is shared out, and a server that fails costs no answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openai")

from selfjudge.engines.base import SamplingParams
from selfjudge.engines.openai_servers import OpenAIServers
from selfjudge.errors import EngineError
from selfjudge.recipes.load import load_recipe
from selfjudge.records import Completion
from selfjudge.templates.encode import JudgmentPrompt

PROMPTS = [JudgmentPrompt((i,), (100, 101)) for i in (5, 6, 7, 5, 8, 9)]  # five distinct ones


class Server:
    """Answers with the prompt's id and its own number; waits until ``together`` servers have been asked."""

    def __init__(self, number: int, *, down: bool = False, max_length: int = 64, together: Any = None) -> None:
        self.number, self.down, self.max_length, self.chat = number, down, max_length, None
        self.asked: list[list[int]] = []
        self.together = together

    async def answer(self, ids: list[int], progress: Callable[[int], None]) -> None:
        self.asked.append(ids)
        if self.together:
            await asyncio.wait_for(self.together.wait(), timeout=20)
        progress(1)
        if self.down:
            raise EngineError(f"The server {self.number} is down.")
        progress(len(ids) - 1)

    async def label_probabilities_async(self, prompts: Sequence[JudgmentPrompt], progress: Any) -> Any:
        await self.answer([p.token_ids[0] for p in prompts], progress)
        return np.array([[p.token_ids[0], self.number] for p in prompts], dtype=float)

    async def sample_async(self, prompts: Any, params: SamplingParams, progress: Any, drawn: Any) -> Any:
        found = [
            [Completion(ids=(*p, self.number, params.prompt_seed(i), j), text="", finish_reason="stop", logprobs=None)
             for j in range(params.n)]
            for i, p in enumerate(prompts)
        ]  # fmt: skip
        for i, j in [(i, j) for i in range(len(prompts)) for j in range(params.n)] if drawn else ():
            drawn(i, j, found[i][j])
        await self.answer([p[0] for p in prompts], progress)
        return found


def test_shares_go_out_at_once_and_come_back_in_order() -> None:
    barrier = asyncio.Barrier(2)
    servers = [Server(0, together=barrier), Server(1, together=barrier, max_length=32)]
    judge, done = OpenAIServers(servers), []  # type: ignore[arg-type,var-annotated]
    found = judge.label_probabilities(PROMPTS, done.append)
    assert [s.asked for s in servers] == [[[5, 7, 9]], [[6, 8]]]  # equal prompts once
    assert found.tolist() == [[5, 0], [6, 1], [7, 0], [5, 0], [8, 1], [9, 0]]
    assert sum(done) == 6
    assert judge.max_length == 32


def test_processes_begin_with_different_servers() -> None:
    servers = [Server(i) for i in range(3)]
    OpenAIServers(servers, first=4).label_probabilities(PROMPTS[:1])  # type: ignore[arg-type]
    assert [s.asked for s in servers] == [[], [[5]], []]
    assert OpenAIServers(servers).label_probabilities([]).shape == (0, 2)  # type: ignore[arg-type]


def test_the_share_of_a_server_that_fails_goes_to_the_next() -> None:
    servers = [Server(0, down=True), Server(1), Server(2)]
    found = OpenAIServers(servers).label_probabilities(PROMPTS)  # type: ignore[arg-type]
    assert found[:, 0].tolist() == [5, 6, 7, 5, 8, 9]
    assert sorted(servers[1].asked) == [[5, 8], [6, 9]]
    last = [Server(0), Server(1, down=True)]
    assert OpenAIServers(last).label_probabilities(PROMPTS)[:, 1].tolist() == [0] * 6  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="is down"):
        OpenAIServers([Server(0, down=True), Server(1, down=True)]).label_probabilities(PROMPTS)  # type: ignore[arg-type]


def test_samples_are_shared_out_too_under_the_seeds_of_one_server() -> None:
    servers, done = [Server(0), Server(1, down=True)], []  # type: ignore[var-annotated]
    told: dict[tuple[int, int], Completion] = {}
    prompts = [[5], [6], [7]]
    for places in (None, (4, 8, 2)):
        params = SamplingParams(n=2, seed=3, places=places)
        found = OpenAIServers(servers).sample(  # type: ignore[arg-type]
            prompts, params, done.append, lambda i, j, one: told.__setitem__((i, j), one)
        )
        expected = [[(*p, 0, params.prompt_seed(i), j) for j in range(2)] for i, p in enumerate(prompts)]
        assert [[one.ids for one in samples] for samples in found] == expected
        assert {place: one.ids for place, one in told.items()} == {
            (i, j): expected[i][j] for i in range(3) for j in range(2)
        }
    assert sorted(servers[1].asked) == [[6], [6]]
    assert (sum(done), min(done)) == (6, 1)  # what the server finished that then failed does not count twice
    assert OpenAIServers(servers).sample([], SamplingParams()) == []  # type: ignore[arg-type]


def test_a_recipe_may_name_several() -> None:
    judge = ["self_training.judge.kind=external", "self_training.judge.model=x"]
    recipe = load_recipe("demo", [*judge, "self_training.judge.url=[http://a/v1, http://b/v1]"])
    assert recipe.self_training.judge.url == ["http://a/v1", "http://b/v1"]
