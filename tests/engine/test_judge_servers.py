"""Several servers of one judge: the work is shared out, and a server that fails costs no verdict."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openai")

from selfjudge.engines.openai_servers import JudgeServers
from selfjudge.errors import EngineError
from selfjudge.recipes.load import load_recipe
from selfjudge.templates.encode import JudgmentPrompt

PROMPTS = [JudgmentPrompt((i,), (100, 101)) for i in (5, 6, 7, 5, 8, 9)]  # five distinct ones


class Server:
    """Answers with the prompt's id and its own number; waits until ``together`` servers have been asked."""

    def __init__(self, number: int, *, down: bool = False, max_length: int = 64, together: Any = None) -> None:
        self.number, self.down, self.max_length, self.chat = number, down, max_length, None
        self.asked: list[list[int]] = []
        self.together = together

    def label_probabilities(self, prompts: Sequence[JudgmentPrompt]) -> Any:
        self.asked.append([p.token_ids[0] for p in prompts])
        if self.together:
            self.together.wait(timeout=20)
        if self.down:
            raise EngineError(f"The server {self.number} is down.")
        return np.array([[p.token_ids[0], self.number] for p in prompts], dtype=float)


def test_shares_go_out_at_once_and_come_back_in_order() -> None:
    barrier = threading.Barrier(2)
    servers = [Server(0, together=barrier), Server(1, together=barrier, max_length=32)]
    judge, done = JudgeServers(servers), []  # type: ignore[arg-type,var-annotated]
    found = judge.label_probabilities(PROMPTS, done.append)
    assert [s.asked for s in servers] == [[[5, 7, 9]], [[6, 8]]]  # equal prompts once
    assert found.tolist() == [[5, 0], [6, 1], [7, 0], [5, 0], [8, 1], [9, 0]]
    assert sum(done) == 6
    assert judge.max_length == 32


def test_processes_begin_with_different_servers() -> None:
    servers = [Server(i) for i in range(3)]
    JudgeServers(servers, first=4).label_probabilities(PROMPTS[:1])  # type: ignore[arg-type]
    assert [s.asked for s in servers] == [[], [[5]], []]
    assert JudgeServers(servers).label_probabilities([]).shape == (0, 2)  # type: ignore[arg-type]


def test_the_share_of_a_server_that_fails_goes_to_the_next() -> None:
    servers = [Server(0, down=True), Server(1), Server(2)]
    found = JudgeServers(servers).label_probabilities(PROMPTS)  # type: ignore[arg-type]
    assert found[:, 0].tolist() == [5, 6, 7, 5, 8, 9]
    assert sorted(servers[1].asked) == [[5, 8], [6, 9]]
    last = [Server(0), Server(1, down=True)]
    assert JudgeServers(last).label_probabilities(PROMPTS)[:, 1].tolist() == [0] * 6  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="is down"):
        JudgeServers([Server(0, down=True), Server(1, down=True)]).label_probabilities(PROMPTS)  # type: ignore[arg-type]


def test_a_recipe_may_name_several() -> None:
    judge = ["self_training.judge.kind=external", "self_training.judge.model=x"]
    recipe = load_recipe("demo", [*judge, "self_training.judge.url=[http://a/v1, http://b/v1]"])
    assert recipe.self_training.judge.url == ["http://a/v1", "http://b/v1"]
