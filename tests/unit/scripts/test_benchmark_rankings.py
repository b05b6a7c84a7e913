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
    common = ["--budget", "400", "--results", str(tmp_path / "cells"), "--page", str(page), "--tuning-seeds", "1"]
    one = [*common, "--task", "quadratic", "--method", "openai-es"]
    call("run", "--seeds", "1", *one)
    path = tmp_path / "cells" / "quadratic-openai-es.json"
    first = json.loads(path.read_text())
    tuned = {entry["settings"]["learning_rate"]: entry["finals"][0] for entry in first["tuning"]}
    assert len(tuned) == 5 and first["settings"]["learning_rate"] == min(tuned, key=lambda rate: tuned[rate])
    assert [run["seed"] for run in first["runs"]] == [0] and 0 < first["runs"][0]["oracle_points"] <= 400
    initial = np.random.default_rng(0).standard_normal(100)
    assert first["runs"][0]["values"][0] == pytest.approx(initial @ initial, rel=1e-5)
    call("run", "--seeds", "2", *one)
    second = json.loads(path.read_text())
    assert second["tuning"] == first["tuning"] and second["runs"][0] == first["runs"][0] and len(second["runs"]) == 2
    call("write", "--seeds", "2", *common)
    text = page.read_text()
    assert text.startswith("before") and text.rstrip().endswith("after")
    assert "| OpenAI-ES, antithetic, Adam | ranks |" in text
    assert "| GLD-search | ranks | not run" in text and (tmp_path / "cells" / "curves.svg").is_file()


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
