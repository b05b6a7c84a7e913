"""What Stable-Baselines3 and RL Zoo write: monitor files, evaluations.npz, progress.csv, args.yml. No torch."""

import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.analysis.curves import EVALUATION, TRAINING, read_columns
from rlopt.analysis.logs.log import Log, Series, moving_mean, plain_settings, split_name
from rlopt.analysis.logs.tensorboard import event_files, read_tensorboard
from rlopt.data.formats.npz import read_npz
from rlopt.errors import ConfigError, DataError, RunError, one_line, resource_error
from rlopt.settings.yaml_files import read_yaml
from rlopt.storage.csv_rows import csv_rows
from rlopt.storage.json import parse_json

MONITOR, EVALUATIONS, PROGRESS = "monitor.csv", "evaluations.npz", "progress.csv"
_STEPS, _SECONDS = "time/total_timesteps", "time/time_elapsed"


def read_sb3(path: Path) -> Log:
    """Reads a folder with any of monitor files, ``evaluations.npz``, ``progress.csv`` and events, or one such file.

    Training returns are the mean of the last 100 episodes, whatever file they come from.

    :raises RunError: a file cannot be read
    """
    series: dict[str, Series] = {}
    files = {file.name: file for file in ([path] if path.is_file() else sorted(path.iterdir()))}
    env = None
    if path.is_dir() and event_files(path):
        series |= read_tensorboard(path).series
    if PROGRESS in files:
        series |= _progress(files[PROGRESS])
    if monitors := [file for name, file in files.items() if name.endswith(MONITOR)]:
        series[TRAINING], env = _monitors(monitors)
    if EVALUATIONS in files:
        series[EVALUATION] = _evaluations(files[EVALUATIONS])
    named = path.parent if path.name in (MONITOR, EVALUATIONS, PROGRESS) else path
    agent, number = split_name(named)
    return _with_zoo(Log(path, agent, "SB3", series, env, {"seed": named.name if number is None else number}), path)


def _monitors(files: list[Path]) -> tuple[Series, str | None]:
    """All episodes by the time of their end, as Stable-Baselines3's load_results orders them, and the environment."""
    parts, begins, env = [], [], None
    for file in files:
        try:
            rows = csv_rows(file)
            header = parse_json(",".join(next(rows, ["#{}"])).removeprefix("#"))
            names = next(rows, ["r", "l", "t"])
            places = [names.index(name) for name in ("r", "l", "t")]
            table = np.array(list(_numbers(rows, places)), dtype=np.float64).reshape(-1, 3)
            begin = float(header.get("t_start", 0.0))
        except (OSError, ValueError, AttributeError, TypeError, csv.Error) as error:
            what = f"{file} cannot be read"
            raise resource_error(error, what) or RunError(f"{what} as a monitor file: {one_line(error)}") from None
        env = header.get("env_id") or env
        parts.append(table)
        begins.append(begin)
    for table, begin in zip(parts, begins, strict=True):
        table[:, 2] += begin - min(begins)
    episodes = np.concatenate(parts)
    episodes = episodes[np.argsort(episodes[:, 2], kind="stable")]
    series = Series(np.cumsum(episodes[:, 1]), moving_mean(episodes[:, 0]), episodes[:, 2])
    return series, None if env in (None, "None") else str(env)


def _numbers(rows: Any, places: list[int]) -> Any:
    for row in rows:
        try:
            yield [float(row[place]) for place in places]
        except (ValueError, IndexError):  # a row that a crash has cut
            continue


def _evaluations(file: Path) -> Series:
    try:
        arrays = read_npz(file, ("timesteps", "results"), ())
        steps, results = (np.asarray(arrays[name], dtype=np.float64) for name in ("timesteps", "results"))
        if steps.ndim != 1 or results.ndim != 2 or len(steps) != len(results):
            raise DataError(f"timesteps {steps.shape} and results {results.shape} do not fit")
    except (DataError, ValueError) as error:
        raise RunError(f"{file} is not an evaluations.npz of Stable-Baselines3: {one_line(error)}") from None
    return Series(steps, results.mean(axis=1))


def _progress(file: Path) -> dict[str, Series]:
    table, columns = read_columns(file, None)
    if "step" in columns or _STEPS not in columns:
        raise RunError(
            f"{file} is not a log of Stable-Baselines3, and no config.json of a run folder is next to it: give whole "
            "folders"
        )
    series = {name: Series(table[_STEPS], table[name], table.get(_SECONDS)) for name in columns if name != _STEPS}
    return series | ({EVALUATION: series["eval/mean_reward"]} if "eval/mean_reward" in series else {})


def _with_zoo(log: Log, path: Path) -> Log:
    """A log with what RL Zoo says of it, in ``<env>/args.yml`` and ``config.yml``; as it is without these."""
    said = next(iter(sorted(path.glob("*/args.yml"))), None) if path.is_dir() else None
    if said is None:
        return log
    args, config = _pairs(said), _pairs(said.with_name("config.yml"))
    total = args.get("n_timesteps")
    budget = total if isinstance(total, int) and total > 0 else config.get("n_timesteps")
    settings = plain_settings(config, ("n_timesteps",)) | {"seed": args.get("seed", log.settings["seed"])}
    if isinstance(budget, int | float) and budget > 0:
        settings["total_timesteps"] = int(budget)
    env = args.get("env", said.parent.name)
    return Log(log.path, str(args.get("algo", log.agent)), "RL Zoo", log.series, str(env), settings, log.unit)


def _pairs(file: Path) -> dict[str, Any]:
    """The settings of a YAML file that Python's OrderedDict was written to; nothing of it is executed."""
    if not file.is_file():
        return {}
    try:
        content = read_yaml(file, str(file), python=True)
    except ConfigError as error:
        raise RunError(str(error)) from None
    while isinstance(content, list) and len(content) == 1:
        content = content[0]
    if isinstance(content, dict):
        return content
    pairs = content if isinstance(content, list) else []
    return {
        str(pair[0]): pair[1] for pair in itertools.islice(pairs, 1000) if isinstance(pair, list) and len(pair) == 2
    }
