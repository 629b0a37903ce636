"""The page of runs in a real browser: a run that was really trained, and others that are written to meanwhile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from run_folders import judged, log, make_run
from score_server import ScoreEngine, app_on, listening
from windows import PHONE, Open

from selfjudge.recipes.load import load_recipe
from selfjudge.serving.runs import RunDirectory
from selfjudge.serving.runs_app import create_runs_app
from selfjudge.serving.settings import ServeSettings
from selfjudge.templates.chat import ChatEncoder
from selfjudge.training.self_training import run_self_training

STEPS = 6
TRAINING = (
    "data.sources.0.limit=60",
    "self_training.rollout.max_new_tokens=8",
    f"self_training.training.max_steps={STEPS}",
    "self_training.training.per_device_train_batch_size=4",
    "self_training.training.logging_steps=1",
    "self_training.training.save_strategy=no",
    "self_training.training.disable_tqdm=true",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "real"
    run_self_training(load_recipe("demo", (*TRAINING, f"self_training.start={tiny_model_folder}")), folder)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def served(root: Path) -> Iterator[str]:
    with listening(create_runs_app(RunDirectory(root), ServeSettings())) as (url, _):
        yield f"{url}/"


def metrics(steps: range, **scale: float) -> list[dict[str, Any]]:
    """A log in which each metric is its scale times the step."""
    return [{"step": s, "loss": 1 / s, **{name: factor * s for name, factor in scale.items()}} for s in steps]


def chart(page: Any, title: str) -> Any:
    return page.locator(".chart", has=page.locator("figcaption b").get_by_text(title, exact=True))


def plot(page: Any, title: str) -> Any:
    return chart(page, title).get_by_role("slider")


def reading(page: Any, title: str) -> str:
    return " ".join(chart(page, title).locator(".reading").inner_text().split())


def corners(page: Any, title: str) -> int:
    """How many points the first curve of a chart has."""
    return len(str(plot(page, title).locator("path").first.get_attribute("d")).split("L"))


def overflow(page: Any) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def test_a_trained_run_is_shown_as_it_was_logged(trained: Path, root: Path, served: str, page_at: Open) -> None:
    shutil.copytree(trained, root / "demo" / "real", ignore=shutil.ignore_patterns("final", "adapter"))
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    pairs = [json.loads(line) for line in (trained / "rollouts.jsonl").read_text().splitlines()]
    with page_at(f"{served}#runs") as page:
        item = page.locator(".runs li")
        item.wait_for()
        assert item.locator(".badge").inner_text() == "finished"
        assert f"train · step {STEPS} · loss " in item.inner_text()
        item.locator("a").click()
        plot(page, "loss").locator("path").wait_for()
        assert page.url == f"{served}#runs/demo/real"
        assert corners(page, "loss") == STEPS
        for title, names in (("loss", ["loss"]), ("response length, tokens",
                             ["rollout/length", "length/chosen", "length/rejected"])):  # fmt: skip
            values = [
                page.evaluate("v => import('/static/chart.js').then(m => m.short(v))", rows[-2][n]) for n in names
            ]
            told = " ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
            assert reading(page, title) == f"step {STEPS} {told}"
        shown = page.locator(".judged")
        assert shown.count() == len(pairs)
        assert shown.first.locator("article p").all_text_contents() == [
            pairs[-1]["response_a"],
            pairs[-1]["response_b"],
        ]
        assert page.locator(".verdicts td").last.inner_text().endswith(f"] of {unequal(pairs)}")
        page.get_by_text("The recipe").click()
        assert page.locator(".recipe pre").inner_text().strip() == (trained / "recipe.yaml").read_text().strip()


def unequal(pairs: list[dict[str, Any]]) -> int:
    """Of how many pairs the judge prefers one, and one is longer."""
    return sum(
        bool(p["verdict"]) and p["verdict"]["preferred"] != "tie" and len(p["response_a"]) != len(p["response_b"])
        for p in pairs
    )


def test_curves_and_pairs_go_on_without_a_reload(root: Path, served: str, page_at: Open) -> None:
    folder = make_run(root / "live", metrics(range(1, 4), kl=0.5))
    log(folder, judged(1, "first", "other"), name="rollouts.jsonl")
    with page_at(f"{served}#runs/live") as page:
        plot(page, "loss").locator("path").wait_for()
        assert (corners(page, "loss"), reading(page, "loss")) == (3, "step 3 loss 0.333")
        page.evaluate("window.same = true")
        page.get_by_text("The recipe").click()
        # Somebody reads a value meanwhile: it stays where it is.
        plot(page, "loss").focus()
        page.keyboard.press("ArrowLeft")
        log(folder, *metrics(range(4, 7), kl=0.5, **{"rewards/accuracies": 0.1}))
        log(folder, judged(4, "second", "other"), name="rollouts.jsonl")
        page.locator(".facts, .run p", has_text="step 6").first.wait_for()
        assert corners(page, "loss") == 6
        assert reading(page, "loss") == "step 2 loss 0.5"
        assert reading(page, "KL to the reference, nats per response") == "step 6 kl 3"
        assert reading(page, "reward accuracy") == "step 6 rewards/accuracies 0.6"
        assert page.locator(".judged article p").first.inner_text() == "second"
        assert page.locator(".recipe details").get_attribute("open") is not None
        assert page.evaluate("document.activeElement.getAttribute('role')") == "slider"
        make_run(folder, status="finished", finished="2026-01-02T04:00:00+00:00", stopped="kl over 2")
        page.locator(".title .badge", has_text="stopped early").wait_for()
        assert "kl over 2." in page.locator(".problem").inner_text()
        assert page.evaluate("window.same")


def test_the_list_goes_on_without_a_reload(root: Path, served: str, page_at: Open) -> None:
    with page_at(f"{served}#runs") as page:
        page.locator("#runs .status", has_text="no run yet").wait_for()
        make_run(root / "one", metrics(range(1, 3)))
        page.locator(".runs li", has_text="step 2").wait_for()
        assert page.locator("#runs .status").inner_text() == ""
        page.locator(".runs a").focus()
        make_run(root / "two", metrics(range(1, 2)))
        (root / "damaged").mkdir()
        (root / "damaged" / "run.json").write_text("{")
        page.locator(".runs li", has_text="run.json cannot be read").wait_for()
        assert page.locator(".runs li").count() == 3
        assert page.evaluate("document.activeElement.textContent") == "one"


def test_what_a_model_or_a_folder_is_called_is_text(root: Path, served: str, page_at: Open) -> None:
    nasty = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    name = "<img src=x onerror=alert(3)>"
    odd = "a b%2f?#é"
    folder = make_run(root / name, [{**row, nasty: 1.0} for row in metrics(range(1, 3))], nasty, stopped=nasty)
    log(folder, judged(1, nasty, f"</p>{nasty}"), name="rollouts.jsonl")
    make_run(root / odd, metrics(range(1, 3)))
    with page_at(f"{served}#runs") as page:
        page.locator(".runs a", has_text=name).click()
        page.locator(".judged").wait_for()
        assert page.locator(".judged article p").all_inner_texts() == [nasty, f"</p>{nasty}"]
        assert page.locator("h3").first.inner_text() == name
        assert nasty in page.locator(".problem").inner_text()
        assert nasty in page.locator(".chart figcaption").all_inner_texts()
        assert page.locator(".recipe pre").text_content() == nasty
        assert page.locator("main img, main script").count() == 0
        page.get_by_role("link", name="All runs").click()
        page.locator(".runs a", has_text=odd).click()
        page.locator(".chart").first.wait_for()
        page.reload()
        page.locator(".chart").first.wait_for()
        assert page.locator("h3").first.inner_text() == odd


def test_alarms_say_what_and_what_to_do(root: Path, served: str, page_at: Open) -> None:
    recipe = "self_training: {stop: {window: 2, max_kl: 5}}"
    make_run(root / "one", metrics(range(1, 9), kl=1.0, **{"rollout/disagreement_rate": 0.01}), recipe)
    with page_at(f"{served}#runs") as page:
        item = page.locator(".runs li")
        item.wait_for()
        assert "Alarm: far from the reference" in item.inner_text()
        item.locator("a").click()
        page.get_by_role("heading", name="1 alarm").wait_for()
        signs = page.locator(".signs li").all_inner_texts()
        assert len(signs) == 2
        assert signs[0].startswith("Alarm: KL to the reference is 7.50 nats per response; the limit is 5.")
        assert "raise beta" in signs[0]
        assert signs[1] == "The two orders agree on 92% of pairs, 98% at first; the limit is 88%."
        badges = page.locator(".chart .badge:visible")
        assert badges.count() == 1
        assert chart(page, "KL to the reference, nats per response").locator(".badge").is_visible()


def test_runs_by_keyboard_alone(root: Path, served: str, page_at: Open) -> None:
    for name in ("one", "two"):
        make_run(root / name, metrics(range(1, 21), kl=0.5))

    def tab_to(page: Any, what: str) -> None:
        for _ in range(20):
            page.keyboard.press("Tab")
            at = page.evaluate(
                "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"
            )
            if at == what:
                assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"
                return
        raise AssertionError(f"{what} is not reached")

    with page_at(f"{served}#runs") as page:
        page.locator(".runs li").first.wait_for()
        tab_to(page, "two")
        page.keyboard.press("Enter")
        page.locator("h3:focus", has_text="two").wait_for()
        tab_to(page, "loss, by step")
        told = []
        for key in ("ArrowLeft", "PageDown", "ArrowRight", "Home", "ArrowLeft", "End", "ArrowLeft", "Escape"):
            page.keyboard.press(key)
            told.append(reading(page, "loss"))
            assert page.locator("svg:focus").get_attribute("aria-valuetext") == told[-1].replace(" loss", ": loss")
        values = {1: "1", 9: "0.111", 10: "0.1", 19: "0.0526", 20: "0.05"}
        assert told == [f"step {step} loss {values[step]}" for step in (19, 9, 10, 1, 1, 20, 19, 20)]
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        page.locator(".runs a:focus", has_text="two").wait_for()


def test_values_are_read_by_pointer(root: Path, served: str, page_at: Open) -> None:
    make_run(root / "one", metrics(range(1, 12), kl=0.5))
    with page_at(f"{served}#runs/one") as page:
        plot(page, "loss").wait_for()
        box = plot(page, "loss").bounding_box()
        # From 46 px on the left to 10 px on the right are ten steps.
        width = box["width"] - 56
        page.mouse.move(box["x"] + 46 + 0.44 * width, box["y"] + 50)
        assert reading(page, "loss") == "step 5 loss 0.2"
        assert plot(page, "loss").locator(".cursor line").count() == 1
        page.mouse.move(0, 0)
        assert reading(page, "loss") == "step 11 loss 0.0909"
        assert plot(page, "loss").locator(".cursor line").count() == 0


def test_a_gap_where_a_value_was_no_number(root: Path, served: str, page_at: Open) -> None:
    make_run(
        root / "one", [{"step": s, "loss": float("nan") if s == 3 else 1.0, "kl": float("nan")} for s in range(1, 6)]
    )
    with page_at(f"{served}#runs/one") as page:
        plot(page, "loss").locator("path").wait_for(state="attached")  # a flat line has no height
        path = str(plot(page, "loss").locator("path").first.get_attribute("d"))
        assert (path.count("M"), path.count("L")) == (2, 2)
        assert "NaN" not in page.locator("#runs").inner_html()
        assert reading(page, "KL to the reference, nats per response") == "step 5 kl no number"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(root: Path, served: str, page_at: Open, scheme: str) -> None:
    name = "x" * 80
    folder = make_run(root / name, metrics(range(1, 30), kl=0.5, **{f"rewards/{'y' * 60}": 1.0}), "z: " + "z" * 200)
    log(folder, judged(1, "w" * 300, "v" * 300), name="rollouts.jsonl")
    with page_at(f"{served}#runs", PHONE, scheme) as page:
        page.locator(".runs a").wait_for()
        assert overflow(page) == 0
        page.locator(".runs a").click()
        plot(page, "loss").locator("path").wait_for()
        page.get_by_text("The recipe").click()
        assert overflow(page) == 0
        assert plot(page, "loss").bounding_box()["width"] > 280
        plot(page, "loss").tap(position={"x": 55, "y": 50})
        assert reading(page, "loss") == "step 2 loss 0.5"
        page.locator("h2").last.tap()
        assert reading(page, "loss") == "step 29 loss 0.0345"
        shades = [page.evaluate("([s, p]) => getComputedStyle(document.querySelector(s))[p]", at)
                  for at in (("body", "backgroundColor"), (".chart text", "fill"), (".line.s0", "stroke"))]  # fmt: skip
        light = ["rgb(255, 255, 255)", "rgb(75, 85, 99)", "rgb(37, 99, 235)"]
        dark = ["rgb(15, 20, 28)", "rgb(163, 173, 187)", "rgb(96, 165, 250)"]
        assert shades == (dark if scheme == "dark" else light)


def test_a_run_that_is_deleted_while_it_is_looked_at(root: Path, served: str, page_at: Open) -> None:
    make_run(root / "one", metrics(range(1, 4)))
    make_run(root / "two", metrics(range(1, 4)))
    with page_at(f"{served}#runs/one", faults=True) as page:
        chart(page, "loss").wait_for()
        shutil.rmtree(root / "one")
        page.locator("#runs .error", has_text="no such run, or no longer").wait_for()
        page.get_by_role("link", name="All runs").click()
        page.locator(".runs a", has_text="two").wait_for()
        assert page.locator(".runs li").count() == 1
        assert page.locator("#runs .error").is_hidden()


def test_many_runs_are_found_by_name(root: Path, served: str, page_at: Open) -> None:
    for i in range(7):
        make_run(root / f"run-{i}" / "Train")
    with page_at(f"{served}#runs") as page:
        page.locator(".runs a").nth(6).wait_for()
        page.get_by_label("Find by name").fill("5/tr")
        assert page.locator(".runs a:visible").all_inner_texts() == ["run-5/Train"]
        page.get_by_label("Find by name").fill("")
        assert page.locator(".runs a:visible").count() == 7


def test_without_a_model_there_is_no_other_tab(root: Path, served: str, page_at: Open) -> None:
    make_run(root / "one")
    with page_at(served) as page:
        page.locator(".runs a").wait_for()
        assert page.locator("nav a").all_inner_texts() == ["Runs", "API"]
        assert page.locator("main > section").count() == 1


def test_without_a_directory_the_tab_says_how_to_name_one(world_chat: ChatEncoder, page_at: Open) -> None:
    with listening(app_on(ScoreEngine(world_chat))) as (url, _), page_at(url) as page:
        page.get_by_role("link", name="Runs").click()
        page.locator("#runs-what", has_text="--runs DIR").wait_for()
        assert page.locator("#runs input, #runs li").locator("visible=true").count() == 0
        assert page.get_by_role("link", name="Playground").count() == 1


def test_a_key_is_asked_for(root: Path, page_at: Open) -> None:
    make_run(root / "one", metrics(range(1, 4)))
    settings = ServeSettings(key_hashes=frozenset({sha256(b"sesame").hexdigest()}))
    with (
        listening(create_runs_app(RunDirectory(root), settings)) as (url, _),
        page_at(f"{url}/#runs", faults=True) as page,
    ):
        page.get_by_label("API key").fill("sesame")
        page.keyboard.press("Enter")
        page.locator(".runs a", has_text="one").wait_for()
        assert page.locator("#runs .error").is_hidden()


def test_numbers_and_ticks(served: str, page_at: Open) -> None:
    with page_at(served) as page:

        def call(code: str) -> Any:
            return page.evaluate(f"import('/static/chart.js').then(({{short, ticks}}) => {code})")

        values = [0.000123, 0, -0.0456, 12345.6, 1234567, 99.96]
        assert call(f"[...{values}, null].map(short)") == [
            "1.2e-4", "0", "-0.0456", "12346", "1.2e+6", "100", "no number"
        ]  # fmt: skip
        assert call("ticks(0, 1, 5)") == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
        assert call("ticks(0.9, 3.1, 2)") == [2]
        assert call("ticks(-7, 12, 4)") == [-5, 0, 5, 10]
