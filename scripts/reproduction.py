"""What the scripts behind docs/results share: a table of runs for each study, and the texts of its pages."""

import argparse
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "results"


class Results:
    """The table of a study: a file of JSON lines, one for each run, which its ``key`` columns tell from all others.

    Column ``settings`` names a line of the file ``settings.jsonl`` beside it, where each set of settings and package
    versions stands once. Several processes may add runs to one table, and each may be killed at any moment.
    """

    def __init__(self, path: Path, *key: str) -> None:
        self.path, self.key = path, key

    def find(self, **cell: Any) -> list[dict[str, Any]]:
        """The rows that have these values, in the order in which they were added."""
        return [row for row in _rows(self.path) if cell.items() <= row.items()]

    def add(self, row: dict[str, Any], settings: dict[str, Any] | None = None) -> None:
        """Appends a row, unless one with its key is there."""
        if settings is not None:
            text = json.dumps(settings, sort_keys=True)
            row = row | {"settings": hashlib.sha256(text.encode()).hexdigest()[:12]}
            Results(self.path.with_name("settings.jsonl"), "settings").add({"settings": row["settings"]} | settings)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"), open(self.path, "ab+") as file:
            file.seek(0)
            # What follows the last line end is of a writer that was killed.
            file.truncate(file.read().rfind(b"\n") + 1)
            if not self.find(**{name: row[name] for name in self.key}):
                file.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())

    def add_run(self, row: dict[str, Any], run: Path) -> None:
        """Adds what a run folder gave, with its settings and versions, and drops its checkpoints."""
        config, versions = (json.loads((run / f"{name}.json").read_text()) for name in ("config", "versions"))
        self.add(row, run_settings(config, versions["packages"]))
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
        print(run.name, f"mean return {row['mean_return']:.1f}", flush=True)


def run_settings(config: dict[str, Any], versions: dict[str, str]) -> dict[str, Any]:
    """What runs that differ only in seed and place have in common."""
    settings = {part: dict(values) if isinstance(values, dict) else values for part, values in config.items()}
    for part, name in (("run", "seed"), ("run", "run_dir"), ("agent_config", "dataset")):
        settings[part].pop(name, None)
    demos = Path(settings["agent_config"].get("demos") or "")
    if demos.is_absolute():  # where they lie on one machine
        settings["agent_config"]["demos"] = demos.name
    return {"config": settings, "versions": versions}


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    state = path.stat()
    return _parsed(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=8)
def _parsed(path: Path, changed: int, size: int) -> list[dict[str, Any]]:
    """Of the file as it is: ``changed`` and ``size`` tell its states apart."""
    return [json.loads(line) for line in path.read_bytes()[:size].splitlines(keepends=True) if line.endswith(b"\n")]


def script_parser(
    description: str, name: str, key: tuple[str, ...], *more_actions: str, runs: bool = True
) -> argparse.ArgumentParser:
    """Of a script whose table is ``docs/results/NAME.jsonl`` and whose page is ``docs/results/NAME.md``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "table", "write", *more_actions])
    parser.add_argument(
        "--results",
        type=lambda path: Results(Path(path), *key),
        default=str(PAGES / f"{name}.jsonl"),
        help="table of the runs",
    )
    if runs:
        parser.add_argument("--runs", type=Path, default=ROOT / "runs" / f"reproduce_{name}", help="folder of the runs")
    parser.add_argument("--page", type=Path, default=PAGES / f"{name}.md", help="what write fills in")
    return parser


def add_filters(parser: argparse.ArgumentParser, **filters: Iterable[str] | type) -> None:
    """Options that run a part of a study, for :func:`wanted`: by name, what can be chosen, or the type of anything."""
    for name, allowed in filters.items():
        chosen: dict[str, Any] = {"type": allowed} if isinstance(allowed, type) else {"choices": list(allowed)}
        parser.add_argument(f"--{name}", help=f"run only this {name}", **chosen)


def wanted(args: argparse.Namespace, **cell: Any) -> bool:
    """Whether a cell passes the filters: options of these names, None if not given."""
    return all(getattr(args, name) in (None, value) for name, value in cell.items())


def show(args: argparse.Namespace, marker: str, text: str) -> None:
    """Prints a script's text; ``write`` puts it into the page too, and draws it unless the script does."""
    print(text)
    if args.action == "write":
        args.page.write_text(replace_between(args.page.read_text(), marker, text))
        import draw_results

        if args.page.stem not in draw_results.PICTURES:
            draw_results.write(args.page)


def train(agent: str, run: Path, *flags: str) -> float:
    """Trains in the folder ``run``, or continues what was begun there; seconds of all calls so far.

    They are kept beside the folder, ``<run>.seconds``, also when a call is interrupted.
    """
    command = ["resume", str(run)] if run.exists() else ["train", agent, "--run-dir", str(run), *flags]
    spent = run.with_name(f"{run.name}.seconds")
    before = float(spent.read_text()) if run.exists() and spent.exists() else 0.0
    start = time.perf_counter()
    try:
        subprocess.run([sys.executable, "-m", "rlopt.cli.main", *command], check=True)
    finally:
        whole = before + time.perf_counter() - start
        spent.parent.mkdir(parents=True, exist_ok=True)
        spent.write_text(repr(whole))
    return whole


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
