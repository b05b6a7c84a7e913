"""What on-policy MDPO refuses: settings out of range and action spaces that it cannot use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gymnasium import spaces

from rlopt.algorithms.checks import check_counted_from_zero, check_observation_space
from rlopt.errors import SpaceError
from rlopt.optim.compiled_step import check_compile_choice
from rlopt.validation import MAX_LEARNING_RATE, check_number, require

ACTION_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)

# name -> (smallest, largest, whether the smallest is allowed, whether it is a whole number)
_RANGES: dict[str, tuple[float, float, bool, bool]] = {
    "n_steps": (1, math.inf, True, True),
    "batch_size": (1, math.inf, True, True),
    "n_epochs": (1, math.inf, True, True),
    "gamma": (0, 1, True, False),
    "gae_lambda": (0, 1, True, False),
    "n_value_epochs": (1, math.inf, True, True),
    "value_batch_size": (1, math.inf, True, True),
    "step_size": (0, math.inf, False, False),
    "tsallis_q": (1, 2, True, False),
    "ent_coef": (0, math.inf, True, False),
    "clip_range_vf": (0, math.inf, False, False),
    "max_grad_norm": (0, math.inf, False, False),
    "learning_rate": (0, MAX_LEARNING_RATE, True, False),
    "value_learning_rate": (0, MAX_LEARNING_RATE, True, False),
}
_MAY_BE_NONE = ("batch_size", "value_batch_size", "clip_range_vf", "value_learning_rate")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for a setting of :class:`rlopt.MDPO` outside its range."""
    for name, bounds in _RANGES.items():
        value = settings[name]
        schedule = name.endswith("learning_rate") and callable(value)
        unlimited = (value is None and name in _MAY_BE_NONE) or (value == math.inf and name == "max_grad_norm")
        if not schedule and not unlimited:
            check_number(name, value, *bounds)
    choice = settings["step_size_schedule"]
    require(choice in ("linear", "constant"), f"step_size_schedule is linear or constant, not {choice!r}")
    check_compile_choice(settings["compile"])


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """Raises :class:`rlopt.errors.SpaceError` unless MDPO can use both spaces."""
    check_observation_space(observation_space)
    if not isinstance(action_space, ACTION_SPACES):
        raise SpaceError(
            f"MDPO cannot use the action space {action_space}: it takes Box, Discrete, MultiDiscrete or MultiBinary; "
            "flatten other spaces with gymnasium.wrappers"
        )
    if isinstance(action_space, spaces.Box) and 0 in action_space.shape:
        raise SpaceError(f"the action space {action_space} has no dimensions: give the agent something to do")
    check_counted_from_zero(action_space, "the action space")
