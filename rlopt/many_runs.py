"""Runs of several seeds in one process: ``rlopt train ... --seeds 0..7``, and their continuation.

Every run is an ordinary one, with a folder of its own, in a thread of its own; they take turns and make their gradient
steps together (:mod:`rlopt.turns`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rlopt.checkpoint import latest_checkpoint, list_checkpoints
from rlopt.config import RunConfig
from rlopt.console import SharedConsole, SharedProgress
from rlopt.errors import ConfigError, RloptError
from rlopt.run import RunResult, resume, train
from rlopt.run_folder import RunFolder, default_folder, run_folders
from rlopt.stopping import StopSignals, StopWish
from rlopt.turns import Turns

MOST_SEEDS = 1024
_RANGE = re.compile(r"(\d{1,10})\.\.(\d{1,10})")


@dataclass(frozen=True)
class ManyResult:
    """How :func:`train_seeds` or :func:`resume_seeds` ended."""

    path: Path
    """The folder with the runs' folders."""
    runs: dict[str, RunResult]
    """The run of each name, such as "seed3", that did not fail."""
    failures: dict[str, BaseException]
    """What ended the others."""
    exit_code: int
    """0 when all are complete, 2 if one failed, 130 or 143 when a signal stopped them."""


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds that ``text`` names: "0..7" is 0 to 7, "0,3,5" and "0..3,8" are lists.

    :raises rlopt.errors.ConfigError: for anything else, a seed outside [0, 2^31), one named twice, or more than 1024
    """
    seeds: list[int] = []
    for part in re.split(r"[,\s]+", text.strip()):
        span = _RANGE.fullmatch(part)
        low, high = (int(span[1]), int(span[2])) if span else (int(part), int(part)) if part.isdecimal() else (1, 0)
        if high < low:
            raise ConfigError(f"--seeds: {part!r} is no seed: write 0..7 for the seeds 0 to 7, or 0,3,5")
        if high >= 2**31 or high - low >= MOST_SEEDS:
            raise ConfigError(f"--seeds: {part!r}: give at most {MOST_SEEDS} seeds below 2^31")
        seeds += range(low, high + 1)
    repeated = [seed for seed in seeds if seeds.count(seed) > 1]
    if repeated:
        raise ConfigError(f"--seeds: seed {repeated[0]} is named twice")
    if len(seeds) > MOST_SEEDS:
        raise ConfigError(f"--seeds: {len(seeds)} seeds: give at most {MOST_SEEDS}")
    return tuple(seeds)


def train_seeds(agent: str, run: RunConfig, agent_config: Any) -> ManyResult:
    """Trains a run for each of ``run.seeds`` at once; ``run.run_dir`` will hold their folders, seed0 and so on.

    :raises rlopt.errors.ConfigError: for seeds that cannot be read, or profile
    :raises rlopt.errors.RloptError: as :func:`rlopt.run.train`, if a run cannot begin; later errors are in the result
    """
    seeds = parse_seeds(run.seeds or "")
    if run.profile:
        raise ConfigError("--profile measures one run: give --seed instead of --seeds")
    name = f"seeds{seeds[0]}-{seeds[-1]}"
    parent = RunFolder(Path(run.run_dir) if run.run_dir else default_folder(agent, run, name))
    parent.require_new()
    jobs = {}
    for seed in seeds:
        own = dataclasses.replace(run, seed=seed, seeds=None, run_dir=str(parent.path / f"seed{seed}"))
        jobs[f"seed{seed}"] = partial(train, agent, own, agent_config)
    return _run_all(parent, jobs, run.num_threads)


def resume_seeds(path: Path, total_timesteps: int | None = None) -> ManyResult:
    """Continues all runs in the folder ``path``, together, from the newest checkpoint that every one of them has.

    On the CPU the result is bit for bit that of runs that were never stopped, as with :func:`rlopt.run.resume`.

    :raises rlopt.errors.RloptError: as :func:`rlopt.run.resume`, if a run cannot begin; later errors are in the result
    """
    folders = run_folders(path)
    steps = [_newest_step(folder) for folder in folders]
    _, run, _ = RunFolder(folders[0]).read_config()
    jobs = {}
    for folder in folders:
        jobs[folder.name] = partial(resume, folder, total_timesteps, no_later_than=min(steps))
    return _run_all(RunFolder(path), jobs, run.num_threads)


def _newest_step(path: Path) -> int:
    """Step of the newest whole checkpoint of a run, 0 if none was ever written."""
    checkpoints = RunFolder(path).checkpoints
    if not list_checkpoints(checkpoints):
        return 0
    return latest_checkpoint(checkpoints, lambda line: None, only=()).step


def _run_all(parent: RunFolder, jobs: Mapping[str, Callable[..., RunResult]], num_threads: int) -> ManyResult:
    """Runs ``jobs``, each of which takes its console, and says how they ended."""
    wish, progress = StopWish(), SharedProgress(len(jobs))
    named = [partial(job, console=SharedConsole(name, progress, wish)) for name, job in jobs.items()]
    with StopSignals() as signals:

        def on_round() -> None:
            wish.received = signals.received

        before = torch.get_num_threads()
        if num_threads:
            torch.set_num_threads(num_threads)  # joint calls are made in this thread
        try:
            outcomes = Turns(named, on_round).run()
        finally:
            torch.set_num_threads(before)
            progress.end()
    ended = dict(zip(jobs, outcomes, strict=True))
    failures = {name: outcome for name, outcome in ended.items() if isinstance(outcome, BaseException)}
    runs = {name: outcome for name, outcome in ended.items() if isinstance(outcome, RunResult)}
    for error in failures.values():
        if not isinstance(error, RloptError):
            raise error
    codes = [2 for _ in failures] + [run.exit_code for run in runs.values()]
    result = ManyResult(parent.path, runs, failures, max(codes))
    _say_end(parent, result, wish)
    return result


def _say_end(parent: RunFolder, result: ManyResult, wish: StopWish) -> None:
    for name, error in result.failures.items():
        print(f"{name}: failed: {error}")
    if any(run.exit_code for run in result.runs.values()) and wish.received is not None:
        print(f"stopped by {wish.received.name}, checkpoints written; continue with:")
        print(parent.command)
    else:
        print(f"compare them with: rlopt plot {parent.quoted}")
    print(f"run folders: {parent.path}", flush=True)
