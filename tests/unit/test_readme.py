"""The README does what it says: its snippets run, its tables are what the script prints."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_readme_has_its_snippets() -> None:
    assert len(SNIPPETS) == 3


@pytest.mark.slow
@pytest.mark.parametrize("snippet", SNIPPETS, ids=["first screen", "change the loss", "add an environment"])
def test_snippet_runs(snippet: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("document", ["README.md", "docs/results/mdpo.md"])
@pytest.mark.parametrize("table", ["on_policy", "off_policy"])
def test_tables_are_what_the_script_prints(document: str, table: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "reproduce_mdpo.py"), "table", "--table", table]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    text = (ROOT / document).read_text()
    inside = re.search(rf"<!-- results {table} -->\n(.*?)\n<!-- /results {table} -->", text, flags=re.DOTALL)
    assert inside is not None and inside.group(1) == printed


def test_every_command_of_the_readme_exists() -> None:
    from rlopt.cli.main import VERBS

    verbs = set(re.findall(r"^rlopt +(\w+)", README, flags=re.MULTILINE))
    assert verbs and verbs <= set(VERBS)
    targets = set(re.findall(r"^make +([\w-]+)", README, flags=re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    assert targets and all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
