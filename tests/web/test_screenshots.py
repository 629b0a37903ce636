"""The pictures of docs/serving.md, taken of a real server with a small model that has learnt to judge a little.

They are written into the folder that the variable SCREENSHOTS names, `SCREENSHOTS=docs/images`; otherwise only made.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from serve_process import serving
from transformers import AutoModelForCausalLM
from windows import DESKTOP, PHONE, Open

pytestmark = pytest.mark.slow

LARGEST = 200_000
TRAINING = (
    "data.sources.0.limit=8000",
    "jsft.training.max_steps=200",
    "jsft.training.warmup_steps=20",
    "jsft.training.lr_scheduler_kwargs.num_decay_steps=80",
)
SELF_TRAINING = (
    "data.sources.0.limit=8000",
    "self_training.training.max_steps=60",
    "self_training.training.per_device_train_batch_size=24",
    "self_training.labels=hard",
    "self_training.stop={window: 10, max_kl: 1.0}",
)
PROMPT = "Name three things of the sea for Ada."
RESPONSES = ("coral tide wave", "coral er whatever")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("trained") / "jsft"
    train("jsft", folder, *TRAINING)
    # The second model of the arena is the same with an adapter that does nothing yet: samples differ all the same.
    adapter = folder.with_name("adapter")
    get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "final"), LoraConfig(r=4)).save_pretrained(adapter)
    arena = ("--adapter", adapter, "--arena", folder.with_name("votes.db"))
    with serving("--model", folder, "--max-new-tokens", "16", *arena, "--runs", folder.parent) as (url, _):
        yield url.removesuffix("v1")


def train(stage: str, folder: Path, *settings: str) -> None:
    command = [sys.executable, "-m", "selfjudge.cli.main", stage, "--recipe", "demo", "--output-dir", str(folder)]
    words = [word for setting in settings for word in ("--set", setting)]
    subprocess.run([*command, *words], check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def save(page: Any, name: str, folder: Path, *, height: int | None = None) -> None:
    """Takes a picture of the page, or of its upper part of a given height."""
    path = Path(os.environ.get("SCREENSHOTS", folder)) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    page.evaluate("document.activeElement.blur(), window.scrollTo(0, 0)")
    if height is not None:
        page.set_viewport_size({"width": page.viewport_size["width"], "height": height})
    page.screenshot(path=path, full_page=height is None)
    assert 5_000 < path.stat().st_size < LARGEST


@pytest.mark.parametrize(("window", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_playground(served: str, page_at: Open, tmp_path: Path, window: str, scheme: str) -> None:
    with page_at(served, PHONE if window == "phone" else DESKTOP, scheme) as page:
        # The folder's path is another on every machine.
        page.locator("#model").evaluate("shown => { shown.textContent = 'runs/demo/jsft'; }")
        page.get_by_label("Prompt").first.fill(PROMPT)
        page.get_by_label("Candidates").fill("6")
        page.get_by_role("button", name="Run").click()
        page.locator("#playground .status", has_text="Done").wait_for()
        save(page, f"playground-{window}-{scheme}", tmp_path, height=1400 if window == "phone" else None)


@pytest.mark.parametrize(("window", "scheme"), [("desktop", "light"), ("desktop", "dark"), ("phone", "dark")])
def test_compare(served: str, page_at: Open, tmp_path: Path, window: str, scheme: str) -> None:
    with page_at(served, PHONE if window == "phone" else DESKTOP, scheme) as page:
        page.get_by_label("Prompt").first.fill(PROMPT)
        page.get_by_label("Candidates").fill("4")
        page.get_by_label("Compare with").select_option(index=1)
        page.get_by_role("button", name="Run").click()
        page.locator("#playground > .status", has_text="Done.").wait_for()
        hide_folder(page, "#model, #playground option, .sides h3, .result > div > .card p")
        save(page, f"compare-{window}-{scheme}", tmp_path, height=1900 if window == "phone" else 1420)


@pytest.mark.parametrize(("window", "scheme"), [("desktop", "dark"), ("phone", "light")])
def test_lens(served: str, page_at: Open, tmp_path: Path, window: str, scheme: str) -> None:
    with page_at(f"{served}#lens", PHONE if window == "phone" else DESKTOP, scheme) as page:
        page.locator("#model").evaluate("shown => { shown.textContent = 'runs/demo/jsft'; }")
        lens = page.locator("#lens")
        for label, text in (("Prompt", PROMPT), ("Response A", RESPONSES[0]), ("Response B", RESPONSES[1])):
            lens.get_by_label(label).fill(text)
        lens.get_by_role("button", name="Judge", exact=True).click()
        lens.locator(".status", has_text="The judge").wait_for()
        lens.get_by_label("Response B").fill(RESPONSES[1].replace("er whatever", "harbor whatever"))
        lens.get_by_role("button", name="Judge", exact=True).click()
        lens.get_by_text("Since the verdict before").wait_for()
        save(page, f"lens-{window}-{scheme}", tmp_path)


@pytest.mark.parametrize(("window", "scheme"), [("desktop", "light")])
def test_arena(served: str, page_at: Open, tmp_path: Path, window: str, scheme: str) -> None:
    with page_at(f"{served}#arena", PHONE if window == "phone" else DESKTOP, scheme) as page:
        page.locator("#arena form").wait_for()
        votes = (
            ("Ada", "ArrowLeft"),
            ("Ben", "ArrowLeft"),
            ("Ida", "ArrowRight"),
            ("Finn", "t"),
            ("Hana", "ArrowRight"),
        )
        for name, key in votes:
            page.locator("#arena").get_by_label("Prompt").fill(PROMPT.replace("Ada", name))
            page.get_by_role("button", name="Draw a pair").click()
            page.locator("#arena .status", has_text="Which is better?").wait_for()
            page.keyboard.press(key)
            page.locator("#arena .status", has_text="You voted").wait_for()
        page.locator("#agreement", has_text="4 votes").wait_for()
        hide_folder(page, "#arena .card h3, #wins, #model")
        save(page, f"arena-{window}-{scheme}", tmp_path)


@pytest.fixture(scope="module")
def self_trained(served: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The server, with a run of self-training under its directory that stops itself."""
    folder = next((tmp_path_factory.getbasetemp()).glob("trained*/jsft"))
    train("train", folder.with_name("train"), *SELF_TRAINING, f"self_training.start={folder}")
    return served


@pytest.mark.parametrize(("window", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_runs(self_trained: str, page_at: Open, tmp_path: Path, window: str, scheme: str) -> None:
    with page_at(f"{self_trained}#runs", PHONE if window == "phone" else DESKTOP, scheme) as page:
        page.locator("#model").evaluate("shown => { shown.textContent = 'runs/demo/jsft'; }")
        page.locator(".runs a", has_text="train").click()
        page.locator(".chart path").first.wait_for()
        page.locator(".judged").first.wait_for()
        save(page, f"runs-{window}-{scheme}", tmp_path, height=1500 if window == "phone" else 1000)


def hide_folder(page: Any, selector: str) -> None:
    """Shows ``runs/demo`` in place of the folder of the served model, which is another on every machine."""
    folder = str(Path(page.evaluate("fetch('v1/models').then(r => r.json())")["data"][0]["id"]).parent)
    for shown in page.locator(selector).all():
        shown.evaluate(
            """(shown, folder) => {
                const walker = document.createTreeWalker(shown, NodeFilter.SHOW_TEXT);
                for (let text = walker.nextNode(); text; text = walker.nextNode()) {
                    text.data = text.data.replaceAll(folder, "runs/demo");
                }
            }""",
            folder,
        )
