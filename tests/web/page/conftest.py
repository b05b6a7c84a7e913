"""A Chromium for each file, and pages that fail their test when they report an error."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from ranking_site import Site
from ranking_study import optimizer

PATIENCE = 20_000
"""Milliseconds after which a test gives up waiting for the page; a busy machine is slow."""
expect.set_options(timeout=PATIENCE)
CHROMIUM = os.environ.get("RLOPT_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Closed with the file: while it is open, asyncio.run works nowhere else in the process."""
    if CHROMIUM is None:
        pytest.skip("no chromium here: install Debian's package, or name one in RLOPT_CHROMIUM")
    with sync_playwright() as playwright:
        # Without a sandbox, because containers run as root; only our own pages are opened.
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages, each in a browser profile of its own. At the end of the test none may have reported an error."""
    contexts, errors = [], []

    def open_page(url: str, **settings: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **settings})
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        context.on("weberror", lambda error: errors.append(str(error.error)))
        context.on("console", lambda message: "Content Security" in message.text and errors.append(message.text))
        page = context.new_page()
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors


@pytest.fixture
def new_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    sites = []

    def start(*, m: int = 4, k: int = 2, rounds: int = 100, **settings: Any) -> Site:
        search = settings.pop("search", None) or optimizer(m, k)
        sites.append(Site(tmp_path / f"site{len(sites)}", search, rounds, **settings))
        return sites[-1]

    yield start
    for site in sites:
        site.close()


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A round of 12 clips that any number of raters can look at, and that never ends."""
    site = Site(tmp_path_factory.mktemp("site"), optimizer(12, 3), 100, annotators=1000)
    yield site
    site.close()
