"""Scores of several tasks on one scale: 0 for a low reference of each task, 1 for a high one. No torch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlopt.errors import ConfigError, unknown_name
from rlopt.run_folder import read_json
from rlopt.statistics.aggregates import Floats

MIN_MAX, DM_CONTROL = "min-max", "dm_control"
LOW_NAMES, HIGH_NAMES = ("low", "random"), ("high", "expert")


class Scale(NamedTuple):
    """The scores of one task that count as 0 and as 1."""

    low: float
    high: float

    def apply(self, scores: Any) -> Floats:
        """Scores of any shape on this scale."""
        return (np.asarray(scores, dtype=np.float64) - self.low) / (self.high - self.low)


def read_scales(spec: str, tasks: Sequence[str], scores: Mapping[str, Iterable[float]]) -> tuple[dict[str, Scale], str]:
    """The scale of each task, and in words what it was taken from.

    :param spec: "min-max": from the least to the greatest of ``scores``, so that the scale depends on what is compared;
        "dm_control": from 0 to 1000, the bounds of its tasks' returns; or the path of a JSON file such as
        ``{"Hopper-v5": {"random": 18.6, "expert": 3234.3}}``, where "low" and "high" serve as well
    :param tasks: all that need one
    :param scores: of all runs, by task
    :raises ConfigError: if a task has no scale there, or low is not below high
    :raises RunError: if the file cannot be read
    """
    if spec == MIN_MAX:
        scales = {task: Scale(float(min(scores[task])), float(max(scores[task]))) for task in tasks}
        where = "0 is the least and 1 the greatest score of these runs, so that the scale changes with the runs"
    elif spec == DM_CONTROL:
        other = next((task for task in tasks if not task.startswith("dm_control/") or "," in task or "lqr" in task), "")
        if other:
            raise ConfigError(
                f"the returns of {other} are not bounded by 0 and 1000: give --normalise a file or {MIN_MAX}"
            )
        scales, where = {task: Scale(0.0, 1000.0) for task in tasks}, "1 is a return of 1000, dm_control's bound"
    elif Path(spec).is_file():
        scales, where = _from_file(Path(spec), tasks), f"0 is the low and 1 the high reference of {spec}"
    elif Path(spec).suffix:
        raise ConfigError(f"--normalise: there is no file {spec}")
    else:
        raise unknown_name("scale", spec, [MIN_MAX, DM_CONTROL], hint=f"{MIN_MAX}, {DM_CONTROL} or a JSON file")
    for task, scale in scales.items():
        if not scale.low < scale.high:
            raise ConfigError(f"{task} has no scale from {scale.low:g} to {scale.high:g}: low must be below high")
    return scales, where


def _from_file(path: Path, tasks: Sequence[str]) -> dict[str, Scale]:
    data = read_json(path, 'write {"TASK": {"random": 0.0, "expert": 1.0}, ...}')
    if not isinstance(data, dict):
        raise ConfigError(f'{path} is not a mapping of tasks: write {{"TASK": {{"random": 0.0, "expert": 1.0}}, ...}}')
    scales = {}
    for task in tasks:
        if task not in data:
            raise ConfigError(f"{path}: {unknown_name('task', task, map(str, data), hint=f'add {task!r}')}")
        scales[task] = Scale(*(_reference(path, task, data[task], names) for names in (LOW_NAMES, HIGH_NAMES)))
    return scales


def _reference(path: Path, task: str, entry: Any, names: tuple[str, ...]) -> float:
    value = next((entry[name] for name in names if name in entry), None) if isinstance(entry, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{path}: {task!r} needs a finite number as {' or '.join(names)}, not {value!r:.40}")
    return float(value)
