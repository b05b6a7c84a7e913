"""Learning curves: read from run folders, grouped, put on a common grid. Imports neither torch nor matplotlib."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rlopt.errors import ConfigError, RunError, unknown_name
from rlopt.registry import former_agent
from rlopt.run_folder import read_json
from rlopt.statistics.aggregates import Statistic, bootstrap_band, iqm

Floats = npt.NDArray[np.float64]

EVALUATION = "evaluation"
"""The key that stands for the returns of evaluations.csv instead of a column of progress.csv."""
TRAINING = "rollout/ep_rew_mean"
"""The mean return of the last episodes of training, which explores and whose policy changes meanwhile."""
RATE = "rollout/average_reward"
"""What there is in place of episodes' returns in a task that never ends."""
X_COLUMNS = {"steps": ("step", "time/total_timesteps"), "seconds": ("time/time_elapsed",)}
"""What can lie on the horizontal axis, and the columns of progress.csv that may hold it."""
GRID_POINTS = 300


@dataclass(frozen=True)
class RunCurve:
    """One quantity of one run."""

    path: Path
    agent: str
    env: str
    settings: dict[str, Any]
    """The run's and the agent's settings, by name."""
    x: Floats
    """``[points]``, strictly increasing."""
    y: Floats
    """``[points]``, finite."""


@dataclass(frozen=True)
class GroupCurve:
    """Runs that differ in their seed, on a common grid."""

    env: str
    label: str
    runs: tuple[RunCurve, ...]
    x: Floats
    """``[points]``: from the latest start to the earliest end of the runs."""
    center: Floats
    """``[points]``: the statistic over runs; of one run, its own curve."""
    low: Floats | None
    """Lower edge of the bootstrap band; None for a single run."""
    high: Floats | None


def default_key(runs: Iterable[str | Path], x: str = "steps", report: Callable[[str], None] = lambda line: None) -> str:
    """What is drawn and compared unless it is said: evaluations where every run has them, else training's returns.

    :param x: as for :func:`read_run_curve`; evaluations are written by step alone
    :param report: told in one line why it is not evaluations
    """
    if x != "steps":
        report("the returns are training's: evaluations are written by step, not by second")
        return TRAINING
    without = next((run for run in map(Path, runs) if (run / "config.json").is_file() and not _is_evaluated(run)), None)
    if without is None:
        return EVALUATION
    report(f"the returns are training's: {without} has no evaluations")
    return TRAINING


def _is_evaluated(run: Path) -> bool:
    try:
        with (run / "evaluations.csv").open("rb") as file:
            return len(file.readlines(1 << 16)) > 1
    except OSError:
        return False


def read_run_curve(run: Path, key: str = TRAINING, x: str = "steps") -> RunCurve:
    """Reads a quantity of a run folder.

    :param run: folder with config.json and progress.csv (or evaluations.csv)
    :param key: a column of progress.csv, or ``evaluation`` for the mean return of each evaluation
    :param x: ``steps`` (environment steps) or ``seconds`` (since the start of training)
    :raises RunError: if the folder is no run, or the file is missing, empty or holds no finite value of ``key``
    :raises UnknownNameError: if ``key`` or ``x`` does not exist, with the nearest name
    """
    if x not in X_COLUMNS:
        raise unknown_name("horizontal axis", x, X_COLUMNS)
    config_file = run / "config.json"
    if not config_file.is_file():
        why = "it holds no config.json" if run.is_dir() else "there is no such folder"
        raise RunError(f"{run} is not a run folder ({why}): give folders that rlopt train printed")
    config = read_json(config_file)
    if not isinstance(config, dict) or not isinstance(config.get("run"), dict) or "agent" not in config:
        raise RunError(f"{config_file} is damaged: agent or run is missing")
    if not isinstance(config.get("agent_config") or {}, dict):
        raise RunError(f"{config_file} is damaged: agent_config is not a mapping of settings")
    points = _evaluations(run, x) if key == EVALUATION else _progress(run, key, x)
    kept = {at: value for at, value in points if math.isfinite(at) and math.isfinite(value)}
    if not kept:
        raise RunError(f"{run} holds no finite value of {key} yet: train it for longer, or plot another --key")
    xs = np.array(sorted(kept), dtype=np.float64)
    agent, settings = former_agent(str(config["agent"]), config.get("agent_config") or {})
    return RunCurve(
        path=run,
        agent=agent,
        env=_environment(config["run"]),
        settings={**settings, **config["run"]},
        x=xs,
        y=np.array([kept[at] for at in xs.tolist()], dtype=np.float64),
    )


def _environment(run: dict[str, Any]) -> str:
    """Its id, with the arguments that make another task of it."""
    name, arguments = str(run.get("env", "")), run.get("env_kwargs")
    return f"{name} {arguments}" if arguments else name


def group_curves(
    curves: Iterable[RunCurve],
    *,
    by: str = "agent",
    statistic: Statistic = iqm,
    confidence: float = 0.95,
    report: Callable[[str], None] = lambda line: None,
) -> list[GroupCurve]:
    """Groups runs by environment and ``by`` and aggregates each group over its runs.

    :param by: ``agent``, a field of the runs' settings, such as ``preset`` or
        ``learning_rate``, or several of these with commas between
    :param statistic: over runs at each point of the grid, see :mod:`rlopt.statistics.aggregates`
    :param report: told in one line when a group's grid ends early because one of its runs did
    :raises ConfigError: if a run is given twice or the runs of a group do not overlap
    :raises UnknownNameError: if ``by`` is no setting of a run
    """
    groups: dict[tuple[str, str], list[RunCurve]] = defaultdict(list)
    seen: set[Path] = set()
    for curve in curves:
        if curve.path.resolve() in seen:
            raise ConfigError(f"run {curve.path} is given twice: seeds would be counted twice")
        seen.add(curve.path.resolve())
        groups[curve.env, run_label(curve, by)].append(curve)
    return [
        aggregate_runs(env, label, runs, statistic, confidence, report) for (env, label), runs in sorted(groups.items())
    ]


def run_label(curve: RunCurve, by: str) -> str:
    """The name of a run's group: "mdpo", "kl_coef = 0.1" or, of several fields, "mdpo, kl_coef = 0.1".

    :param by: as in :func:`group_curves`
    :raises UnknownNameError: if a part of it is no setting of the run
    """
    parts = []
    for part in by.split(","):
        name = part.strip().replace("-", "_")
        if name == "agent":
            parts.append(curve.agent)
        elif name in curve.settings:
            parts.append(f"{name} = {curve.settings[name]}")
        else:
            raise unknown_name("setting to group by", part.strip(), ["agent", *curve.settings])
    return ", ".join(parts)


def aggregate_runs(
    env: str,
    label: str,
    runs: Sequence[RunCurve],
    statistic: Statistic = iqm,
    confidence: float = 0.95,
    report: Callable[[str], None] = lambda line: None,
) -> GroupCurve:
    """The curve of a group of runs of one environment, with its band; arguments and errors as in group_curves."""
    if len(runs) == 1:
        return GroupCurve(env, label, tuple(runs), runs[0].x, runs[0].y, None, None)
    start, end = max(run.x[0] for run in runs), min(run.x[-1] for run in runs)
    longest = max(run.x[-1] for run in runs)
    if start > end:
        raise ConfigError(f"the runs of {label} on {env} do not overlap: plot them one by one")
    if end < 0.95 * longest:
        shortest = min(runs, key=lambda run: run.x[-1])
        report(f"{label} on {env}: drawn up to {end:g} of {longest:g}, where {shortest.path} ends")
    grid = np.linspace(start, end, GRID_POINTS) if end > start else np.array([start])
    values = np.stack([np.interp(grid, run.x, run.y) for run in runs])
    low, high = bootstrap_band(values, statistic, confidence)
    return GroupCurve(env, label, tuple(runs), grid, np.asarray(statistic(values, axis=0)), low, high)


def _progress(run: Path, key: str, x: str) -> list[tuple[float, float]]:
    rows, columns = _rows(run / "progress.csv")
    if key not in columns and key.startswith("rollout/ep_") and RATE in columns:
        raise RunError(f"{run} has no {key}: a task that never ends has no episodes; plot --key {RATE}")
    if key not in columns and key.startswith("rollout/ep_"):
        raise RunError(f"{run} has no {key}: no episode has ended yet; train for longer, or plot --key {EVALUATION}")
    if key not in columns:
        raise unknown_name("key", key, [EVALUATION, *columns], hint="see the header of progress.csv")
    at = next((column for column in X_COLUMNS[x] if column in columns), None)
    if at is None:
        raise RunError(f"{run / 'progress.csv'} has no column {' or '.join(X_COLUMNS[x])}: plot over another --x")
    return [(_number(row.get(at)), _number(row.get(key))) for row in rows]


def _evaluations(run: Path, x: str) -> list[tuple[float, float]]:
    if x != "steps":
        raise ConfigError("evaluations are written by step: plot them with --x steps")
    rows, _ = _rows(run / "evaluations.csv", f"train it for longer, or take --key {TRAINING}")
    by_step: dict[float, dict[float, float]] = defaultdict(dict)
    for index, row in enumerate(rows):
        value = _number(row.get("return"))
        if math.isfinite(value):
            episode = _number(row.get("episode"))
            by_step[_number(row.get("step"))][episode if math.isfinite(episode) else -1.0 - index] = value
    return [(step, float(np.mean(list(episodes.values())))) for step, episodes in by_step.items()]


def _rows(path: Path, cure: str = "train it for longer") -> tuple[list[dict[str, str]], list[str]]:
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            reader = csv.DictReader(line.replace("\0", "") for line in file)  # a crash can leave zeros at the end
            rows = list(reader)
            columns = list(reader.fieldnames or [])
    except FileNotFoundError:
        raise RunError(f"{path} does not exist: the run has logged nothing yet, {cure}") from None
    except (OSError, csv.Error) as error:
        raise RunError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not rows:
        raise RunError(f"{path} holds no rows: the run has logged nothing yet, {cure}")
    return rows, columns


def _number(cell: str | None) -> float:
    try:
        return float(cell) if cell else math.nan
    except ValueError:
        return math.nan
