"""Spaces and replay buffers that soft actor-critic cannot use."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from rlopt.algorithms.arguments import check_observation_space, check_real_actions
from rlopt.errors import ConfigError, SpaceError, require, unknown_name
from rlopt.replay.buffers import DeviceDictReplayBuffer, DeviceReplayBuffer
from rlopt.replay.her import DeviceHerReplayBuffer
from rlopt.replay.n_step import DeviceNStepReplayBuffer

REPLAY_BUFFERS: dict[str, type[ReplayBuffer]] = {
    "replay": ReplayBuffer,
    "n_step": NStepReplayBuffer,
    "dict": DictReplayBuffer,
    "her": HerReplayBuffer,
    "device": DeviceReplayBuffer,
    "device_n_step": DeviceNStepReplayBuffer,
    "device_dict": DeviceDictReplayBuffer,
    "device_her": DeviceHerReplayBuffer,
}


def resolve_replay_buffer(choice: str | type[ReplayBuffer] | None) -> type[ReplayBuffer] | None:
    """A replay buffer class from its name in :data:`REPLAY_BUFFERS`; classes and None pass through."""
    if isinstance(choice, str):
        if choice not in REPLAY_BUFFERS:
            raise unknown_name("replay_buffer_class", choice, REPLAY_BUFFERS)
        return REPLAY_BUFFERS[choice]
    return choice


def fitting_replay_buffer(observation_space: spaces.Space, n_steps: int) -> type[DeviceReplayBuffer]:
    """The replay buffer on the training device for these observations and ``n_steps``."""
    if isinstance(observation_space, spaces.Dict):
        return DeviceDictReplayBuffer
    return DeviceNStepReplayBuffer if n_steps > 1 else DeviceReplayBuffer


DISCRETE = "rlopt.MDPO or rlopt.PPO, or rlopt.DifferentialDQN for an average reward"
"""What learns discrete actions, for people."""


def check_spaces(
    observation_space: spaces.Space, action_space: spaces.Space, agent: str, discrete: str = DISCRETE
) -> None:
    """Raises :class:`rlopt.errors.SpaceError` unless the actions are a bounded Box and the observations are usable.

    :param agent: the name of the class, for people
    :param discrete: what takes discrete actions in its place, for people
    """
    if not isinstance(action_space, spaces.Box):
        raise SpaceError(
            f"{agent} needs a continuous (Box) action space, not {action_space}: for discrete actions use {discrete}"
        )
    check_real_actions(action_space)
    if 0 in action_space.shape:
        raise SpaceError(f"the action space {action_space} has no dimensions: give the agent something to do")
    if not (np.isfinite(action_space.low).all() and np.isfinite(action_space.high).all()):
        raise SpaceError(
            f"the action space {action_space} is unbounded: give its Box finite bounds, for instance with "
            "gymnasium.wrappers.TransformAction"
        )
    if not (action_space.low < action_space.high).all():
        raise SpaceError(
            f"the action space {action_space} has a dimension without extent: remove it from the environment"
        )
    check_observation_space(observation_space)


def check_random_shift(random_shift: int, observation_space: spaces.Space) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for shifts of observations that are not images."""
    require(
        random_shift == 0 or is_image_space(observation_space, check_channels=False),
        f"random_shift is for images, not {observation_space}: leave it out",
    )


def check_replay(
    observation_space: spaces.Space, *, n_steps: int, replay_buffer_class: Any, optimize_memory_usage: bool
) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for a replay that Stable-Baselines3's buffers cannot give.

    Such are hindsight goals in a task without goals, and n-step returns of Dict observations.
    """
    goals = {"observation", "achieved_goal", "desired_goal"}
    if isinstance(replay_buffer_class, type) and issubclass(replay_buffer_class, HerReplayBuffer):
        given = observation_space.spaces.keys() if isinstance(observation_space, spaces.Dict) else set()
        require(
            goals <= given,
            "hindsight replay needs a task whose observations are named observation, achieved_goal and desired_goal: "
            "leave it off, or take a task with goals such as PointMaze_UMaze-v3",
        )
    if n_steps == 1 or replay_buffer_class is not None:
        return
    if isinstance(observation_space, spaces.Dict):
        raise ConfigError(
            "n_steps > 1 does not work with Dict observations: set n_steps=1 or flatten them with "
            "gymnasium.wrappers.FlattenObservation"
        )
    require(not optimize_memory_usage, "n_steps > 1 does not work with optimize_memory_usage: switch one of them off")
