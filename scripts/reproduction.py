"""What the reproduce_*.py scripts share: runs that are continued where they were stopped, and results as tables."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "results"


def script_parser(description: str, name: str, *more_actions: str, runs: bool = True) -> argparse.ArgumentParser:
    """Of a script whose result files are in ``docs/results/NAME/`` and whose page is ``docs/results/NAME.md``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "table", "write", *more_actions])
    parser.add_argument("--results", type=Path, default=PAGES / name, help="folder of the result files")
    if runs:
        parser.add_argument("--runs", type=Path, default=ROOT / "runs" / f"reproduce_{name}", help="folder of the runs")
    parser.add_argument("--page", type=Path, default=PAGES / f"{name}.md", help="what write fills in")
    return parser


def wanted(args: argparse.Namespace, **cell: Any) -> bool:
    """Whether a cell passes the filters: options of these names, None if not given."""
    return all(getattr(args, name) in (None, value) for name, value in cell.items())


def show(args: argparse.Namespace, marker: str, text: str) -> None:
    """Prints a script's text; ``write`` puts it into the page too."""
    print(text)
    if args.action == "write":
        args.page.write_text(replace_between(args.page.read_text(), marker, text))


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
    write_whole(path, json.dumps(result, indent=1) + "\n")
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    print(path, f"mean return {result['mean_return']:.1f}", flush=True)


def write_whole(path: Path, text: str) -> None:
    """Writes a file whole or not at all, in a folder that is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.rename(path)


def cell_text(values: list[float], n_seeds: int, decimals: int = 0) -> str:
    """Interquartile mean over seeds with its 95% bootstrap interval, and how many seeds are missing."""
    from rlopt.statistics.aggregates import iqm

    if not values:
        return "not run"
    missing = "" if len(values) == n_seeds else f" ({len(values)} of {n_seeds} seeds)"
    return interval_text(values, iqm, decimals) + missing


def interval_text(values: list[float], statistic: Callable[..., Any], decimals: int = 0) -> str:
    """A statistic over seeds with its 95% bootstrap interval; one seed has none."""
    from rlopt.statistics.aggregates import bootstrap_interval

    scores = np.array(values)
    middle = f"{float(statistic(scores)):z.{decimals}f}"
    if len(values) == 1:
        return middle
    low, high = bootstrap_interval(scores, statistic=statistic, seed=0)
    return f"{middle} [{low:z.{decimals}f}, {high:z.{decimals}f}]"


def replace_between(text: str, marker: str, content: str) -> str:
    """``text`` with what is between ``<!-- marker -->`` and ``<!-- /marker -->`` replaced.

    :raises SystemExit: the text does not have both
    """
    opening, closing = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    before, opened, rest = text.partition(opening)
    _, closed, after = rest.partition(closing)
    if not (opened and closed):
        raise SystemExit(f"the page has no lines {opening} and {closing}; put them where the table goes")
    return f"{before}{opening}\n{content}\n{closing}{after}"
