"""The environment of a data set: what is recorded of it, and its spaces."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from rlopt.data.dataset import Dataset, Observations
from rlopt.data.metadata import Metadata
from rlopt.envs.settings import EnvSettings
from rlopt.errors import ConfigError, DataError, RloptError, one_line
from rlopt.storage.spaces import encode_space

WRAPPERS = ("frame_stack", "from_pixels", "image_size", "camera_id", "fast_render")
"""The settings of an environment that wrap it."""
_PLAIN = re.compile(r"[\w .+-]{0,100}")


def recorded(settings: EnvSettings, observation_space: Any = None, action_space: Any = None) -> dict[str, Any]:
    """Fields of :class:`rlopt.data.Metadata` that say which environment data are of.

    :param observation_space: as it is recorded, which may be a part of what the environment gives
    """
    default = EnvSettings(id=settings.id)
    wrapped = {name: getattr(settings, name) for name in WRAPPERS if getattr(settings, name) != getattr(default, name)}
    limit = settings.max_episode_steps
    if limit is None:
        from rlopt.envs import names

        limit = names.time_limit(settings.id)
    return {
        "env": settings.id,
        "action_repeat": settings.action_repeat,
        "env_kwargs": settings.env_kwargs or {},
        "wrappers": wrapped,
        "max_episode_steps": limit,
        "observation_space": encoded(observation_space),
        "action_space": encoded(action_space),
    }


def encoded(space: Any) -> dict[str, Any] | None:
    """The JSON of a space, None of one that has none."""
    try:
        return None if space is None else encode_space(space)
    except ConfigError:
        return None


def made(settings: EnvSettings) -> dict[str, Any]:
    """The same fields of an environment, made here once; its settings alone where that fails."""
    from rlopt.envs.make import make_env

    try:
        env = make_env(**dataclasses.asdict(dataclasses.replace(settings, n_envs=1, backend="gymnasium")))
    except RloptError:
        return {"env": settings.id, "action_repeat": settings.action_repeat}
    env.close()
    return recorded(env.settings, env.observation_space, env.action_space)


def settings_of(metadata: Metadata, where: str = "the data set") -> EnvSettings:
    """Settings with which :func:`rlopt.make_env` makes the environment that data were recorded in.

    :param where: the file, for people
    :raises rlopt.errors.ConfigError: arguments that a file may not hand to an environment
    :raises rlopt.errors.ImportRefusedError: an id that imports a module
    """
    from rlopt.registry import refuse_import

    refuse_import(metadata.env, where)
    return EnvSettings(
        id=metadata.env,
        action_repeat=metadata.action_repeat,
        env_kwargs=safe_kwargs(metadata.env_kwargs, where),
        **{name: value for name, value in metadata.wrappers.items() if name in WRAPPERS},
    )


def safe_kwargs(kwargs: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    """``kwargs`` of a file as arguments of an environment: numbers and words, no paths and nothing to import.

    :raises rlopt.errors.ConfigError: for other texts
    """

    def check(value: Any) -> None:
        if isinstance(value, str) and not _PLAIN.fullmatch(value):
            raise ConfigError(
                f"{where}: its environment takes the argument {one_line(repr(value))}, which could name a file or a "
                "module: give --env and --env-kwargs yourself if you trust it"
            )
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(part)

    check(dict(kwargs))
    return dict(kwargs) or None


def spaces_of(dataset: Dataset) -> tuple[spaces.Space, spaces.Space]:
    """Observation and action space of a data set: as recorded, else of its environment, else as wide as its arrays.

    The arrays tell no bounds, so observations are then unbounded and continuous actions in [-1, 1].

    :raises rlopt.errors.DataError: actions beyond [-1, 1] in an environment that cannot be made
    """
    observation_space, action_space = dataset.metadata.recorded_spaces()
    if observation_space is not None and action_space is not None:
        return observation_space, action_space
    reason = "it cannot be made here"
    try:
        found = dataclasses.replace(dataset.metadata, **made(settings_of(dataset.metadata))).recorded_spaces()
        observation_space, action_space = observation_space or found[0], action_space or found[1]
    except RloptError as error:
        reason = one_line(error)
    return (
        observation_space or fitting_observation_space(dataset.observations),
        action_space or _fitting_action_space(dataset, reason),
    )


def fitting_observation_space(observations: Observations) -> spaces.Space:
    """A space as wide as the dtype of the arrays; keys with slashes stay as they are."""
    if isinstance(observations, dict):
        return spaces.Dict({key: fitting_observation_space(part) for key, part in observations.items()})
    shape = observations.shape[1:]
    if observations.dtype == np.uint8:
        return spaces.Box(0, 255, shape, np.uint8)
    if observations.dtype == np.int64:
        return spaces.Box(int(observations.min()), int(observations.max()), shape, np.int64)
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


def _fitting_action_space(dataset: Dataset, reason: str) -> spaces.Space:
    actions = dataset.actions
    if actions.ndim == 1:
        return spaces.Discrete(int(actions.max()) + 1)
    if actions.dtype == np.int64:
        return spaces.MultiDiscrete(actions.max(axis=0) + 1)
    if np.abs(actions).max() <= 1:
        return spaces.Box(-1.0, 1.0, actions.shape[1:], np.float32)
    raise DataError(
        f"actions of the data set exceed [-1, 1], and nothing tells the bounds of its environment "
        f"{dataset.metadata.env!r} ({reason}): give the environment, in Python load_dataset(..., env=ID), else --env ID"
    )
