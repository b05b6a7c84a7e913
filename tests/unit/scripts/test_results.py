"""The pages of results are what their scripts print from the committed tables of runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


SCRIPTS = {
    name: name for name in ("guda", "offline", "ailboost", "endings", "loop", "deep_loop", "defaults", "average_reward")
}
SCRIPTS["zo_ranksgd_policies"] = "zo_ranksgd"
"""Page -> the script that writes it."""


@pytest.mark.parametrize("name", SCRIPTS)
def test_page_is_what_the_script_prints(name: str) -> None:
    check_table(f"docs/results/{name}.md", name, f"reproduce_{SCRIPTS[name]}.py", "table")


@pytest.mark.parametrize("table", ["on_policy", "off_policy"])
def test_tables_of_mdpo_are_what_the_script_prints(table: str) -> None:
    check_table("docs/results/mdpo.md", table, "reproduce_mdpo.py", "table", "--table", table)


def test_table_of_functions_is_what_the_script_prints() -> None:
    check_table("docs/results/zo_ranksgd.md", "functions", "benchmark_rankings.py", "table")


def test_main_table_is_what_the_script_prints() -> None:
    check_table("README.md", "main", "main_table.py", "table")


def check_table(page: str, name: str, script: str, *arguments: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / script), *arguments]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    text = (ROOT / page).read_text()
    inside = re.search(rf"<!-- results {name} -->\n(.*?)\n<!-- /results {name} -->", text, flags=re.DOTALL)
    assert inside is not None and inside.group(1) == printed
