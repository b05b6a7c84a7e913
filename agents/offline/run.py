"""Runs that learn from a data set: what is different from :mod:`rlopt.runs.train`. Imports no torch by itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlopt.console.progress import say_once
from rlopt.errors import ConfigError, RloptError
from rlopt.registry import refuse_import
from rlopt.settings.run import RunConfig

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from rlopt.data.dataset import Dataset
    from rlopt.data.metadata import Metadata
    from rlopt.envs.settings import EnvSettings


def complete(run: RunConfig, agent_config: Any) -> tuple[RunConfig, Any]:
    """Takes the environment from the data set where ``--env`` is not given, and makes a data set's path absolute.

    :raises rlopt.errors.ConfigError: no data set, one that cannot be read, or several environments
    """
    if run.n_envs != 1:
        raise ConfigError(f"--n-envs {run.n_envs}: learning from a data set takes no environment steps; leave it out")
    if not agent_config.dataset:
        raise ConfigError("no data set given: add --dataset, a folder, an HDF5 file, a D4RL name or minari:ID")
    path = Path(agent_config.dataset).expanduser()
    if path.exists():
        # The run may be continued from another working directory.
        agent_config = dataclasses.replace(agent_config, dataset=str(path.resolve()))
    if not run.env:
        from rlopt.data.metadata import UNKNOWN_ENV

        metadata = _read(agent_config.dataset, None).metadata
        if metadata.env == UNKNOWN_ENV:
            raise ConfigError(f"{agent_config.dataset} does not say of which environment it is: give --env")
        refuse_import(metadata.env, agent_config.dataset)
        _check_action_repeat(run.action_repeat if run.action_repeat != 1 else metadata.action_repeat, metadata)
        env = _environment_of(metadata, agent_config.dataset, run)
        run = dataclasses.replace(run, env=env, action_repeat=metadata.action_repeat)
        wrapped = {name: value for name, value in metadata.wrappers.items() if name in _WRAPPED}
        run = dataclasses.replace(run, **{n: v for n, v in wrapped.items() if getattr(run, n) == getattr(RunConfig, n)})
    return run, agent_config


def _environment_of(metadata: Metadata, dataset: str, run: RunConfig) -> str:
    """The id that the data set names; of D4RL's, which are not installed with current versions, Gymnasium's."""
    from rlopt.data.names import D4RL_NAMES, gymnasium_id

    if metadata.env not in D4RL_NAMES:
        return metadata.env
    found = gymnasium_id(metadata.env)
    if found is None and run.eval_every > 0:
        mapped = "; rlopt data convert IN OUT --pointmaze task maps it into one" if "maze2d" in metadata.env else ""
        raise ConfigError(
            f"{dataset} is D4RL's {metadata.env}, whose environment is not here: give --env ID of one with the same "
            f"spaces, or --eval-every 0 to train without evaluations{mapped}"
        )
    return found or metadata.env


_WRAPPED = ("frame_stack", "from_pixels", "image_size", "fast_render")
"""What a data set can say of its environment that a run has a setting for."""


def build(agent: str, run: RunConfig, agent_config: Any) -> tuple[BaseAlgorithm, EnvSettings]:
    """Makes the model of a run from its data set, as :func:`rlopt.runs.build.build` does from its environment.

    No environment is kept: the one that is named is made once for its spaces and its resolved settings, in which the
    run is evaluated. With ``eval_every=0`` it need not exist here.

    :raises rlopt.errors.ConfigError: if the environment to evaluate in cannot be made
    :raises rlopt.errors.DataError: for data that cannot be read or are of another environment
    """
    import torch
    from gymnasium.spaces import Dict

    from rlopt.agents.offline.fine_tuning import OfflineVecEnv
    from rlopt.data.description import tell_notes
    from rlopt.data.environment import safe_kwargs, spaces_of
    from rlopt.envs.settings import EnvSettings
    from rlopt.registry import agent_spec, resolve
    from rlopt.runs.build import env_arguments
    from rlopt.settings.device import check_device
    from rlopt.storage.json import dump_json

    if not run.env:
        run, agent_config = complete(run, agent_config)
    check_device(run.device)
    if run.num_threads:
        torch.set_num_threads(run.num_threads)
    dataset = training_data(
        agent_config, run.seed, EnvSettings(run.env, action_repeat=run.action_repeat, env_kwargs=env_arguments(run))
    )
    tell_notes(dataset)
    metadata = dataset.metadata
    _check_action_repeat(run.action_repeat, metadata)
    if run.env == metadata.env and run.env_kwargs is None and metadata.env_kwargs:
        run = dataclasses.replace(run, env_kwargs=dump_json(safe_kwargs(metadata.env_kwargs, agent_config.dataset)))
    try:
        settings, spaces = _evaluation_env(run)
    except RloptError as error:
        if run.eval_every > 0:
            cure = "give another --env, or --eval-every 0 to train without evaluations"
            raise ConfigError(f"the environment to evaluate in cannot be made ({error}): {cure}") from error
        settings, spaces = EnvSettings(id=run.env, env_kwargs=env_arguments(run)), spaces_of(dataset)
    if run.eval_every == 0 and run.env == metadata.env and metadata.observation_space is not None:
        spaces = spaces_of(dataset)  # which may be a part of what the environment shows
    if settings.id != metadata.env:
        say_once(f"note: the data set is of {metadata.env}; the run is evaluated in {settings.id}")
    model = resolve(agent_spec(agent).algorithm)(
        "MultiInputPolicy" if isinstance(spaces[0], Dict) else "MlpPolicy",
        OfflineVecEnv(1, *spaces),
        dataset=dataset,
        seed=run.seed,
        device=run.device,
        normalize_observations=run.normalize_observations,
        normalize_rewards=run.normalize_rewards,
        **agent_config.algorithm_kwargs(),
    )
    return model, settings


def training_data(agent_config: Any, seed: int, env: EnvSettings | None = None) -> Dataset:
    """The data set that a run learns from: the recorded transitions, then the augmented ones if there are to be any.

    The same settings and seed give the same data, so a run that is resumed continues with them.

    :param env: the environment of a file that does not say it
    :raises rlopt.errors.ConfigError: a guide that does not exist
    :raises rlopt.errors.DataError: fewer episodes than asked for
    :raises rlopt.errors.AugmentationError: the data set cannot be augmented
    """
    dataset = _read(agent_config.dataset, env)
    n_demos = getattr(agent_config, "n_demos", None)
    if n_demos is not None:
        from rlopt.data.demonstrations import Demonstrations

        dataset = Demonstrations.from_dataset(dataset).trajectories(n_demos)
    if agent_config.augment == "none":
        return dataset
    from rlopt.agents.guda.config import GuDAConfig
    from rlopt.agents.guda.tasks import make_augmented
    from rlopt.settings.fields import from_mapping

    settings = {
        "method": agent_config.augment,
        "guide": agent_config.guide,
        "n": agent_config.n_augmented,
        "seed": seed,
        "include_source": True,
    }
    if env is not None and ":" in env.id and env.id == dataset.metadata.env:
        settings["env"] = env.id  # a person named it, so its module may be imported
    return make_augmented(dataset, from_mapping(GuDAConfig, settings, "augmentation"))


def _check_action_repeat(given: int, metadata: Metadata) -> None:
    recorded = metadata.action_repeat
    if given != recorded:
        raise ConfigError(
            f"the data set was recorded with action repeat {recorded}, but the run has {given}: give --action-repeat "
            f"{recorded}, or data recorded with {given}"
        )


def _evaluation_env(run: RunConfig) -> tuple[EnvSettings, tuple[Any, Any]]:
    from rlopt.runs.build import make_run_env

    env = make_run_env(dataclasses.replace(run, n_envs=1))
    env.close()
    return env.settings, (env.observation_space, env.action_space)


def _read(name: str, env: EnvSettings | None) -> Dataset:
    from rlopt.data import load_dataset

    return load_dataset(name, default_env=env)
