"""What the page does when something goes wrong, and with text that is meant to run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from score_server import DOWN, ScoreEngine, app_on, listening
from windows import Open

from selfjudge.records import Completion
from selfjudge.serving.settings import ServeSettings
from selfjudge.templates.chat import ChatEncoder

HOSTILE = "<script>alert('ran')</script><img src=x onerror=\"alert('ran')\"><b>bold</b>"
FOO = frozenset({"2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"})


class HostileEngine(ScoreEngine):
    def _completion(self, score: int) -> Completion:
        done = super()._completion(score)
        return done.model_copy(update={"text": f"{HOSTILE} score {score}"})


@pytest.fixture
def engine(world_chat: ChatEncoder) -> ScoreEngine:
    return ScoreEngine(world_chat)


def start(page: Any) -> None:
    page.get_by_label("Prompt").first.fill("Name a fox.")
    page.get_by_role("button", name="Run").click()


def sentence(page: Any, section: str = "#playground") -> str:
    error = page.locator(f"{section} .error")
    error.wait_for()
    found = str(error.inner_text())
    assert found.endswith(".")
    assert "\n" not in found
    return found


def test_what_a_model_writes_is_shown_and_not_run(world_chat: ChatEncoder, page_at: Open) -> None:
    with listening(app_on(HostileEngine(world_chat))) as (url, _), page_at(f"{url}/") as page:
        start(page)
        page.locator("#playground .status", has_text="Done").wait_for()
        assert page.locator(".candidates li").first.inner_text() == f"{HOSTILE} score 3"
        assert page.locator(".match .side").first.inner_text().count(HOSTILE) == 1
        assert page.locator(".card p").first.inner_text().startswith(HOSTILE)
        page.get_by_role("link", name="Judge lens").click()
        for label, text in (("Prompt", HOSTILE), ("Response A", HOSTILE), ("Response B", "score 1")):
            page.locator("#lens").get_by_label(label).fill(text)
        page.get_by_role("button", name="Judge", exact=True).click()
        page.locator("#lens .status", has_text="The judge").wait_for()
        page.get_by_role("button", name="Exchange").click()
        page.locator("#lens .change").first.wait_for()
        assert HOSTILE in page.locator("#lens ins").all_inner_texts()
        assert page.locator("main script, main img, .result b:has-text('bold')").count() == 0


def test_the_policy_stops_what_would_be_markup(engine: ScoreEngine, browser: Any) -> None:
    with listening(app_on(engine)) as (url, _):
        page = browser.new_page()
        page.goto(f"{url}/")
        ran = page.evaluate(
            """async () => {
                document.body.insertAdjacentHTML("beforeend", '<img src="x:" onerror="window.ran = true">');
                const inline = document.createElement("script");
                inline.textContent = "window.ran = true";
                document.body.append(inline);
                await new Promise((done) => setTimeout(done, 200));
                return window.ran === true;
            }"""
        )
        page.close()
    assert ran is False


def test_a_server_that_has_gone_is_told_in_a_sentence(engine: ScoreEngine, page_at: Open) -> None:
    with listening(app_on(engine)) as (url, server):
        opened = page_at(f"{url}/", faults=True)
        page = opened.__enter__()
        page.locator("#model", has_text="scores").wait_for()
        server.should_exit = True
    start(page)
    assert "does not answer" in sentence(page)
    assert page.get_by_role("button", name="Run").is_enabled()
    opened.__exit__(None, None, None)


def test_a_busy_server_says_when_to_come_again(engine: ScoreEngine, page_at: Open) -> None:
    settings = ServeSettings(n=4, max_new_tokens=8, max_requests=1)
    engine.going.clear()
    with listening(app_on(engine, settings)) as (url, _), page_at(f"{url}/", faults=True) as page:
        start(page)
        page.locator("#playground .status", has_text="Drawing").wait_for()
        assert engine.started.wait(10)
        page.get_by_role("link", name="Judge lens").click()
        for label in ("Prompt", "Response A", "Response B"):
            page.locator("#lens").get_by_label(label).fill("x")
        page.get_by_role("button", name="Judge", exact=True).click()
        assert sentence(page, "#lens") == "The server is busy: try again in 1 s."
        engine.going.set()
        page.get_by_role("link", name="Playground").click()
        page.locator("#playground .status", has_text="Done").wait_for()
        page.get_by_role("link", name="Judge lens").click()
        page.get_by_role("button", name="Judge", exact=True).click()
        page.locator("#lens .status", has_text="The judge").wait_for()
        assert page.locator("#lens .error").is_hidden()


def test_a_refused_request_is_told_in_the_servers_words(engine: ScoreEngine, page_at: Open) -> None:
    with listening(app_on(engine)) as (url, _), page_at(f"{url}/", faults=True) as page:
        page.get_by_label("Candidates").fill("65")
        start(page)
        assert sentence(page) == "65 candidates are too many: this server draws at most 64 for a request."


def test_judging_that_fails_midway_is_told(engine: ScoreEngine, page_at: Open) -> None:
    engine.judge_error, engine.judge_error_from = DOWN, 1
    with listening(app_on(engine)) as (url, _), page_at(f"{url}/") as page:
        start(page)
        assert "Judging failed" in sentence(page)
        # What was drawn and judged stays; nobody is called the winner.
        assert page.locator(".candidates li").count() == 8
        assert page.locator(".match .orders").count() == 4
        assert page.locator(".card").count() == 0


def test_the_best_so_far_is_called_that(engine: ScoreEngine, page_at: Open) -> None:
    engine.judge_error, engine.judge_error_from = DOWN, 1
    settings = ServeSettings(max_new_tokens=8, on_judge_failure="best-so-far")
    with listening(app_on(engine, settings)) as (url, _), page_at(f"{url}/") as page:
        start(page)
        assert "Judging failed" in sentence(page)
        assert page.locator(".card h3").first.inner_text().startswith("Best so far: #")


def test_stopping_gives_the_form_back(engine: ScoreEngine, page_at: Open) -> None:
    engine.going.clear()
    with listening(app_on(engine)) as (url, _), page_at(f"{url}/") as page:
        start(page)
        assert engine.started.wait(10)
        assert page.get_by_role("button", name="Run").is_disabled()
        page.get_by_role("button", name="Stop").click()
        page.locator("#playground .status", has_text="Stopped.").wait_for()
        assert page.get_by_role("button", name="Run").is_enabled()
        engine.going.set()


def test_the_bracket_fills_round_by_round(engine: ScoreEngine, page_at: Open) -> None:
    """The engine stands still within the first round: what is drawn and paired is there already."""
    with listening(app_on(engine)) as (url, _), page_at(f"{url}/") as page:
        judged = engine.label_probabilities
        started = engine.started

        def held(*arguments: Any) -> Any:
            engine.going.clear()
            started.set()
            return judged(*arguments)

        engine.label_probabilities = held  # type: ignore[method-assign]
        start(page)
        for matches, filled in ((4, 0), (6, 4), (7, 6)):
            page.locator(".match").nth(matches - 1).wait_for()
            assert (page.locator(".match").count(), page.locator(".match .orders").count()) == (matches, filled)
            assert page.locator(".candidates li").count() == 8
            assert page.locator(".card").count() == 0
            page.locator("#playground .status", has_text="being judged").wait_for()
            while engine.going.is_set():
                page.wait_for_timeout(10)
            engine.going.set()
        page.locator("#playground .status", has_text="Done").wait_for()
        assert page.locator(".match .orders").count() == 7


def test_a_key_is_asked_for_and_kept_for_the_tab_alone(engine: ScoreEngine, page_at: Open) -> None:
    settings = ServeSettings(n=4, max_new_tokens=8, key_hashes=FOO)
    with listening(app_on(engine, settings)) as (url, _), page_at(f"{url}/", faults=True) as page:
        key = page.get_by_label("API key")
        key.wait_for()
        start(page)
        assert "key" in sentence(page)
        key.fill("bar")
        page.get_by_role("button", name="Use this key").click()
        page.locator("#trouble", has_text="key").wait_for()
        key.fill("foo")
        page.get_by_role("button", name="Use this key").click()
        key.wait_for(state="hidden")
        start(page)
        page.locator("#playground .status", has_text="Done").wait_for()
        assert page.evaluate("[localStorage.length, document.cookie, location.href]") == [0, "", f"{url}/"]


def test_a_server_without_keys_shows_no_field_for_one(engine: ScoreEngine, page_at: Open) -> None:
    with listening(app_on(engine)) as (url, _), page_at(f"{url}/") as page:
        page.locator("#model", has_text="scores").wait_for()
        assert page.get_by_label("API key").is_hidden()


@pytest.fixture(autouse=True)
def _going(engine: ScoreEngine) -> Iterator[None]:
    yield
    engine.going.set()


def test_both_orders_are_told_for_the_response_and_not_for_the_label(engine: ScoreEngine, page_at: Open) -> None:
    """The judge gives the larger score 0.9, wherever it is shown: the label A is once the one, once the other."""
    with listening(app_on(engine)) as (url, _), page_at(f"{url}/#lens") as page:
        lens = page.locator("#lens")
        for label, text in (("Prompt", "x"), ("Response A", "score 1"), ("Response B", "score 5")):
            lens.get_by_label(label).fill(text)
        lens.get_by_role("button", name="Judge", exact=True).click()
        lens.locator(".status", has_text="The judge prefers B: strength 0.90, both orders agree.").wait_for()
        shown = [line.replace("\n", " ") for line in lens.locator(".order").all_inner_texts()]
        assert shown == ["A first A 0.10, B 0.90", "B first A 0.10, B 0.90"]
        widths = lens.locator(".bar .b").evaluate_all("parts => parts.map(part => part.style.width)")
        assert widths == ["90%", "90%"]
