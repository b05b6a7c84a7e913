"""A training run: from settings to a run folder, stoppable at any instant and continued exactly."""

import dataclasses
import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rlopt.checkpoint.files import Checkpoint, checkpoint_step, latest_checkpoint, list_checkpoints
from rlopt.checkpoint.model_state import OwnState, learn_from
from rlopt.console.output import Console
from rlopt.console.progress import Counted
from rlopt.envs.calls import time_limit
from rlopt.errors import ConfigError, EnvFaultError, NonFiniteError, RloptError, RunError, cure_of, one_line
from rlopt.loggers.profiler import Profile
from rlopt.loggers.wandb import open_wandb
from rlopt.loggers.writers import RunLogs
from rlopt.preferences.environment import find_learned_reward
from rlopt.registry import import_agent
from rlopt.run_folder import RunFolder, default_folder, shell_quote
from rlopt.runs.boundary import PROOF, EpisodeRecorder, HookState, RunHook, mean_return, read_verdict
from rlopt.runs.build import build
from rlopt.settings.fields import check_settings
from rlopt.settings.run import RunConfig
from rlopt.state.envs import split_chain
from rlopt.state.proof import EXACT, FRESH, UNPROVED, Prover, Steps, Verdict, prove
from rlopt.storage.checked_folder import read_checked

PROOF_SECONDS = 5.0
"""That a resume takes to repeat recorded steps."""


@dataclass(frozen=True)
class RunResult:
    """How a call of :func:`train` or :func:`resume` ended."""

    path: Path
    """The run folder."""
    step: int
    """Environment steps done."""
    exit_code: int
    """0 when the run is complete, 130 or 143 when Ctrl-C or SIGTERM stopped it."""
    best_return: float | None
    """Best mean return of an evaluation, None if there was none."""


def train(agent: str, run: RunConfig, agent_config: Any, console: Console | None = None) -> RunResult:
    """Trains from the first step and writes a run folder.

    :param agent: a name of ``rlopt train --help``, or ``module:Class``, which is imported
    :param run: settings of the run
    :param agent_config: settings of the agent, an instance of its config class
    :param console: receives the run's lines and progress; the default suits a run that is alone in its process
    :raises rlopt.errors.RunError: if the run folder exists and is not empty
    :raises rlopt.errors.RloptError: for settings, environments or spaces that cannot be used, or a full disk
    :raises rlopt.errors.EnvFaultError: if an environment raises, does not answer in time or returns an invalid value; a
        checkpoint of the last complete update is written first
    :raises rlopt.errors.NonFiniteError: at the first NaN or infinite loss; checkpoints are kept
    """
    console = console or Console()
    import_agent(agent)
    check_settings(run)
    check_settings(agent_config)
    folder = RunFolder(Path(run.run_dir) if run.run_dir else default_folder(agent, run, f"seed{run.seed}"))
    folder.require_new()
    reward = None if run.reward is None else str(Path(run.reward).resolve())  # a resume may be elsewhere
    run = dataclasses.replace(run, run_dir=str(folder.path), reward=reward)
    model, env_settings = build(agent, run, agent_config)
    run = dataclasses.replace(run, backend=env_settings.backend)
    try:
        with folder.locked(), _disk_errors(folder):
            folder.require_new()
            console.say(f"run folder: {folder.path}")
            folder.write_config(agent, run, agent_config)
            folder.record_versions(_machine(model))
            return _learn(folder, agent, run, model, env_settings, None, console)
    finally:
        _close(model)


def resume(
    path: str | Path,
    total_timesteps: int | None = None,
    *,
    data: str | Path | None = None,
    no_later_than: int | None = None,
    env_timeout: float | None = None,
    console: Console | None = None,
) -> RunResult:
    """Continues a run from its newest undamaged checkpoint, or from the start if it was killed before the first.

    On the CPU, with the same packages, the result equals, bit for bit, the result of a run that was never stopped. A
    line says whether that was shown for the environments, or not, or whether fresh episodes begin.

    :param path: the run folder
    :param total_timesteps: train up to this step instead; schedules then follow the new length from here on
    :param data: new path of the data set or the demonstrations, if they were moved; other data are refused
    :param no_later_than: pass over checkpoints of later steps
    :param env_timeout: a new limit in seconds, in place of the one the run was started with
    :param console: as for :func:`train`
    :raises rlopt.errors.RunError: if ``path`` is not a run folder, or another process trains in it
    :raises rlopt.errors.ConfigError: if more steps are done than asked for, or the run learns from no data
    :raises rlopt.errors.CheckpointError: if there are checkpoints but all are damaged, or they are another model's
    """
    console = console or Console()
    folder = RunFolder(Path(path))
    agent, run, agent_config = folder.read_config()
    if data is not None:
        agent_config = _with_data(agent, agent_config, data)
    if env_timeout is not None:
        run = dataclasses.replace(run, env_timeout=env_timeout)
    with folder.locked(), _disk_errors(folder):
        checkpoint = newest_checkpoint(folder, console, no_later_than)
        total = run.total_timesteps if total_timesteps is None else total_timesteps
        if checkpoint is not None and total_timesteps is not None and checkpoint.step > total:
            raise ConfigError(
                f"{folder.path} has done {checkpoint.step:,} steps: give more with --total-timesteps, not {total}"
            )
        if checkpoint is not None and checkpoint.step >= total:
            console.say(f"{folder.path} is complete: {checkpoint.step:,} of {total:,} steps are done")
            if console.alone:
                console.say(f"to train on: {folder.command} --total-timesteps {2 * checkpoint.step}")
            console.say(f"run folder: {folder.path}")
            return RunResult(folder.path, checkpoint.step, 0, _hook_state(checkpoint).best_return)
        run = dataclasses.replace(run, total_timesteps=total, run_dir=str(folder.path))
        # What a checkpoint holds has begun already, and the run that it began from may be gone.
        begun = run if checkpoint is None else dataclasses.replace(run, init_from=None)
        model, env_settings = build(agent, begun, agent_config)
        try:
            console.say(f"run folder: {folder.path}")
            step = 0 if checkpoint is None else checkpoint.step
            for warning in folder.record_versions(_machine(model), resumed_at=step):
                console.say(f"warning: {warning}")
            folder.write_config(agent, run, agent_config)
            if checkpoint is None:
                console.say("there is no checkpoint yet: starting from step 0")
            else:
                console.say(f"continuing from {checkpoint.path.name} ({step:,} of {total:,} steps)")
            return _learn(folder, agent, run, model, env_settings, checkpoint, console)
        finally:
            _close(model)


def _with_data(agent: str, agent_config: Any, data: str | Path) -> Any:
    """The settings with another place of the data set or the demonstrations; which they must be, the model checks."""
    name = next((name for name in ("dataset", "demos") if hasattr(agent_config, name)), None)
    if name is None:
        raise ConfigError(f"{agent} learns from no data: leave --data out")
    path = Path(data).expanduser()
    return dataclasses.replace(agent_config, **{name: str(path.resolve()) if path.exists() else str(data)})


def _learn(
    folder: RunFolder,
    agent: str,
    run: RunConfig,
    model: BaseAlgorithm,
    env_settings: Any,
    checkpoint: Checkpoint | None,
    console: Console,
) -> RunResult:
    """Trains ``model`` to the end or to a stop, from ``checkpoint`` if there is one."""
    state = HookState() if checkpoint is None else _hook_state(checkpoint)
    positions = None if checkpoint is None else checkpoint.trees["run"]["logs"]
    start = 0 if checkpoint is None else checkpoint.step
    # Events of a run that was killed before its first checkpoint are hidden too, hence -1.
    resumed_at = start if checkpoint is not None else (-1 if folder.tensorboard.exists() else None)
    with console.stop_signals() as stop:
        logs = RunLogs(folder.path, positions, resumed_at)
        for log in logs.files:
            if log.missing_rows:
                console.say(f"warning: {log.path.name} lacks {log.missing_rows} rows that it had at the checkpoint")
        logs.add(open_wandb(folder, run, console.say))
        counted = _counted(model, run)
        done = start if checkpoint is None or counted.attribute == "num_timesteps" else (
            checkpoint.trees["agent"][counted.attribute]
        )  # fmt: skip
        progress = console.progress(counted.total, done, counted.unit)
        progress.watch(lambda: int(getattr(model, counted.attribute)))
        metadata = {"agent": agent, "run": dataclasses.asdict(run), "env": env_settings.as_dict()}
        hook = RunHook(folder, run, env_settings, logs, progress, stop, metadata, state, counted.attribute)
        if checkpoint is not None:
            hook.write_best()
        if note := _end_of_rollouts(model, counted.total, done):
            console.say(note)
        model.set_logger(logs.logger)
        model.boundary_hook = hook  # type: ignore[attr-defined]
        if hasattr(model, "stop_request"):  # what it plays between two boundaries is long, and can be given up
            model.stop_request = stop
        profile = Profile(model, folder.path) if run.profile else None
        exit_code = 1
        try:
            kept = partial(_what_is_kept, hook, model, console)
            say = partial(_say_kind_of_resume, console, folder, model)
            with _rescuing(folder, kept), time_limit(run.env_timeout, kept):
                _run_to_the_end(model, run.total_timesteps, checkpoint, EpisodeRecorder(logs.episodes), say)
                if not hook.stopped:
                    hook.finish(model)
                exit_code = stop.exit_code if hook.stopped else 0
        finally:
            progress.finish(mean_return(model))
            logs.close(exit_code)
            if profile is not None:
                console.say(profile.finish(model))
    _say_end(console, folder, run, model.num_timesteps, hook)
    return RunResult(folder.path, model.num_timesteps, exit_code, state.best_return)


def _end_of_rollouts(model: BaseAlgorithm, total: int, done: int) -> str:
    """Where the run ends, if that is well beyond ``total`` because the last rollout is a whole one."""
    rollout = model.n_steps * model.n_envs if isinstance(model, OnPolicyAlgorithm) else 1
    end = done + -(-(total - done) // rollout) * rollout
    if end <= 1.05 * total:
        return ""
    return (
        f"the run ends at step {end:,}, with a whole rollout of {rollout:,} steps (n_steps x environments); "
        "evaluations come between rollouts"
    )


def _prove_again(folder: RunFolder, model: BaseAlgorithm, at_step: int) -> Verdict:
    """Repeats in this process the steps that the run's process has recorded."""
    try:
        _, trees = read_checked(folder.proof, PROOF)
        steps = Steps.from_tree(trees["steps"])
    except (RloptError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Verdict(UNPROVED, f"the recorded steps cannot be read ({one_line(error)})")
    assert model.env is not None
    return prove(split_chain(model.env)[1], trees["env"], steps, at_step, PROOF_SECONDS)


def _counted(model: Any, run: RunConfig) -> Counted:
    """What the run is the end of: steps, unless the agent has a budget of another kind."""
    if hasattr(model, "counted"):
        counted: Counted = model.counted(run.total_timesteps)
        return counted
    return Counted(run.total_timesteps, getattr(model, "step_unit", "env steps"))


def _run_to_the_end(
    model: BaseAlgorithm,
    total: int,
    checkpoint: Checkpoint | None,
    callback: EpisodeRecorder,
    say: Callable[[str | None], None],
) -> None:
    # The hook writes the rows, at boundaries, so Stable-Baselines3's own interval is switched off.
    learned = find_learned_reward(model.env)
    callbacks = [callback] if learned is None else [callback, learned.callback()]
    options: dict[str, Any] = {"callback": callbacks, "log_interval": None}
    if checkpoint is None:
        model.learn(total, **options)
        return
    trees = {name: tree for name, tree in checkpoint.trees.items() if name != "run"}
    learn_from(model, trees, total, report=say, **options)


def _say_kind_of_resume(console: Console, folder: RunFolder, model: BaseAlgorithm, fresh_episodes: str | None) -> None:
    """One line: the environments continue exactly, or not, or nobody knows."""
    if fresh_episodes is not None:
        console.say(f"warning: resume: {fresh_episodes}")
    elif not isinstance(model, OwnState) and Prover.can_compare(model.env):
        verdict = read_verdict(folder)
        if verdict.kind == EXACT:
            verdict = _prove_again(folder, model, verdict.at_step)
        if verdict.kind == FRESH:  # but this time it could be restored
            verdict = Verdict(UNPROVED, f"a comparison could not restore them ({verdict.reason})")
        console.say(f"{'' if verdict.kind == EXACT else 'warning: '}resume: {verdict.sentence()}")


def _say_end(console: Console, folder: RunFolder, run: RunConfig, step: int, hook: RunHook) -> None:
    if hook.stopped and console.alone:
        name = hook.stop.received.name if hook.stop.received is not None else "a signal"
        console.say(
            f"stopped by {name} at step {step:,} of {run.total_timesteps:,}, checkpoint written; continue with:"
        )
        console.say(folder.command)
    elif not hook.stopped and hook.state.best_return is not None:
        console.say(f"best evaluation: mean return {hook.state.best_return:.1f} ({hook.state.best_checkpoint})")
        # What a run's file names is imported only on demand, see rlopt.registry.refuse_import.
        env = f" --env {shell_quote(run.env)}" if ":" in run.env else ""
        console.say(f"evaluate it with: rlopt evaluate {folder.quoted} --checkpoint best{env}{folder.agent_option}")
    if console.alone:
        console.say(f"run folder: {folder.path}")


def newest_checkpoint(folder: RunFolder, console: Console, no_later_than: int | None = None) -> Checkpoint | None:
    """The newest whole checkpoint, up to step ``no_later_than`` if given; None if none was ever written.

    Damaged newer ones are named and set aside.
    """
    found = list_checkpoints(folder.checkpoints)
    if not found or no_later_than == 0:
        return None
    checkpoint = latest_checkpoint(
        folder.checkpoints, lambda line: console.say(f"warning: {line}"), no_later_than=no_later_than
    )
    for damaged in found[found.index(checkpoint.path) + 1 :]:
        if no_later_than is not None and checkpoint_step(damaged) > no_later_than:
            continue  # passed over, not damaged
        # Left in place, it would count among the newest that are kept.
        target = damaged.with_name(f"damaged-{damaged.name}")
        if not target.exists():
            damaged.rename(target)
    return checkpoint


def _hook_state(checkpoint: Checkpoint) -> HookState:
    tree = checkpoint.trees.get("run")
    if not isinstance(tree, Mapping) or "logs" not in tree:
        raise RunError(f"{checkpoint.path} was not written by rlopt train: load it with rlopt.load instead")
    names = {field.name for field in dataclasses.fields(HookState)}
    return HookState(**{name: value for name, value in tree.items() if name in names})


def _machine(model: BaseAlgorithm) -> dict[str, Any]:
    return {"device": str(model.device), "torch_threads": torch.get_num_threads()}


def _close(model: BaseAlgorithm) -> None:
    if model.env is not None:
        model.env.close()


def _what_is_kept(hook: RunHook, model: BaseAlgorithm, console: Console) -> str:
    """Writes what an environment that failed has left whole; says it, and how the run continues."""
    kept = hook.rescue(model)
    return f"{kept}: when that is fixed, continue with {hook.folder.command}" if console.alone else kept


@contextmanager
def _rescuing(folder: RunFolder, what_is_kept: Callable[[], str]) -> Iterator[None]:
    """Adds to the error of an environment what is kept of the run, and to one of the update the last checkpoint.

    After an update that failed the networks are not good, so that nothing is written.
    """
    try:
        yield
    except EnvFaultError as error:
        raise type(error)(f"{error}; {what_is_kept()}") from error.__cause__
    except NonFiniteError as error:
        found = list_checkpoints(folder.checkpoints)
        last = f"the last good checkpoint is {found[-1]}" if found else "no checkpoint was written before"
        raise NonFiniteError(f"{error}; {last}") from error


@contextmanager
def _disk_errors(folder: RunFolder) -> Iterator[None]:
    """Turns a full disk or memory, or a folder that was removed, into one line.

    Checkpoints that exist are whole: they are written beside and renamed.
    """
    try:
        yield
    except MemoryError as error:
        raise RunError(
            f"memory is full ({one_line(error)}): lower batch_size, buffer_size or n_envs in a new run, or free memory "
            f"and continue with {folder.command}"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOENT:
            folder.require_there()
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            what = f"cannot write to {folder.path} ({error.strerror})"
            raise RunError(f"{what}: free space there, then continue with {folder.command}") from error
        if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM):
            what = f"{error.filename or folder.path} cannot be used ({error.strerror})"
            raise RunError(f"{what}: move it away or allow access, then continue with {folder.command}") from error
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise RunError(f"{error.strerror}: {cure_of(error, '')}, then continue with {folder.command}") from error
        raise
