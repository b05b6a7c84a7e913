"""Finds and reads the logs that a command line names, including rlopt's run folders. No torch."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rlopt.analysis.curves import EVALUATION, TRAINING, RunCurve, default_key, read_run_curve
from rlopt.analysis.logs.d3rlpy import PARAMS, read_d3rlpy
from rlopt.analysis.logs.log import Log
from rlopt.analysis.logs.sb3 import EVALUATIONS, MONITOR, PROGRESS, read_sb3
from rlopt.analysis.logs.tensorboard import MARK, read_tensorboard
from rlopt.analysis.logs.wandb import CORL_SCORE, read_wandb
from rlopt.errors import RunError
from rlopt.run_folder import RunFolder, named_runs

DEPTH = 4
"""Folders within folders in which logs are looked for: RL Zoo's are two deep."""
_MOST = 10_000


def named_logs(names: Iterable[str | Path]) -> list[Path]:
    """The run folders and the logs of other libraries that a command line names; as :func:`named_runs`.

    :raises rlopt.errors.RunError: if a pattern matches neither
    """
    return named_runs(names, find_logs)


def find_logs(path: Path, depth: int = DEPTH) -> list[Path]:
    """``path`` if it is a log; else the logs in it, by name. Run folders of rlopt are none."""
    if reader_of(path) is not None:
        return [path]
    if depth == 0 or not path.is_dir() or RunFolder(path).config.is_file():
        return []
    folders = sorted(entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False))
    return [log for folder in folders[:_MOST] for log in find_logs(Path(folder), depth - 1)]


def reader_of(path: Path) -> Callable[[Path], Log | list[Log]] | None:
    """Which reader takes a file or folder, by the names of the files; None if none does."""
    if path.is_file():
        return _reader_of({path.name}) or (read_wandb if path.suffix == ".csv" else None)
    if not path.is_dir() or RunFolder(path).config.is_file():
        return None
    return _reader_of({entry.name for entry in os.scandir(path) if entry.is_file()})


def _reader_of(names: set[str]) -> Callable[[Path], Log | list[Log]] | None:
    if EVALUATIONS in names or PROGRESS in names or any(name.endswith(MONITOR) for name in names):
        return read_sb3
    if any(MARK in name for name in names):
        return read_tensorboard
    return read_d3rlpy if PARAMS in names and any(name.endswith(".csv") for name in names) else None


def read_curves(
    runs: Sequence[str | Path],
    key: str | None = None,
    x: str = "steps",
    env: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[str, list[RunCurve]]:
    """The curves of runs, ours and others', in the order given, and the key that they show.

    :param runs: run folders, and logs of Stable-Baselines3, RL Zoo, CleanRL, d3rlpy or W&B
    :param key: as in :func:`rlopt.analysis.curves.read_run_curve`, or a name of the logs' own; None takes evaluations
        where all have them, else training returns
    :param x: ``steps`` or ``seconds``
    :param env: the environment of logs that do not name theirs
    :param report: told in one line why it is not evaluations
    :raises RunError: if one is neither, or has no curve
    """
    paths = [Path(run) for run in runs]
    found: list[Path | Log] = []
    for path in paths:
        reader = reader_of(path)
        if reader is None:
            found.append(path)
            continue
        logs = reader(path)
        found += logs if isinstance(logs, list) else [logs]
    if key is None:
        key = default_key([run for run in found if isinstance(run, Path)], x, report)
        without = next((run for run in found if isinstance(run, Log) and EVALUATION not in run.series), None)
        if key == EVALUATION and without is not None:
            report(f"training returns are used for all: {without.path} has no evaluations")
            key = TRAINING
        unknown = next((run for run in found if isinstance(run, Log) and key not in run.series), None)
        if unknown is not None:
            raise RunError(_no_returns(unknown, key, next((r for r in found if isinstance(r, Path)), None)))
    return key, [read_run_curve(run, key, x) if isinstance(run, Path) else run.curve(key, x, env) for run in found]


def _no_returns(log: Log, key: str, ours: Path | None) -> str:
    """That a log has nothing to compare unless a key is named."""
    has = ", ".join(log.series)
    if key == TRAINING and EVALUATION in log.series:
        return f"{log.path} has no training returns, and {ours} no evaluations: compare runs that have the same of them"
    scores = f"; {CORL_SCORE} is no return, and compares with its like alone" if CORL_SCORE in log.series else ""
    return f"{log.path} has neither evaluations nor training returns: it has {has}; name one with --key{scores}"
