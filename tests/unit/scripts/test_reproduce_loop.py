"""The reproduction script on the smallest budget: cells are kept, the best constant is chosen, the page is written."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]


def call(folder: Path, action: str, *flags: str) -> str:
    command = [sys.executable, str(ROOT / "scripts" / "reproduce_loop.py"), action, "--steps", "300", "--seeds", "2"]
    command += [
        "--tuning-seeds",
        "1",
        "--results",
        str(folder / "loop.jsonl"),
        "--page",
        str(folder / "loop.md"),
        *flags,
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


@pytest.mark.slow
def test_cells_table_and_page(tmp_path: Path) -> None:
    (tmp_path / "loop.md").write_text("before\n<!-- results loop -->\n<!-- /results loop -->\nafter\n")
    one = ("--env", "RiverSwim-6", "--algorithm", "ucrl2")
    call(tmp_path, "run", *one)
    file = tmp_path / "loop.jsonl"
    results = [json.loads(line) for line in file.read_text().splitlines()]
    tuned = [result for result in results if result["seed"] == 1000]
    assert len(results) == 5 and len(tuned) == 3
    best = min(tuned, key=lambda result: result["cost"])["value"]
    kept = [result for result in results if result["value"] == best and result["seed"] in (0, 1)]
    assert len(kept) == 2 and len(kept[0]["cost_curve"]) == 100 and 0 < kept[0]["switches"] <= 300
    settings = [json.loads(line) for line in (tmp_path / "settings.jsonl").read_text().splitlines()]
    used = {result["settings"]: result["value"] for result in results}
    assert {row["settings"]: row["config"]["transition_scale"] for row in settings} == used and len(used) == 3
    before = file.stat().st_mtime_ns
    call(tmp_path, "run", *one)
    assert file.stat().st_mtime_ns == before, "a cell that is there is not run again"
    call(tmp_path, "write")
    page = (tmp_path / "loop.md").read_text()
    mean = np.mean([result["cost"] for result in kept])
    assert page.startswith("before") and page.rstrip().endswith("after")
    assert f"| UCRL2 | `transition_scale` {best:g} | {mean:.0f} [" in page and "| TSDE" not in page
    assert (tmp_path / "loop.svg").is_file()
