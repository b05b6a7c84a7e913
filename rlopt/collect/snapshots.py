"""Data of rlopt's own agents in training, at levels that are stated fractions of a stated expert.

After D4RL's gym-mujoco sets (Fu et al., arXiv 2004.07219), whose levels were never defined in numbers: here a level is
a share of the way from the return of uniformly random actions (0) to that of the best checkpoint (1), and both returns
are written into the data set as its reference.
"""

import dataclasses
import shlex
from dataclasses import dataclass
from importlib import metadata as installed
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.checkpoint.choose import environment_settings
from rlopt.checkpoint.files import list_checkpoints, read_checkpoint
from rlopt.checkpoint.load import load
from rlopt.collect.recording import from_replay, record, some_episodes
from rlopt.data.dataset import Dataset
from rlopt.data.environment import made
from rlopt.data.metadata import Metadata
from rlopt.envs.settings import EnvSettings
from rlopt.errors import ConfigError, DataError
from rlopt.evaluation.evaluate import RandomPolicy, evaluate

EVALUATION_SEED = 2_000_003
"""Added to the seed for the episodes that tell a checkpoint's return, which are then not those of the data."""


@dataclass(frozen=True)
class Level:
    """A checkpoint and how good it is."""

    path: Path
    mean_return: float
    share: float
    """0 as good as random actions, 1 as good as the expert."""


def generate_snapshots(
    n: int,
    *,
    seed: int,
    env_id: str,
    level: str,
    run: str | None = None,
    medium_fraction: float = 1 / 3,
    tolerance: float = 0.1,
    episodes: int = 10,
    n_envs: int = 8,
    backend: str = "auto",
) -> Dataset:
    """``n`` transitions of an agent at ``level``, with sampled actions as in training.

    :param level: "random", "medium", "medium-replay" or "expert"
    :param run: run folder, or several with commas between; for "random" it only tells the expert's return
    :param medium_fraction: share of the way from random to expert return that is medium, in (0, 1)
    :param tolerance: largest distance of the medium checkpoint from that share, > 0
    :param episodes: whole episodes, deterministic ones, that tell the return of a checkpoint
    :raises rlopt.errors.ConfigError: an option out of range
    :raises rlopt.errors.DataError: a run of another task, no checkpoint at the level, or too little replay
    """
    if not 0 < medium_fraction < 1 or not tolerance > 0 or episodes < 1 or n_envs < 1:
        raise ConfigError("medium_fraction must be in (0, 1), tolerance > 0, episodes and n_envs at least 1")
    folders = [Path(part.strip()).expanduser() for part in (run or "").split(",") if part.strip()]
    if not folders and level != "random":
        raise ConfigError(f"the level {level} needs --run, a run folder of rlopt train --env {shlex.quote(env_id)}")
    settings = _settings(folders, env_id, n_envs, seed, backend)
    random_policy = _random_policy(settings, seed)
    random_return = _mean_return(random_policy, settings, episodes, seed)
    levels = _levels(folders, settings, random_return, episodes, seed)
    metadata = Metadata(
        **made(settings),
        seed=seed,
        reference_returns=(random_return, levels[-1].mean_return) if levels else None,
        versions={name: installed.version(name) for name in ("rlopt", "gymnasium", "mujoco", "torch")},
    )
    if level == "random":
        return record(random_policy, settings, n, _described(metadata, "uniformly random actions", None))
    expert = levels[-1]
    if level == "expert":
        return record(load(expert.path), settings, n, _described(metadata, "the best checkpoint", expert))
    medium = _nearest(levels, medium_fraction, tolerance)
    if level == "medium":
        return record(load(medium.path), settings, n, _described(metadata, "the medium checkpoint", medium))
    return _replay_up_to(medium, settings, n, seed, metadata)


def _settings(folders: list[Path], env_id: str, n_envs: int, seed: int, backend: str) -> EnvSettings:
    found = EnvSettings(id=env_id)
    for folder in folders:
        metadata = read_checkpoint(_checkpoints(folder)[-1], only=()).metadata
        found = environment_settings(metadata)
        if found.id != env_id:
            raise DataError(f"{folder} is a run in {found.id}, not in {env_id}: give a run in that task")
    return dataclasses.replace(found, n_envs=n_envs, seed=seed, backend=backend)


def _checkpoints(folder: Path) -> list[Path]:
    found = list_checkpoints(folder / "checkpoints") if (folder / "checkpoints").is_dir() else []
    if not found:
        raise DataError(f"{folder} holds no checkpoints: give a run folder of rlopt train")
    return found


def _random_policy(settings: EnvSettings, seed: int) -> RandomPolicy:
    from rlopt.envs.make import make_env

    env = make_env(**{**settings.as_dict(), "n_envs": 1})
    env.close()
    return RandomPolicy(env.action_space, seed)


def _mean_return(policy: Any, settings: EnvSettings, episodes: int, seed: int) -> float:
    return evaluate(policy, settings, episodes, seed=seed + EVALUATION_SEED, backend=settings.backend).mean


def _levels(folders: list[Path], settings: EnvSettings, random_return: float, episodes: int, seed: int) -> list[Level]:
    """Every checkpoint of the runs, from the worst to the best."""
    paths = [path for folder in folders for path in _checkpoints(folder)]
    returns = [_mean_return(load(path), settings, episodes, seed) for path in paths]
    best = max(returns, default=random_return)
    if paths and best <= random_return:
        raise DataError(f"no checkpoint is better than random actions ({best:.1f}, {random_return:.1f}): train longer")
    levels = [
        Level(path, value, (value - random_return) / (best - random_return))
        for path, value in zip(paths, returns, strict=True)
    ]
    return sorted(levels, key=lambda found: found.mean_return)


def _nearest(levels: list[Level], fraction: float, tolerance: float) -> Level:
    nearest = min(levels, key=lambda found: abs(found.share - fraction))
    if abs(nearest.share - fraction) > tolerance:
        shares = ", ".join(f"{found.share:.2f}" for found in levels[-12:])
        raise DataError(
            f"no checkpoint is within {tolerance:g} of {fraction:.2f} of the expert; the shares are {shares}: keep "
            "more of them with rlopt train --keep-checkpoints 100 --checkpoint-every N, or give a larger --tolerance"
        )
    return nearest


def _described(metadata: Metadata, what: str, level: Level | None) -> Metadata:
    if level is None:
        return dataclasses.replace(metadata, generator=what)
    run = level.path.parent.parent.name
    how = f"return {level.mean_return:.1f}, share {level.share:.3f} of the expert"
    return dataclasses.replace(metadata, generator=f"{what} of run {run} ({level.path.name}), {how}")


def _replay_up_to(medium: Level, settings: EnvSettings, n: int, seed: int, metadata: Metadata) -> Dataset:
    """The replay buffer of the medium checkpoint, or, of a run without one, equal shares of its checkpoints so far."""
    state = read_checkpoint(medium.path, only=("replay",)).trees["replay"]
    if state is not None:
        described = _described(metadata, "the replay buffer at the medium checkpoint", medium)
        model = load(medium.path)
        return some_episodes(from_replay(state, model.action_space, described), n, seed)
    described = _described(metadata, "equal shares of the checkpoints up to the medium one", medium)
    paths = [path for path in list_checkpoints(medium.path.parent) if path.name <= medium.path.name]
    shares = np.diff(np.linspace(0, n, len(paths) + 1).round().astype(int))
    parts = [
        record(load(path), dataclasses.replace(settings, seed=seed + index), int(share), described)
        for index, (path, share) in enumerate(zip(paths, shares, strict=True))
        if share > 0
    ]
    return Dataset.concatenate(parts)
