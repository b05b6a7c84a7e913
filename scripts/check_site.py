"""Look at every page of the built site as a browser does: axe-core, narrow screens, both colour schemes, search.

    make docs && .venv/bin/python scripts/check_site.py                        # all pages
    .venv/bin/python scripts/check_site.py 'agents/*' --shots shots            # some, with screenshots of each

It needs Chromium (Debian: apt-get install chromium) and ends with 1 if it finds a fault: a violation of a rule of axe,
a picture that does not load, an error of a script, a page that is wider than its window, a search that does not find.
"""

import argparse
import functools
import http.server
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, Page, TimeoutError, sync_playwright
from reproduction import ROOT

LOOKS: tuple[tuple[int, Literal["light", "dark"]], ...] = (
    (1280, "light"),
    (390, "light"),
    (1280, "dark"),
    (390, "dark"),
)
"""Widths of the window in pixels, and colour schemes."""
SEARCHES = {"custom env": "Add a custom environment", "learning rate": "Optimisers and learning rates"}
"""Words -> the section that must be found for them."""
AXE = (files("axe_playwright_python") / "axe.min.js").read_text()
VIOLATIONS = "axe.run().then(result => result.violations)"
BROKEN = "[...document.images].filter(image => image.complete && !image.naturalWidth).map(image => image.src)"


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of the folder as a site on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def opened(browser: Browser, width: int, scheme: Literal["light", "dark"], faults: list[str]) -> Iterator[Page]:
    """A page of a window; errors of scripts are added to ``faults``."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    context.on("weberror", lambda error: faults.append(f"script: {error.error}"))
    yield context.new_page()
    context.close()


def look(page: Page, address: str, shot: Path | None) -> list[str]:
    """The faults of one page at the size of its window."""
    page.goto(address, wait_until="networkidle")
    if shot is not None:
        shot.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=shot, full_page=True)
    found = [f"does not load: {source}" for source in page.evaluate(BROKEN)]
    if (wider := page.evaluate("document.documentElement.scrollWidth - window.innerWidth")) > 0:
        found.append(f"{wider} px wider than the window")
    page.evaluate(AXE)
    for violation in page.evaluate(VIOLATIONS):
        nodes = violation["nodes"]
        html = " ".join(nodes[0]["html"].split())[:160]
        found.append(f"{violation['id']} ({violation['impact']}), {len(nodes)} times, first: {html}")
    return found


def search(page: Page, address: str, words: str) -> list[str]:
    """Titles of what the site's search finds, best first."""
    page.goto(f"{address}/index.html")
    page.get_by_role("textbox", name="Search").fill(words)
    hits = page.locator(".md-search-result__item h1, .md-search-result__item h2")
    with suppress(TimeoutError):  # until the index is read, the page says that nothing matches
        hits.first.wait_for(state="attached")
    return [" ".join(text.split()) for text in hits.all_inner_texts()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", default=["*"], metavar="PATTERN", help="of pages; default: all")
    parser.add_argument("--site", type=Path, default=ROOT / "site", help="default: site/")
    parser.add_argument("--shots", type=Path, help="folder for a picture of each page in each window")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="default: the one on PATH")
    arguments = parser.parse_args()
    names = sorted(path.relative_to(arguments.site).as_posix() for path in arguments.site.rglob("*.html"))
    names = [name for name in names if any(fnmatch(name, pattern) for pattern in arguments.pages)]
    if not names or arguments.chromium is None:
        parser.error("no page: make docs builds the site" if not names else "no chromium: apt-get install chromium")
    faults: list[str] = []
    with served(arguments.site) as address, sync_playwright() as playwright:
        # Without a sandbox, because containers run as root; only our own pages are opened.
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=["--no-sandbox"])
        for width, scheme in LOOKS:
            with opened(browser, width, scheme, faults) as page:
                for name in names:
                    shot = (
                        arguments.shots
                        and arguments.shots / f"{name.removesuffix('.html').replace('/', '_')}-{width}-{scheme}.png"
                    )
                    for fault in look(page, f"{address}/{name}", shot):
                        faults.append(f"{name}, {width} px, {scheme}: {fault}")
                        print(faults[-1], flush=True)
        with opened(browser, *LOOKS[0], faults) as page:
            for words, wanted in SEARCHES.items():
                found = search(page, address, words)
                print(f"search {words!r}: {', '.join(found[:5]) or 'nothing'}", flush=True)
                faults += [] if wanted in found else [f"search: {words!r} does not find {wanted!r}"]
        browser.close()
    print(f"{len(names)} pages in {len(LOOKS)} windows: {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
