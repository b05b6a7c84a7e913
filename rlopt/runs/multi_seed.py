"""Runs of several seeds in one process: ``rlopt train ... --seeds 0..7``, and their continuation.

Every run is an ordinary one with a folder and a thread of its own. One thread runs at a time; where all runs wait for a
gradient step, the steps are made in one joint call (:mod:`rlopt.optim.lockstep`).
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rlopt.checkpoint.files import checkpoint_step, list_checkpoints, read_checkpoint
from rlopt.console.output import SharedConsole, SharedProgress
from rlopt.console.progress import say
from rlopt.console.signals import StopRequest, StopSignals
from rlopt.envs.calls import time_limit
from rlopt.errors import ConfigError, DamagedCheckpointError, RloptError, RunError, environment_traceback, one_line
from rlopt.optim.lockstep import Lockstep
from rlopt.run_folder import GROUP_FILE, RunFolder, default_folder, read_json, write_json
from rlopt.runs.train import RunResult, resume, train
from rlopt.settings.run import RunConfig, parse_seeds
from rlopt.settings.wandb import in_wandb_group


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


def train_seeds(agent: str, run: RunConfig, agent_config: Any) -> ManyResult:
    """Trains a run for each of ``run.seeds`` at once; ``run.run_dir`` will hold their folders, seed0 and so on.

    :raises rlopt.errors.ConfigError: for seeds that cannot be read, or profile
    :raises rlopt.errors.RloptError: as :func:`rlopt.runs.train.train`, if a run cannot begin; later errors are in the
        result
    """
    seeds = parse_seeds(run.seeds or "")
    if run.profile:
        raise ConfigError("--profile measures one run: give --seed instead of --seeds")
    if run.seed:
        raise ConfigError(f"--seed {run.seed} and --seeds {run.seeds}: give one of them")
    name = f"seeds{seeds[0]}-{seeds[-1]}"
    group = GroupFolder(Path(run.run_dir) if run.run_dir else default_folder(agent, run, name))
    group.require_new()
    run = dataclasses.replace(run, run_dir=str(group.path))
    jobs = {name: partial(train, agent, own, agent_config) for name, own in _runs(run).items()}

    def begun() -> None:
        group.write_config(agent, run, agent_config)

    return _run_all(group, jobs, run, begun)


def resume_seeds(
    path: Path, total_timesteps: int | None = None, data: str | None = None, env_timeout: float | None = None
) -> ManyResult:
    """Continues the runs in the folder ``path``, together, from the newest checkpoint that every one of them has.

    On the CPU the result equals, bit for bit, the result of runs that were never stopped, as with
    :func:`rlopt.runs.train.resume`. Runs that failed are left out. Where no step has a checkpoint of every run, each
    continues from its own newest.

    :param data: as for :func:`rlopt.runs.train.resume`, and so is ``env_timeout``
    :raises rlopt.errors.RloptError: as :func:`rlopt.runs.train.resume`, if a run cannot begin; later errors are in the
        result
    :raises rlopt.errors.RunError: if every run has failed
    """
    group = GroupFolder(path)
    agent, run, agent_config = group.read_config()
    run = dataclasses.replace(run, run_dir=str(path), env_timeout=env_timeout or run.env_timeout)
    failed = group.failures()
    for name, reason in failed.items():
        again = RunFolder(path / name).command
        print(f"{name} failed and is left out: {reason}; when that is fixed, continue it with {again}", flush=True)
    runs = {name: own for name, own in _runs(run).items() if name not in failed}
    if not runs:
        raise RunError(f"every run in {path} has failed: continue them one by one, or start again")
    folders = {name: RunFolder(path / name) for name in runs}
    step = common_step(list(folders.values()))
    if step is None:
        print("warning: no step has a checkpoint of every run: each continues from its own newest", flush=True)
    jobs: dict[str, Callable[..., RunResult]] = {}
    for name, own in runs.items():
        if folders[name].config.is_file():
            options: dict[str, Any] = {"data": data, "no_later_than": step, "env_timeout": env_timeout}
            jobs[name] = partial(resume, folders[name].path, total_timesteps, **options)
        else:  # killed before it began, or lost
            own = own if total_timesteps is None else dataclasses.replace(own, total_timesteps=total_timesteps)
            jobs[name] = partial(train, agent, own, agent_config)
    return _run_all(group, jobs, run)


def common_step(folders: Sequence[RunFolder]) -> int | None:
    """The newest step at which every run has a whole checkpoint.

    0 if the runs were stopped while they wrote their first checkpoints, so that all begin again; None if there is no
    such step. Runs that went on from different steps would not make the same joint gradient steps again.
    """
    checkpoints = [{checkpoint_step(path): path for path in list_checkpoints(f.checkpoints)} for f in folders]
    for step in sorted(set.intersection(*map(set, checkpoints)), reverse=True):
        if all(_is_whole(own[step]) for own in checkpoints):
            return step
    none_yet = any(not own for own in checkpoints)
    return 0 if none_yet and all(len(own) <= 1 for own in checkpoints) else None


def _is_whole(checkpoint: Path) -> bool:
    try:
        read_checkpoint(checkpoint, only=())
    except DamagedCheckpointError:
        return False
    return True


class GroupFolder(RunFolder):
    """The folder with the run folders of several seeds. Nothing is created by naming it."""

    @property
    def config(self) -> Path:
        """The file that says which runs belong together and with which settings."""
        return self.path / GROUP_FILE

    def failures(self) -> dict[str, str]:
        """The runs that failed, each with its error."""
        path = self.path / "failures.json"
        content = read_json(path, "remove it to continue these runs too") if path.is_file() else {}
        return {str(name): str(reason) for name, reason in content.items()} if isinstance(content, dict) else {}

    def add_failures(self, failures: Mapping[str, BaseException]) -> None:
        """Notes runs that failed, so that the others can be continued without them."""
        if failures and self.path.is_dir():
            new = {name: one_line(error) for name, error in failures.items()}
            write_json(self.path / "failures.json", {**self.failures(), **new})


def _runs(run: RunConfig) -> dict[str, RunConfig]:
    """The settings of each run of a group, by its name."""
    return {
        f"seed{seed}": dataclasses.replace(
            in_wandb_group(run, Path(run.run_dir or "").name),
            seed=seed,
            seeds=None,
            run_dir=str(Path(run.run_dir or "") / f"seed{seed}"),
        )
        for seed in parse_seeds(run.seeds or "")
    }


def _run_all(
    group: GroupFolder,
    jobs: Mapping[str, Callable[..., RunResult]],
    run: RunConfig,
    begun: Callable[[], None] = lambda: None,
) -> ManyResult:
    """Runs ``jobs``, each of which takes its console, and says how they ended.

    :param run: the settings that they share
    :param begun: called when the first run begins to train
    """
    stop, progress = StopRequest(), SharedProgress(len(jobs), begun)
    named = [partial(_reporting, job, SharedConsole(name, progress, stop)) for name, job in jobs.items()]
    with StopSignals() as signals:
        # Set between two rounds, so that every run sees the request in the same round.
        def on_round() -> None:
            stop.received = signals.received

        before = torch.get_num_threads()
        if run.num_threads:
            torch.set_num_threads(run.num_threads)  # this thread makes the joint calls
        try:
            with time_limit(run.env_timeout, lambda: f"continue from the last checkpoints with {group.command}"):
                outcomes = Lockstep(named, on_round).run()
        finally:
            torch.set_num_threads(before)
            progress.end()
    ended = dict(zip(jobs, outcomes, strict=True))
    failures = {name: outcome for name, outcome in ended.items() if isinstance(outcome, BaseException)}
    runs = {name: outcome for name, outcome in ended.items() if isinstance(outcome, RunResult)}
    group.add_failures(failures)
    codes = [2 for _ in failures] + [run.exit_code for run in runs.values()]
    result = ManyResult(group.path, runs, failures, max(codes))
    _say_end(group, result, stop)
    for error in failures.values():
        if not isinstance(error, RloptError):
            raise error
    return result


def _reporting(job: Callable[..., RunResult], console: SharedConsole) -> RunResult:
    """Says at once when a run that trains fails."""
    try:
        return job(console=console)
    except Exception as error:
        console.leave(one_line(error))
        raise


def _say_end(group: GroupFolder, result: ManyResult, stop: StopRequest) -> None:
    for name, error in result.failures.items():
        say(f"{name} failed: {one_line(error)}")
        if trace := environment_traceback(error):
            print(trace, file=sys.stderr)
        say(f"when that is fixed, continue it with: {RunFolder(group.path / name).command}")
    if any(run.exit_code for run in result.runs.values()) and stop.received is not None:
        say(f"stopped by {stop.received.name}, checkpoints written; continue with:")
        say(group.command)
    elif result.runs:
        step = max(run.step for run in result.runs.values())
        say(f"draw them with: rlopt plot {group.quoted}")
        say(f"train on with: {group.command} --total-timesteps {2 * step}")
    say(f"run folders: {group.path}")
