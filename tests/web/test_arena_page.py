"""The arena in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from score_server import ScoreEngine, app_on, arena_app_on, listening
from windows import PHONE, Open

from selfjudge.serving.settings import ServeSettings
from selfjudge.templates.chat import ChatEncoder

ANSWERS = {"weak": "score 3", "strong": "<b>score</b> 8"}


@pytest.fixture
def database(tmp_path: Path) -> str:
    return str(tmp_path / "votes.db")


@pytest.fixture
def served(world_chat: ChatEncoder, database: str) -> Iterator[str]:
    settings = ServeSettings(max_new_tokens=8)
    with listening(arena_app_on(ScoreEngine(world_chat), database, ANSWERS, settings)) as (url, _):
        yield f"{url}/#arena"


def draw(page: Any) -> None:
    page.locator("#arena form").wait_for()
    page.locator("#arena").get_by_label("Prompt").fill("Name a fox.")
    page.get_by_role("button", name="Draw a pair").click()
    page.locator("#arena .status", has_text="Which is better?").wait_for()


def test_votes_by_key_reveal_the_models_and_count(served: str, page_at: Open) -> None:
    with page_at(served) as page:
        draw(page)
        for n, (key, side) in enumerate([("ArrowLeft", "A"), ("ArrowRight", "B"), ("t", "a tie")], 1):
            shown = page.locator("#arena .card").all_inner_texts()
            assert sorted(text.split("\n")[0] for text in shown) == ["A", "B"]
            assert not any(name in page.locator("#arena .result").inner_text() for name in ANSWERS)
            page.keyboard.press(key)
            page.locator("#arena .status", has_text=f"You voted for {side};").wait_for()
            for card in page.locator("#arena .card").all():
                title, _, answer = card.inner_text().partition("\n")
                assert ANSWERS[title[3:]] == answer.strip()
            page.locator("#wins", has_text=f"{int(n == 3)} tie").wait_for()
            # The button to go on has the focus: Enter draws the next pair.
            page.keyboard.press("Enter")
            page.locator("#arena .status", has_text="Which is better?").wait_for()
        assert "% of 2 votes for a side; 95 % interval" in page.locator("#agreement").inner_text()


def test_letters_typed_into_the_prompt_are_no_votes(served: str, page_at: Open) -> None:
    with page_at(served) as page:
        draw(page)
        page.locator("#arena").get_by_label("Prompt").fill("")
        page.locator("#arena").get_by_label("Prompt").press_sequentially("tT")
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(200)
        assert page.locator("#arena .status").inner_text() == "Which is better?"


def test_votes_by_button_and_the_file_of_preferences(served: str, page_at: Open) -> None:
    with page_at(served, viewport=PHONE) as page:
        draw(page)
        first = page.locator("#arena .card p").first.inner_text()
        page.get_by_role("button", name="A is better").click()
        page.locator("#arena .status", has_text="You voted for A").wait_for()
        with page.expect_download() as caught:
            page.get_by_role("button", name="Save the votes").click()
        assert caught.value.suggested_filename == "votes.jsonl"
        (row,) = Path(caught.value.path()).read_text().splitlines()
        assert json.loads(row)["chosen"][0]["content"] == first
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


def test_what_others_vote_is_shown_live(served: str, page_at: Open) -> None:
    with page_at(served) as page:
        page.locator("#agreement", has_text="Nobody").wait_for()
        code = """async () => {
            const post = (path, body) => fetch(path, {method: "POST", body: JSON.stringify(body),
                headers: {"Content-Type": "application/json"}}).then(r => r.json());
            const pair = await post("/v1/arena/pairs", {prompt: "Name a fox."});
            await post("/v1/arena/votes", {pair: pair.id, vote: "A"});
        }"""
        page.evaluate(code)
        page.locator("#agreement", has_text="of 1 vote for a side").wait_for()


def test_a_closed_arena_says_what_it_needs(world_chat: ChatEncoder, page_at: Open) -> None:
    with listening(app_on(ScoreEngine(world_chat))) as (url, _), page_at(f"{url}/#arena") as page:
        page.locator("#arena-what", has_text="needs two models").wait_for()
        assert page.locator("#arena form").is_hidden()
        assert page.locator("#tally").is_hidden()
