"""The pages of results are what their scripts print from the committed result files."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


SCRIPTS = {name: name for name in ("guda", "offline", "ailboost", "loop")} | {"zo_ranksgd_policies": "zo_ranksgd"}
"""Page -> the script that writes it."""


@pytest.mark.parametrize("name", SCRIPTS)
def test_page_is_what_the_script_prints(name: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / f"reproduce_{SCRIPTS[name]}.py"), "table"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    text = (ROOT / "docs" / "results" / f"{name}.md").read_text()
    inside = re.search(rf"<!-- results {name} -->\n(.*?)\n<!-- /results {name} -->", text, flags=re.DOTALL)
    assert inside is not None and inside.group(1) == printed
