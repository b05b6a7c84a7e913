"""CSV files that were exported from Weights & Biases: a panel of several runs, or the history of one. No torch."""

import re
from collections import Counter
from pathlib import Path

import numpy as np

from rlopt.analysis.curves import EVALUATION, TRAINING, Floats, read_columns
from rlopt.analysis.logs.log import Log, Series, moving_mean, split_name
from rlopt.analysis.logs.tensorboard import name_of_cleanrl
from rlopt.errors import RunError

STEPS = ("global_step", "step", "time/total_timesteps", "Step", "_step")
"""Columns that may hold the step, environment steps before W&B's own count of calls."""
SECONDS = ("_runtime", "Relative Time (Process)", "Relative Time (Wall)")
_EVALUATIONS = (EVALUATION, "eval/mean_reward", "eval/return", "evaluation/return")
CORL_SCORE = "d4rl_normalized_score"
"""What CORL's offline learners log, 0 for a random policy and 100 for an expert: no return."""
_HASH = re.compile(r"-(?=[0-9]*[a-f])[0-9a-f]{8}$")
"""How CORL tells runs of the same settings apart; eight digits alone may be a date."""
_OURS = re.compile(r"(?P<agent>[a-z][a-z0-9_]*)-(?P<env>.+)-seed(?P<seed>\d+)-\d{8}T\d{6}Z(?:-\d+)?")
"""How rlopt train names its runs."""


def read_wandb(path: Path) -> list[Log]:
    """Reads an exported file: a log for each run of a panel, one for a history.

    :raises RunError: it cannot be read, or is not an export
    """
    table, columns = read_columns(path, None)
    at = next((name for name in STEPS if name in columns), None)
    if at is None:
        raise RunError(f"{path} has none of the columns {', '.join(STEPS)}: give a CSV file that W&B exported")
    clock = next((table[name] for name in SECONDS if name in columns), None)
    panels = [name for name in columns if " - " in name and not name.endswith(("__MIN", "__MAX"))]
    if not panels:
        series = {name: Series(table[at], table[name], clock) for name in columns if name != at}
        return [_log(path, path.stem, series)]
    runs: dict[str, dict[str, Series]] = {}
    for column in panels:
        run, _, metric = column.rpartition(" - ")
        runs.setdefault(run, {})[metric] = Series(table[at], table[column], clock)
    names = {run: _HASH.sub("", run) if CORL_SCORE in series else run for run, series in runs.items()}
    shared = Counter(names[run] for run in runs if names[run] != run)
    return [
        _log(path / run.replace("/", "_"), names[run] if shared[names[run]] > 1 else run, series)
        for run, series in runs.items()
    ]


def _log(path: Path, run: str, series: dict[str, Series]) -> Log:
    evaluation = next((name for name in _EVALUATIONS if name in series), None)
    if evaluation is not None:
        series[EVALUATION] = series[evaluation]
    if "charts/episodic_return" in series:
        series[TRAINING] = _moving(series["charts/episodic_return"])
    ours = _OURS.fullmatch(run)
    named = name_of_cleanrl(run) or ({} if ours is None else {**ours.groupdict(), "seed": int(ours["seed"])})
    known = {"seed": named["seed"]} if named else {}
    unit = "gradient steps" if CORL_SCORE in series else "environment steps"
    return Log(path, named.get("agent", split_name(Path(run))[0]), "W&B", series, named.get("env"), known, unit)


def _moving(series: Series) -> Series:
    kept = np.isfinite(series.values)
    seconds: Floats | None = None if series.seconds is None else series.seconds[kept]
    return Series(series.steps[kept], moving_mean(series.values[kept]), seconds)
