"""What off-policy MDPO refuses: settings out of range and spaces that it cannot use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from rlopt.algorithms.checks import check_observation_space
from rlopt.errors import ConfigError, SpaceError, unknown_name
from rlopt.optim.compiled_step import check_compile_choice
from rlopt.replay.buffers import DeviceDictReplayBuffer, DeviceReplayBuffer
from rlopt.replay.her import DeviceHerReplayBuffer
from rlopt.replay.n_step import DeviceNStepReplayBuffer
from rlopt.validation import MAX_LEARNING_RATE, check_number, require

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
ACTOR_Q = ("min", "first")
KL_UNITS = ("reward", "ent_coef")

# name -> (smallest, largest, whether the smallest is allowed, whether it is a whole number)
_RANGES: dict[str, tuple[float, float, bool, bool]] = {
    "buffer_size": (1, math.inf, True, True),
    "learning_starts": (0, math.inf, True, True),
    "batch_size": (1, math.inf, True, True),
    "tau": (0, 1, False, False),
    "gamma": (0, 1, True, False),
    "gradient_steps": (-1, math.inf, True, True),
    "n_steps": (1, math.inf, True, True),
    "target_update_interval": (1, math.inf, True, True),
    "kl_coef": (0, math.inf, True, False),
    "tsallis_q": (1, 2, True, False),
    "old_policy_period": (1, math.inf, True, True),
    "mean_penalty": (0, math.inf, True, False),
    "log_std_penalty": (0, math.inf, True, False),
    "random_shift": (0, math.inf, True, True),
    "critic_log_prob_bound": (0, math.inf, False, False),
}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for a setting of :class:`rlopt.OffPolicyMDPO` outside its range."""
    for name, bounds in _RANGES.items():
        value = settings[name]
        if name != "critic_log_prob_bound" or value is not None:
            check_number(name, value, *bounds)
    learning_rate = settings["learning_rate"]
    if not callable(learning_rate):
        check_number("learning_rate", learning_rate, 0, MAX_LEARNING_RATE, True, False)
    if settings["actor_q"] not in ACTOR_Q:
        raise unknown_name("actor_q", str(settings["actor_q"]), ACTOR_Q)
    if settings["kl_unit"] not in KL_UNITS:
        raise unknown_name("kl_unit", str(settings["kl_unit"]), KL_UNITS)
    check_compile_choice(settings["compile"])
    floor = settings["log_density_floor"]
    require(
        floor is None or math.isfinite(floor), f"log_density_floor is {floor}: give a finite number of nats or None"
    )
    if settings["analytic_kl"]:
        require(
            settings["tsallis_q"] == 1.0 and floor is None,
            "analytic_kl needs tsallis_q=1 and no log_density_floor: it is the closed form of the KL divergence alone",
        )
    _check_train_freq(settings["train_freq"])
    _check_ent_coef(settings["ent_coef"])
    _check_target_entropy(settings["target_entropy"])


def _check_train_freq(train_freq: Any) -> None:
    frequency, unit = train_freq if isinstance(train_freq, tuple) else (train_freq, "step")
    require(
        isinstance(frequency, int) and frequency >= 1 and unit in ("step", "episode"),
        f'train_freq is {train_freq!r}: give a whole number >= 1, or such as (1, "episode")',
    )


def _check_ent_coef(ent_coef: Any) -> None:
    text = str(ent_coef)
    value = text.removeprefix("auto").removeprefix("_") or "1" if text.startswith("auto") else text
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    smallest = 0.0 if not text.startswith("auto") else math.ulp(0.0)
    require(
        math.isfinite(number) and number >= smallest,
        f'ent_coef is {ent_coef!r}: give a number >= 0, "auto", or "auto_0.1" to start from 0.1',
    )


def _check_target_entropy(target_entropy: Any) -> None:
    try:
        number = 0.0 if target_entropy == "auto" else float(target_entropy)
    except (TypeError, ValueError):
        number = math.nan
    require(math.isfinite(number), f'target_entropy is {target_entropy!r}: give a number of nats or "auto"')


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


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space, agent: str) -> None:
    """Raises :class:`rlopt.errors.SpaceError` unless the actions are a bounded Box and the observations are usable.

    :param agent: the name of the class, for people
    """
    if not isinstance(action_space, spaces.Box):
        raise SpaceError(
            f"{agent} needs a continuous (Box) action space, not {action_space}: for discrete actions use rlopt.MDPO, "
            "or rlopt.LOOP for an average reward"
        )
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
    """Raises :class:`rlopt.errors.ConfigError` for shifts of observations that are no images."""
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
