"""What the reproduce_*.py scripts share: runs that are continued where they were stopped, and results as tables."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def train(agent: str, run: Path, *flags: str) -> float:
    """Trains in the folder ``run``, or continues what was begun there; seconds that this call took."""
    command = ["resume", str(run)] if run.exists() else ["train", agent, "--run-dir", str(run), *flags]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "rlopt.cli.main", *command], check=True)
    return time.perf_counter() - start


def keep_result(path: Path, result: dict[str, Any], run: Path) -> None:
    """Writes a cell's result, with settings and versions of its run, whole or not at all; drops the checkpoints."""
    result = result | {
        "config": json.loads((run / "config.json").read_text()),
        "versions": json.loads((run / "versions.json").read_text())["packages"],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.rename(path)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    print(path, f"mean return {result['mean_return']:.1f}", flush=True)


def cell_text(values: list[float], n_seeds: int) -> str:
    """Interquartile mean over seeds with its 95% bootstrap interval, and how many seeds are missing."""
    from rlopt.statistics import bootstrap_interval, iqm

    if not values:
        return "not run"
    low, high = bootstrap_interval(np.array(values), seed=0)
    missing = "" if len(values) == n_seeds else f" ({len(values)} of {n_seeds} seeds)"
    return f"{iqm(np.array(values)):.0f} [{low:.0f}, {high:.0f}]{missing}"


def replace_between(text: str, marker: str, content: str) -> str:
    """``text`` with what is between ``<!-- marker -->`` and ``<!-- /marker -->`` replaced."""
    opening, closing = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    before, _, rest = text.partition(opening)
    _, _, after = rest.partition(closing)
    return f"{before}{opening}\n{content}\n{closing}{after}"
