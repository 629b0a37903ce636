"""Candidates that come one by one, and two models side by side, in a real browser before engines that are held back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from score_server import MODEL, AnswerEngine, ScoreEngine, ThinkingEngine, app_on, judge_on, listening, scores
from windows import PHONE, Open

from selfjudge.serving.app import create_app
from selfjudge.serving.backend import NamedBackend
from selfjudge.serving.in_process import InProcessBackend
from selfjudge.serving.rival import EngineBeside, JudgedBy
from selfjudge.serving.settings import ServeSettings
from selfjudge.templates.chat import ChatEncoder

SETTINGS = ServeSettings(n=4, max_new_tokens=8)
RIVAL, JUDGE = "another", "the base"
NO_ANSWER = "(no answer: cut off before it began)"


@pytest.fixture
def engine(world_chat: ChatEncoder) -> ScoreEngine:
    return ScoreEngine(world_chat)


@pytest.fixture
def other(world_chat: ChatEncoder) -> AnswerEngine:
    return AnswerEngine(world_chat, "score 14")


@pytest.fixture
def served(engine: ScoreEngine, other: AnswerEngine) -> Iterator[str]:
    backend = InProcessBackend(engine, judge_on(engine, engine.chat), engine.chat)
    rival = NamedBackend(RIVAL, JudgedBy(EngineBeside(backend, other, other.chat), backend))
    with listening(create_app(backend, MODEL, SETTINGS, judge=JUDGE, rival=rival)) as (url, _):
        yield f"{url}/"


def start(page: Any, candidates: int = 4, *, compare: bool = False) -> None:
    page.get_by_label("Prompt").first.fill("Name a fox.")
    page.get_by_label("Candidates").fill(str(candidates))
    if compare:
        page.get_by_label("Compare with").select_option(RIVAL)
    page.get_by_role("button", name="Run").click()


def test_a_candidate_is_shown_before_the_next_is_drawn(engine: ScoreEngine, page_at: Open) -> None:
    engine.permits = threading.Semaphore(0)
    drawn = [f"score {score}" for score in scores(4)]
    with listening(app_on(engine)) as (url, _), page_at(url) as page:
        assert page.get_by_label("Compare with").is_hidden()
        start(page)
        page.locator("#playground > .status", has_text="Drawing 4 candidates").wait_for()
        assert page.locator(".candidates").count() == 0
        for there in (1, 2, 3):
            engine.permits.release()
            page.locator("#playground > .status", has_text=f"{there} of 4 candidates drawn").wait_for()
            items = page.locator(".candidates li")
            # The last ends first; each is shown at its own place and under its own number.
            assert items.all_inner_texts() == drawn[-there:]
            assert items.evaluate_all("all => all.map(one => one.value)") == [4, 3, 2, 1][:there][::-1]
            assert engine.judgments == []
            assert page.locator(".match, .card").count() == 0
        engine.permits.release()
        page.locator("#playground > .status", has_text="Done").wait_for()
        assert page.locator(".candidates li").all_inner_texts() == drawn
        assert page.locator(".card h3").first.inner_text() == "Winner: #3"


def test_stopping_while_candidates_are_drawn(engine: ScoreEngine, page_at: Open) -> None:
    engine.permits = threading.Semaphore(1)
    with listening(app_on(engine)) as (url, _), page_at(url) as page:
        start(page)
        page.locator("#playground > .status", has_text="1 of 4").wait_for()
        page.get_by_role("button", name="Stop").click()
        page.locator("#playground > .status", has_text="Stopped.").wait_for()
        assert page.locator(".candidates li").all_inner_texts() == ["score 1"]
        engine.permits.release(7)  # three for what had begun
        start(page)
        page.locator("#playground > .status", has_text="Done").wait_for()
        assert engine.judgments == [4, 2]  # of the second run alone


def test_two_models_draw_and_judge_side_by_side_and_their_winners_meet(
    served: str, engine: ScoreEngine, page_at: Open
) -> None:
    with page_at(served) as page:
        with page.expect_request("**/v1/judge") as asked:
            start(page, compare=True)
            page.locator("#playground > .status", has_text="Done.").wait_for()
        sides = page.locator(".sides > section")
        assert sides.locator("h3").all_inner_texts() == [f"A: {MODEL}", f"B: {RIVAL}"]
        winners = [sides.nth(i).locator(".card.won p").inner_text() for i in (0, 1)]
        assert winners == [f"score {max(scores(4))}", "score 14"]
        for i in (0, 1):
            assert sides.nth(i).locator(".candidates li").count() == 4
            assert sides.nth(i).locator(".match .orders").count() == 3
            assert "Done: 4 candidates, 3 matches" in sides.nth(i).locator(".progress").inner_text()
        (pair,) = asked.value.post_data_json["pairs"]
        assert (pair["response_a"], pair["response_b"]) == tuple(winners)
        assert pair["prompt"] == [{"role": "user", "content": "Name a fox."}]
        met = page.locator(".result > div > .card").inner_text()
        assert f"The judge prefers B, the winner of {RIVAL}." in met
        assert f"strength 0.90, orders agree; judged by {JUDGE}" in met
        assert met.count("A 0.10, B 0.90") == 2
        boxes = [sides.nth(i).bounding_box() for i in (0, 1)]
        assert boxes[0]["y"] == boxes[1]["y"]
        assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]


def test_each_side_fills_by_itself(served: str, engine: ScoreEngine, other: AnswerEngine, page_at: Open) -> None:
    engine.permits, other.permits = threading.Semaphore(9), threading.Semaphore(0)
    with page_at(served) as page:
        start(page, compare=True)
        sides = page.locator(".sides > section")
        sides.nth(0).locator(".candidates li").nth(3).wait_for()
        assert sides.nth(1).locator(".candidates").count() == 0
        other.permits.release()
        sides.nth(1).locator(".progress", has_text="1 of 4").wait_for()
        page.get_by_role("button", name="Stop").click()
        page.locator("#playground > .status", has_text="Stopped.").wait_for()
        assert sides.nth(1).locator(".progress").inner_text() == "Broken off."
        other.permits.release(3)


def test_equal_winners_are_not_judged(served: str, other: AnswerEngine, page_at: Open) -> None:
    other.answer = f"score {max(scores(4))}"
    with page_at(served) as page:
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        start(page, compare=True)
        page.locator(".result > div > .card", has_text="same text").wait_for()
        page.locator("#playground > .status", has_text="Done.").wait_for()
        assert not any(url.endswith("/v1/judge") for url in requests)


def test_when_one_side_fails_there_is_a_sentence_and_no_verdict(
    served: str, other: AnswerEngine, page_at: Open
) -> None:
    other.sample_error = RuntimeError("broken")
    with page_at(served, faults=True) as page:
        start(page, compare=True)
        page.locator("#playground > .error").wait_for()
        assert page.locator("#playground > .error").inner_text() == "The server failed to answer: its log says why."
        assert page.locator(".sides > section").nth(1).locator(".progress").inner_text() == "Broken off."
        assert page.locator(".result > div > .card").count() == 0
        assert page.get_by_role("button", name="Run").is_enabled()


def test_side_by_side_on_a_phone_and_by_keyboard(served: str, page_at: Open) -> None:
    with page_at(served, viewport=PHONE) as page:
        page.get_by_label("Compare with").wait_for()
        page.get_by_label("Prompt").first.fill("Name a fox.")
        page.get_by_label("Temperature").first.focus()
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowDown")  # the list of models
        assert page.get_by_label("Compare with").input_value() == RIVAL
        page.keyboard.press("Control+Enter")
        page.locator("#playground > .status", has_text="Done.").wait_for()
        first, second = (page.locator(".sides > section").nth(i).bounding_box() for i in (0, 1))
        assert first["y"] + first["height"] <= second["y"]
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


def test_candidates_without_an_answer_take_no_part_and_are_shown_as_such(
    world_chat: ChatEncoder, page_at: Open
) -> None:
    with listening(app_on(ThinkingEngine(world_chat, least=6))) as (url, _), page_at(url) as page:
        start(page, 6)
        page.locator("#playground .status", has_text="Done: 6 candidates, 3 matches").wait_for()
        answers = [f"score {score}" if score >= 6 else NO_ANSWER for score in scores(6)]
        assert answers.count(NO_ANSWER) == 2
        assert page.locator(".candidates li").all_inner_texts() == answers
        assert page.locator(".round").count() == 2
        assert page.locator(".match").count() == 3  # nobody sits out
        assert page.locator(".match", has_text=NO_ANSWER).count() == 0
        assert page.locator(".round h4").last.inner_text() == "Final"
        first, last = page.locator(".card").all()
        assert first.locator("p").inner_text() == "score 13"
        assert last.locator("p").inner_text() == NO_ANSWER  # the first sample


def test_side_by_side_nobody_is_judged_by_what_the_page_says_of_it(world_chat: ChatEncoder, page_at: Open) -> None:
    silent = ThinkingEngine(world_chat, least=99)
    backend = InProcessBackend(engine := ThinkingEngine(world_chat, least=0), judge_on(engine, world_chat), world_chat)
    rival = NamedBackend(RIVAL, JudgedBy(EngineBeside(backend, silent, world_chat), backend))
    app = create_app(backend, MODEL, SETTINGS, rival=rival)
    with listening(app) as (url, _), page_at(url) as page, page.expect_request("**/v1/judge") as asked:
        start(page, compare=True)
    (pair,) = asked.value.post_data_json["pairs"]
    assert (pair["response_a"], pair["response_b"]) == ("score 13", "")
