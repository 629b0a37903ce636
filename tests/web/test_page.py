"""The page in a real browser, before a real server process with the small world's model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from serve_process import serving
from windows import PHONE, Open

from selfjudge.templates.template import SETS

PRINCIPLES = ("brevity", "colour", "order")
WORLD = (SETS / "world" / "overall.txt").read_text()
PROMPT = "Name two things of the sea for Ada."


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    templates = tmp_path_factory.mktemp("principles")
    for principle in PRINCIPLES:
        (templates / f"{principle}.txt").write_text(f"[system]\n{principle}\n{WORLD}")
    with serving("--model", "builtin:world", "--template", templates, "--max-new-tokens", "8") as (url, _):
        yield url.removesuffix("v1")


def text(page: Any, selector: str) -> str:
    return str(page.locator(selector).inner_text())


def overflow(page: Any) -> int:
    """By how much the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def test_a_tournament_from_the_prompt_to_the_winner(served: str, page_at: Open) -> None:
    with page_at(served) as page:
        assert page.title() == "selfjudge"
        page.get_by_label("Prompt").first.fill(PROMPT)
        page.get_by_label("Candidates").fill("5")
        page.get_by_role("button", name="Run").click()
        page.locator("#playground .status", has_text="Done").wait_for()
        assert "5 candidates, 4 matches" in text(page, "#playground .status")
        drawn = page.locator(".candidates li").all_inner_texts()
        assert len(drawn) == 5
        assert page.locator(".round").count() == 3
        # Four matches; with five candidates two rounds have a bye.
        assert page.locator(".match .orders").count() == 4
        assert page.locator(".match", has_text="goes on without a match").count() == 2
        assert page.locator(".match .order").count() == 8
        champion = page.locator(".round").last.locator(".side.won b").inner_text()
        winner = page.locator(".card").first
        assert winner.locator("h3").inner_text() == f"Winner: {champion}"
        assert winner.locator("p").inner_text() == drawn[int(champion.removeprefix("#")) - 1]
        assert page.locator(".card").last.locator("p").inner_text() == drawn[0]


def test_what_a_match_shows_is_what_the_judge_says(served: str, page_at: Open) -> None:
    with page_at(served) as page:
        page.get_by_label("Prompt").first.fill(PROMPT)
        page.get_by_label("Candidates").fill("2")
        with page.expect_response("**/v1/chat/completions") as caught:
            page.get_by_role("button", name="Run").click()
        page.locator("#playground .status", has_text="Done").wait_for()
        (found,) = (line for line in caught.value.text().split("\n\n") if '"placing"' in line)
        verdict = page.evaluate("JSON.parse", found.removeprefix("data: "))["selfjudge"]["matches"][0]
        p = verdict["verdict"]["p"]
        a, b = (f"#{verdict[side] + 1}" for side in "ab")
        shown = [line.replace("\n", " ") for line in page.locator(".match .order").all_inner_texts()]
        assert shown == [
            f"{a} first {a} {p['AB']['A']:.2f}, {b} {p['AB']['B']:.2f}",
            f"{b} first {a} {p['BA']['B']:.2f}, {b} {p['BA']['A']:.2f}",
        ]
        agree = "agree" if verdict["verdict"]["agree"] else "disagree"
        assert f"orders {agree}" in text(page, ".match")


def test_one_candidate_is_shown_without_a_bracket(served: str, page_at: Open) -> None:
    with page_at(served) as page:
        page.get_by_label("Prompt").first.fill(PROMPT)
        page.get_by_label("Temperature").first.fill("0")
        page.get_by_role("button", name="Run").click()
        page.locator("#playground .status", has_text="Done").wait_for()
        assert page.locator(".card").count() == 1
        assert page.locator(".match").count() == 0


def test_the_lens_shows_principles_orders_and_what_an_edit_changes(served: str, page_at: Open) -> None:
    with page_at(f"{served}#lens") as page:
        lens = page.locator("#lens")
        lens.get_by_label("Prompt").fill(PROMPT)
        lens.get_by_label("Response A").fill("coral tide")
        lens.get_by_label("Response B").fill("coral oak")
        with page.expect_response("**/v1/judge") as caught:
            lens.get_by_role("button", name="Judge", exact=True).click()
        first = caught.value.json()["verdicts"][0]
        lens.locator(".status", has_text="The judge").wait_for()
        titles = lens.locator(".card h4").all_inner_texts()
        names = [p["principle"] for p in first["principles"]]
        assert names == list(PRINCIPLES)
        assert [title.split(":")[0] for title in titles] == [*names, "all together"]
        assert lens.locator(".order").count() == 8
        assert lens.locator("ins, del").count() == 0
        for shown, told in zip(lens.locator(".card").all_inner_texts(), [*first["principles"], first], strict=True):
            assert f"Strength for A {told['strength']:.2f};" in shown
            assert f"A {told['p']['AB']['A']:.2f}, B {told['p']['AB']['B']:.2f}" in shown
            assert f"A {told['p']['BA']['B']:.2f}, B {told['p']['BA']['A']:.2f}" in shown
            ab, ba = told["p"]["AB"], told["p"]["BA"]
            # What A and B get when shown first, against when shown second.
            gain = (ab["A"] - ba["B"] + ba["A"] - ab["B"]) / 2
            assert f"{abs(gain):.2f} {'less' if gain < 0 else 'more'} than shown second" in shown

        lens.get_by_label("Response B").fill("coral fox")
        with page.expect_response("**/v1/judge") as caught:
            lens.get_by_role("button", name="Judge", exact=True).click()
        second = caught.value.json()["verdicts"][0]
        lens.get_by_text("Since the verdict before").wait_for()
        assert lens.locator("del").all_inner_texts() == ["oak"]
        assert lens.locator("ins").all_inner_texts() == ["fox"]
        moved = f"strength for A {first['strength']:.2f} → {second['strength']:.2f}"
        assert moved in lens.inner_text()
        assert f"Strength for A {second['strength']:.2f}, was {first['strength']:.2f}" in lens.inner_text()


def test_exchanging_the_responses_mirrors_the_verdict(served: str, page_at: Open) -> None:
    with page_at(f"{served}#lens") as page:
        lens = page.locator("#lens")
        lens.get_by_label("Prompt").fill(PROMPT)
        lens.get_by_label("Response A").fill("coral tide")
        lens.get_by_label("Response B").fill("oak")
        answers = []
        for button in ("Judge", "Exchange A and B, and judge"):
            with page.expect_response("**/v1/judge") as caught:
                lens.get_by_role("button", name=button, exact=True).click()
            answers.append(caught.value.json()["verdicts"][0])
            lens.locator(".status", has_text="The judge").wait_for()
        assert lens.get_by_label("Response A").input_value() == "oak"
        assert answers[0]["strength"] == pytest.approx(1 - answers[1]["strength"])
        lens.get_by_text("The verdict has turned").wait_for()


def test_everything_can_be_done_by_keyboard(served: str, page_at: Open) -> None:
    def press_until(page: Any, label: str) -> None:
        for _ in range(15):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent || document.activeElement.name").strip() == label:
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
                assert outline == "3px", label
                return
        raise AssertionError(f"{label} is not reached")

    with page_at(served) as page:
        press_until(page, "prompt")
        page.keyboard.type(PROMPT)
        press_until(page, "candidates")
        page.keyboard.type("2")
        page.keyboard.press("Control+Enter")
        page.locator("#playground .status", has_text="Done").wait_for()
        page.reload()
        press_until(page, "Judge lens")
        page.keyboard.press("Enter")
        page.locator("#lens").wait_for()
        assert page.locator("#playground").is_hidden()
        assert text(page, "nav a[aria-current]") == "Judge lens"
        for name, typed in (("prompt", PROMPT), ("response_a", "coral"), ("response_b", "oak")):
            press_until(page, name)
            page.keyboard.type(typed)
        press_until(page, "Judge")
        page.keyboard.press("Enter")
        page.locator("#lens .status", has_text="The judge").wait_for()


def test_every_field_has_a_label_and_every_id_is_unique(served: str, page_at: Open) -> None:
    with page_at(served) as page:
        assert page.evaluate(
            "[...document.querySelectorAll('input, textarea, select')].every(f => f.labels.length === 1)"
        )
        assert page.evaluate(
            "(ids => new Set(ids).size === ids.length)([...document.querySelectorAll('[id]')].map(e => e.id))"
        )


def test_nothing_is_wider_than_a_phone(served: str, page_at: Open) -> None:
    with page_at(served, viewport=PHONE) as page:
        page.get_by_label("Prompt").first.fill("x" * 100)
        page.get_by_label("Candidates").fill("3")
        page.get_by_role("button", name="Run").click()
        page.locator("#playground .status", has_text="Done").wait_for()
        assert overflow(page) == 0
        page.get_by_role("link", name="Judge lens").click()
        lens = page.locator("#lens")
        for label in ("Prompt", "Response A", "Response B"):
            lens.get_by_label(label).fill(label[-1] + "x" * 40)
        lens.get_by_role("button", name="Judge", exact=True).click()
        lens.locator(".status", has_text="The judge").wait_for()
        assert overflow(page) == 0
        page.get_by_role("link", name="Arena").click()
        page.locator("#arena-what", has_text="needs two models").wait_for()
        assert overflow(page) == 0
        page.goto(f"{served}docs")
        page.locator(".endpoint").first.wait_for()
        assert overflow(page) == 0


def test_the_page_of_the_api_lists_every_endpoint(served: str, page_at: Open) -> None:
    with page_at(f"{served}docs") as page:
        page.locator(".endpoint").first.wait_for()
        spec = page.evaluate("fetch('openapi.json').then(r => r.json())")
        paths = [f"{method.upper()} {path}" for path, methods in spec["paths"].items() for method in methods]
        assert page.locator(".endpoint h2").all_inner_texts() == paths
        assert "n_candidates" in text(page, ".endpoint:has-text('/v1/chat/completions')")


@pytest.mark.parametrize(
    ("before", "after", "pieces"),
    [
        ("a b c", "a b c", [["same", "a b c"]]),
        ("a b c", "a x c", [["same", "a "], ["gone", "b"], ["new", "x"], ["same", " c"]]),
        ("", "a", [["new", "a"]]),
        ("a", "", [["gone", "a"]]),
        ("", "", []),
        ("a b", "a b b", [["same", "a b"], ["new", " b"]]),
        ("one two three four", "zero two four", [["gone", "one"], ["new", "zero"], ["same", " two"],
                                                 ["gone", " three"], ["same", " four"]]),
        ("a red fox ran", "a blue owl ran", [["same", "a "], ["gone", "red fox"], ["new", "blue owl"],
                                             ["same", " ran"]]),
        ("a\n b", "a\n\nb", [["same", "a"], ["gone", "\n "], ["new", "\n\n"], ["same", "b"]]),
    ],
)  # fmt: skip
def test_the_difference_of_two_texts(served: str, page_at: Open, before: str, after: str, pieces: list[Any]) -> None:
    with page_at(served) as page:
        code = "([a, b]) => import('/static/difference.js').then(m => m.difference(a, b))"
        found = page.evaluate(code, [before, after])
        assert found == pieces


def test_texts_too_long_for_a_table_are_told_as_changed(served: str, page_at: Open) -> None:
    before, after = " ".join(f"a{i}" for i in range(3000)), " ".join(f"b{i}" for i in range(3000))
    with page_at(served) as page:
        code = "([a, b]) => import('/static/difference.js').then(m => m.difference(a, b))"
        assert page.evaluate(code, [f"x {before} y", f"x {after} y"]) == [
            ["same", "x "], ["gone", before], ["new", after], ["same", " y"],
        ]  # fmt: skip
