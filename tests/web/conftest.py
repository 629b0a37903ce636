"""A real browser in front of real servers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from windows import DESKTOP, PHONE, Open

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need the package playwright")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


# Not for the session: the loop of playwright runs in this thread as long as it lives, and other tests have loops too.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium that is installed on the machine; none is downloaded."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        # No sandbox: tests often run as root, and the pages are our own.
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield running
        running.close()


@pytest.fixture
def page_at(browser: Any) -> Open:
    """Opens a URL in a fresh window, and at its end checks what every page has to keep to.

    Nothing was asked of another host, nothing was refused by the content policy, no script failed, and no dialogue
    was opened.
    ``faults``: answers that are no successes are expected.
    """

    @contextmanager
    def opened(url: str, viewport: Any = DESKTOP, scheme: str = "light", *, faults: bool = False) -> Iterator[Any]:
        context = browser.new_context(viewport=viewport, color_scheme=scheme, has_touch=viewport is PHONE)
        page = context.new_page()
        page.set_default_timeout(20_000)
        requests: list[str] = []
        problems: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(f"dialogue {dialog.message}"), dialog.dismiss()))
        page.on("console", lambda message: message.type == "error" and problems.append(message.text))
        page.goto(url)
        yield page
        origin = "/".join(url.split("/")[:3]) + "/"
        assert [asked for asked in requests if not asked.startswith((origin, "data:"))] == []
        # A failed request is logged by the browser itself; where faults are tried it is meant to be.
        assert [text for text in problems if not (faults and text.startswith("Failed to load resource"))] == []
        context.close()

    return opened
