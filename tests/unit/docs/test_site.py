"""The site of the documentation builds without a warning, holds the whole API, and its links lead somewhere."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pages
import pytest

from rlopt.registry import AGENTS, resolve
from rlopt.settings.optimizer import OptimizerConfig

ROOT = pages.ROOT
DOCUMENTS = [*pages.pages(), "CHANGELOG.md"]
PUBLIC = ("rlopt", "rlopt.data", "rlopt.average_reward", "rlopt.engine", "rlopt.agents.guda", "rlopt.agents.zo_ranksgd")
"""Packages whose ``__all__`` is the API, beside the modules that the pages take as a whole."""
FENCE = re.compile(r"^```.*?^```\s*?$", flags=re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install 'rlopt[docs]'")
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "WARNING" not in done.stderr
    return place


class Links(HTMLParser):
    """Anchors, links and loaded files of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in ("script", "img", "iframe", "source") and "src" in given:
            self.loaded.append(given["src"])
        elif tag == "link" and given.get("rel") != "canonical" and "href" in given:
            self.loaded.append(given["href"])


def test_every_link_of_the_site_leads_to_a_page_and_a_place_on_it(site: Path) -> None:
    read = {path: Links(path.read_text()) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(read) > 40
    checked = 0
    for path, page in read.items():
        for link in page.links:
            target, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            there = (path.parent / target).resolve() if target else path
            assert there.is_file(), f"{path.relative_to(site)} links to {link}"
            if anchor and there in read:
                assert anchor in read[there].anchors, f"{path.relative_to(site)} links to {link}"
            checked += 1
    assert checked > 1000


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        for source in Links(path.read_text()).loaded:
            assert not re.match(r"(https?:)?//", source), f"{path.name} loads {source}"
    for path in (site / "assets").rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", path.read_text()), path


def test_the_sources_of_agents_pages_and_docstrings_are_on_the_site(site: Path) -> None:
    mdpo = (site / "agents" / "mdpo.html").read_text()
    assert "mirror descent policy optimisation" in mdpo and "Equation to function" in mdpo
    assert "step_size" in (site / "api" / "mdpo.html").read_text()
    for path in (site / "api").glob("*.html"):
        assert not re.search(r":(class|func|meth|mod|attr|data|exc):", path.read_text()), f"{path.name} shows a role"


def test_equations_are_typeset_without_a_script(site: Path) -> None:
    for agent in ("mdpo", "ppo", "zo_ranksgd"):
        page = (site / "agents" / f"{agent}.html").read_text()
        assert "<math" in page and "$`" not in page, agent


ASCII_FORMULA = re.compile(
    r"(?<![\w.])[A-Za-z]{1,5}'?_(?:[a-z0-9]{1,3}|\{)(?!\w)|\w\^|\bsqrt\b|\bln[ (]|\blog [a-z]+ ?\("
    r"|<-|<=|>=|\bE\[|\bexp\("
)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tables_have_no_formula_in_ascii(document: str) -> None:
    for line in FENCE.sub("", (ROOT / document).read_text()).splitlines():
        if line.startswith("|"):
            words = re.sub(r"\$`[^`]*`\$|`[^`]*`|\]\([^)]*\)", "", line)
            assert not ASCII_FORMULA.search(words), f"write LaTeX between $` and `$: {line}"


def test_every_setting_of_every_agent_is_on_its_page(site: Path) -> None:
    for name, spec in AGENTS.items():
        folder = spec.config.split(".")[2]
        text = (site / "agents" / f"{folder}.html").read_text()
        shared = {field.name for field in fields(OptimizerConfig)}
        for owner in resolve(spec.config).__mro__[:-1]:
            if f".{folder}." in owner.__module__:
                own = {field.name for field in fields(owner)} & set(vars(owner).get("__annotations__", {}))
                missing = {field for field in own - shared if f"<code>{field}</code>" not in text}
                assert not missing, f"{name}: {missing}"


def test_every_public_name_has_its_place() -> None:
    listed = set(re.findall(r"^::: (\S+)$", "\n".join(p.read_text() for p in (ROOT / "docs/api").glob("*.md")), re.M))
    for package in PUBLIC:
        for name in importlib.import_module(package).__all__:
            places = {f"{package}.{name}", f"rlopt.{name}"}
            within = any(place.startswith(f"{package}.{name}.") for place in listed)
            assert name.startswith("_") or places & listed or within, f"{package}.{name}"
    for module in (
        "rlopt.statistics.aggregates",
        "rlopt.analysis.comparison",
        "rlopt.statistics.sample_size",
        "rlopt.errors",
    ):
        assert module in listed


def github_anchors(text: str) -> set[str]:
    """Anchors of the headings of a Markdown file as GitHub gives them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*)$", FENCE.sub("", text), flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (unique := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(unique)
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_of_the_source_leads_to_a_file_and_a_heading(document: str) -> None:
    """As GitHub shows it."""
    path = ROOT / document
    for link in LINK.findall(FENCE.sub("", path.read_text())):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        there = (path.parent / target).resolve() if target else path
        assert there.exists() and there.is_relative_to(ROOT), f"{document} links to {link}"
        if anchor:
            assert anchor in github_anchors(there.read_text()), f"{document} links to {link}"
