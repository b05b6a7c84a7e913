"""The comparison of ranking methods: equal budgets, other seeds for tuning, continued files, a page that agrees."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts" / "benchmark_rankings.py"


def call(*flags: str) -> str:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *flags], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout.strip()


@pytest.mark.slow
def test_cells_are_tuned_continued_and_shown(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results functions -->\n<!-- /results functions -->\nafter\n")
    results = tmp_path / "searches.jsonl"
    common = ["--budget", "400", "--results", str(results), "--page", str(page), "--tuning-seeds", "1"]
    one = [*common, "--task", "quadratic", "--method", "openai-es"]
    call("run", "--seeds", "1", *one)
    first = [json.loads(line) for line in results.read_text().splitlines()]
    *tuning, reported = first
    tuned = {row["config"]["learning_rate"]: row["final"] for row in tuning}
    assert len(tuning) == len(tuned) == 5 and {row["seed"] for row in tuning} == {1000}
    assert reported["config"]["learning_rate"] == min(tuned, key=lambda rate: tuned[rate])
    assert reported["seed"] == 0 and 0 < reported["oracle_points"] <= 400
    initial = np.random.default_rng(0).standard_normal(100)
    assert reported["values"][0] == pytest.approx(initial @ initial, rel=1e-5)
    call("run", "--seeds", "2", *one)
    second = [json.loads(line) for line in results.read_text().splitlines()]
    assert second[:-1] == first and second[-1]["seed"] == 1
    call("write", "--seeds", "2", *common)
    text = page.read_text()
    assert text.startswith("before") and text.rstrip().endswith("after")
    assert "| OpenAI-ES, antithetic, Adam | ranks |" in text
    assert "| GLD-search | ranks | not run" in text and page.with_suffix(".svg").is_file()


def test_the_page_shows_what_the_script_prints() -> None:
    text = (ROOT / "docs" / "results" / "zo_ranksgd.md").read_text()
    inside = re.search(r"<!-- results functions -->\n(.*?)\n<!-- /results functions -->", text, flags=re.DOTALL)
    assert inside is not None and inside.group(1) == call("table")
    assert "not run" not in inside.group(1)


def test_the_snippet_of_the_agents_page_runs() -> None:
    snippet = re.findall(r"```python\n(.*?)```", (ROOT / "agents/zo_ranksgd/README.md").read_text(), flags=re.DOTALL)[0]
    done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, check=True)
    start = np.linalg.norm(np.linspace(-1, 1, 20))
    assert float(done.stdout) < 0.1 * start
