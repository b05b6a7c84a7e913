"""The folders of d3rlpy's FileAdapter: ``params.json`` and ``<metric>.csv`` of epoch, step, value. No torch."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.analysis.curves import EVALUATION, TRAINING
from rlopt.analysis.logs.log import Log, Series, plain_settings, split_name
from rlopt.errors import RunError, one_line, resource_error
from rlopt.run_folder import read_json
from rlopt.storage.csv_rows import csv_rows

PARAMS = "params.json"
_EVALUATIONS = ("environment", "evaluation")
"""Names that d3rlpy gives the mean return of evaluation episodes: of learning from data, and online."""
_ONLINE = "rollout_return"


def read_d3rlpy(path: Path) -> Log:
    """Reads a folder of d3rlpy; steps count gradient steps, or environment steps where it learned online.

    :raises RunError: a file cannot be read
    """
    series = {file.stem: _read(file) for file in sorted(path.glob("*.csv"))}
    for name in _EVALUATIONS:
        if name in series:
            series[EVALUATION] = series[name]
    if _ONLINE in series:
        series[TRAINING] = series[_ONLINE]
    params = read_json(path / PARAMS)
    params = params if isinstance(params, dict) else {}
    # Version 2 keeps the settings of an algorithm apart: {"config": {"type": "cql", "params": {...}}}.
    inner = params.get("config", params)
    settings: Any = inner.get("params", inner) if isinstance(inner, dict) else {}
    unit = "environment steps" if _ONLINE in series else "gradient steps"
    name = str(params.get("algorithm", split_name(path)[0]))
    return Log(path, name, "d3rlpy", series, None, plain_settings(settings if isinstance(settings, dict) else {}), unit)


def _read(file: Path) -> Series:
    rows = []
    try:
        for row in csv_rows(file):
            try:
                rows.append((float(row[1]), float(row[2])))
            except (ValueError, IndexError):  # a row that a crash has cut
                rows.append((math.nan, math.nan))
    except (OSError, ValueError, csv.Error) as error:
        what = f"{file} cannot be read"
        raise resource_error(error, what) or RunError(f"{what}: {one_line(error)}") from None
    table = np.array(rows, dtype=np.float64).reshape(-1, 2)
    return Series(table[:, 0], table[:, 1])
