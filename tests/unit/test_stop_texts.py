"""What a stop text leaves of a candidate, and what is told of how it ended."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from fastapi.testclient import TestClient
from score_server import AnswerEngine, app_on, chat_body

from selfjudge.records import Completion
from selfjudge.serving.contest import cut
from selfjudge.templates.chat import ChatEncoder

TEXT = "one, two; three."


@pytest.mark.parametrize(
    ("stops", "left"),
    [
        ((",", ";"), "one"),  # the earliest in the text, not the first that is named
        ((";", ","), "one"),
        ((";", "two", "."), "one, "),
        (("three", "thr"), "one, two; "),
        (("one", ","), ""),  # the text begins with it
        (("e",), "on"),  # the first of several places
        ((".",), "one, two; three"),
        (("!", ";"), "one, two"),
    ],
)
@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_candidate_ends_before_the_earliest_of_its_stop_texts(
    stops: tuple[str, ...], left: str, reason: Literal["stop", "length"]
) -> None:
    drawn = Completion(ids=(1, 2), text=TEXT, finish_reason=reason)
    assert cut(drawn, stops) == Completion(ids=(1, 2), text=left, finish_reason="stop")


@pytest.mark.parametrize("stops", [(), ("!",), ("Two", "four")])
@pytest.mark.parametrize("reason", ["stop", "length"])
def test_without_a_stop_text_in_it_a_candidate_stays_as_it_is(
    stops: tuple[str, ...], reason: Literal["stop", "length"]
) -> None:
    drawn = Completion(ids=(1, 2), text=TEXT, finish_reason=reason)
    assert cut(drawn, stops) == drawn


class Endless(AnswerEngine):
    """Its answer is as long as it may be."""

    def _completion(self, score: int) -> Completion:
        return super()._completion(score).model_copy(update={"finish_reason": "length"})


@pytest.mark.parametrize(
    ("stop", "left", "reason"),
    [(None, TEXT, "length"), ("!", TEXT, "length"), (["three", ","], "one", "stop"), ("one", "", "stop")],
)
def test_an_answer_cut_at_a_stop_text_has_stopped(world_chat: ChatEncoder, stop: Any, left: str, reason: str) -> None:
    with TestClient(app_on(Endless(world_chat, TEXT))) as client:
        for candidates in (1, 2):
            reply = client.post("/v1/chat/completions", json=chat_body(stop=stop, n_candidates=candidates)).json()
            (choice,) = reply["choices"]
            assert (choice["message"]["content"], choice["finish_reason"]) == (left, reason)
