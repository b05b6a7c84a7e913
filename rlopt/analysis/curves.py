"""Learning curves: read from run folders, grouped, put on a common grid. Imports neither torch nor matplotlib."""

import csv
import dataclasses
import itertools
import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rlopt.errors import ConfigError, RunError, one_line, resource_error, unknown_name
from rlopt.registry import former_agent
from rlopt.run_folder import read_json
from rlopt.statistics.aggregates import Statistic, bootstrap_band, iqm
from rlopt.storage.csv_rows import csv_rows

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
    unit: str | None = None
    """What its steps count, where it is not a run of ours; the agent of ours says."""


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
        report("training returns are used, because evaluations are written by step, not by second")
        return TRAINING
    without = next((run for run in map(Path, runs) if (run / "config.json").is_file() and not _is_evaluated(run)), None)
    if without is None:
        return EVALUATION
    report(f"training returns are used for all: {without} has no evaluations")
    return TRAINING


def _is_evaluated(run: Path) -> bool:
    try:
        return next(itertools.islice(csv_rows(run / "evaluations.csv"), 1, 2), None) is not None
    except FileNotFoundError:
        return False
    except (OSError, ValueError, csv.Error):
        return True  # whoever reads it says what is wrong with it


def read_run_curve(run: Path, key: str = TRAINING, x: str = "steps") -> RunCurve:
    """Reads a quantity of a run folder.

    :param run: folder with config.json and progress.csv (or evaluations.csv)
    :param key: a column of progress.csv, or ``evaluation`` for the mean return of each evaluation
    :param x: ``steps`` (environment steps) or ``seconds`` (since the start of training)
    :raises RunError: if the folder is not a run, or the file is missing, empty or holds no finite value of ``key``
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
    xs, ys = _evaluations(run, x) if key == EVALUATION else _progress(run, key, x)
    xs, ys = sorted_points(xs, ys)
    if not len(xs):
        raise RunError(f"{run} holds no finite value of {key} yet: train it for longer, or plot another --key")
    agent, settings = former_agent(str(config["agent"]), config.get("agent_config") or {})
    return RunCurve(
        path=run, agent=agent, env=_environment(config["run"]), settings={**settings, **config["run"]}, x=xs, y=ys
    )


def without_repeats(curve: RunCurve) -> RunCurve:
    """A curve without the points that repeat the one before, but for the last.

    Means of the last episodes change when episodes end; those of environments side by side end together, and the curve
    would be a staircase.
    """
    kept = np.append(True, curve.y[1:] != curve.y[:-1])
    kept[-1] = True
    return dataclasses.replace(curve, x=curve.x[kept], y=curve.y[kept])


def sorted_points(xs: Floats, ys: Floats) -> tuple[Floats, Floats]:
    """The finite points by rising ``xs``; of several at one place the last one counts. All ``[points]``."""
    finite = np.isfinite(xs) & np.isfinite(ys)
    xs, last = np.unique(xs[finite][::-1], return_index=True)
    return xs, ys[finite][::-1][last]


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
    :raises UnknownNameError: if ``by`` is not a setting of a run
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
    :raises UnknownNameError: if a part of it is not a setting of the run
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


def _progress(run: Path, key: str, x: str) -> tuple[Floats, Floats]:
    table, columns = read_columns(run / "progress.csv", {key, *X_COLUMNS[x]})
    if key not in columns and key.startswith("rollout/ep_") and RATE in columns:
        raise RunError(f"{run} has no {key}: a task that never ends has no episodes; plot --key {RATE}")
    if key.startswith("rollout/ep_") and not any(column.startswith("rollout/ep_") for column in columns):
        raise RunError(f"{run} has no {key}: no episode has ended yet; train for longer, or plot --key {EVALUATION}")
    if key not in columns:
        raise unknown_name("key", key, [EVALUATION, *columns], hint="see the header of progress.csv")
    at = next((column for column in X_COLUMNS[x] if column in columns), None)
    if at is None:
        raise RunError(f"{run / 'progress.csv'} has no column {' or '.join(X_COLUMNS[x])}: plot over another --x")
    return table[at], table[key]


def _evaluations(run: Path, x: str) -> tuple[Floats, Floats]:
    if x != "steps":
        raise ConfigError("evaluations are written by step: plot them with --x steps")
    names = ("step", "episode", "return")
    table, columns = read_columns(run / "evaluations.csv", set(names), f"train it for longer, or take --key {TRAINING}")
    if missing := [name for name in ("step", "return") if name not in columns]:
        raise RunError(f"{run / 'evaluations.csv'} is damaged: it has no column {missing[0]}")
    step, value = table["step"], table["return"]
    unnamed = -1.0 - np.arange(len(step))  # a row without an episode's number is one by itself
    episode = table.get("episode", unnamed)
    episode = np.where(np.isfinite(episode), episode, unnamed)
    played = np.stack([step, episode], axis=1)[np.isfinite(value)][::-1]
    kept, last = np.unique(played, axis=0, return_index=True)  # of an episode that was played again, the last one
    steps, which = np.unique(kept[:, 0], return_inverse=True)
    values = value[np.isfinite(value)][::-1][last]
    return steps, np.bincount(which, weights=values, minlength=len(steps)) / np.bincount(which, minlength=len(steps))


def read_columns(
    path: Path, wanted: Collection[str] | None, cure: str = "train it for longer"
) -> tuple[dict[str, Floats], list[str]]:
    """Those of the ``wanted`` columns that there are, NaN where a cell holds no number, and the names of all.

    :param wanted: None for all
    :raises RunError: the file is missing, empty or cannot be read
    """
    try:
        rows = csv_rows(path)
        columns = next(rows, [])
        places = {name: place for place, name in enumerate(columns) if wanted is None or name in wanted}
        # Eight bytes a number: a file of text takes many times its size in memory as strings.
        table = {name: array("d") for name in places}
        count = 0
        for row in rows:
            count += 1
            for name, place in places.items():
                table[name].append(_number(row[place]) if place < len(row) else math.nan)
    except FileNotFoundError:
        raise RunError(f"{path} does not exist: the run has logged nothing yet, {cure}") from None
    except (OSError, ValueError, csv.Error) as error:
        what = f"{path} cannot be read"
        raise resource_error(error, what) or RunError(f"{what}: {one_line(error)}") from None
    if not count:
        raise RunError(f"{path} holds no rows: the run has logged nothing yet, {cure}")
    return {name: np.frombuffer(column) for name, column in table.items()}, columns


def _number(cell: str) -> float:
    try:
        return float(cell) if cell else math.nan
    except ValueError:
        return math.nan
