"""What DeepLOOP refuses: settings out of range, and environments whose average reward it would get wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_normalize

from rlopt.agents.deep_loop.objective import GainEstimator
from rlopt.errors import ConfigError, SpaceError, unknown_name
from rlopt.validation import check_number, require

ON_TERMINATION = ("refuse", "reset")

# name -> (smallest, largest, whether the smallest is allowed, whether it is a whole number)
_RANGES: dict[str, tuple[float, float, bool, bool]] = {
    "gain_rate": (0, 1, True, False),
    "centring_coef": (0, math.inf, True, False),
    "beta": (0, math.inf, False, False),
    "max_bonus": (0, math.inf, False, False),
    "n_features": (1, 65536, True, True),
    "length_scale": (0, math.inf, False, False),
    "ridge": (0, math.inf, False, False),
    "switch_multiplier": (1, math.inf, False, False),
    "min_interval": (1, math.inf, True, True),
    "max_interval": (1, math.inf, True, True),
    "allowed_resets": (0, 1, True, False),
    "reset_cost_rate": (0, math.inf, True, False),
}


def check_own_settings(settings: Mapping[str, Any]) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for a setting that only :class:`rlopt.DeepLOOP` has, out of range."""
    for name, bounds in _RANGES.items():
        check_number(name, settings[name], *bounds)
    for name in ("bonus", "lazy"):
        require(type(settings[name]) is bool, f"{name} is {settings[name]!r}: give True or False")
    for name, choices in (("gain_estimator", get_args(GainEstimator)), ("on_termination", ON_TERMINATION)):
        if settings[name] not in choices:
            raise unknown_name(name, str(settings[name]), choices)
    cost = settings["reset_cost"]
    if isinstance(cost, str):
        require(cost == "auto", f'reset_cost is {cost!r}: give a number >= 0, or "auto" to learn it')
    else:
        check_number("reset_cost", cost, 0, math.inf, True, False)
    shortest, longest = settings["min_interval"], settings["max_interval"]
    require(shortest <= longest, f"min_interval {shortest} is above max_interval {longest}: exchange them")


def check_observations(observation_space: spaces.Space, bonus: bool, lazy: bool) -> None:
    """Raises :class:`rlopt.errors.SpaceError` for observations that have no features."""
    if (bonus or lazy) and (not isinstance(observation_space, spaces.Box) or is_image_space(observation_space)):
        raise SpaceError(
            f"bonus and lazy need flat Box observations, not {observation_space}: set both to False, or flatten them "
            "with gymnasium.wrappers.FlattenObservation"
        )


def check_not_normalised(env: Any) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for rewards or observations whose scale moves."""
    wrapper: VecNormalize | None = None if env is None else unwrap_vec_normalize(env)
    if wrapper is not None and (wrapper.norm_reward or wrapper.norm_obs):
        raise ConfigError(
            "DeepLOOP takes no VecNormalize: a gain is in units of the environment's reward, and statistics that move "
            "change the hypothesis in force; leave out normalize_rewards and normalize_observations"
        )


def refuse_termination(step: int) -> None:
    """Raises the :class:`rlopt.errors.ConfigError` of an episode that truly ended at ``step``."""
    raise ConfigError(
        f"an episode terminated at step {step}, but an average reward needs a process that goes on: set "
        'on_termination="reset" to make the reset a transition with a price, or wrap the environment in '
        "rlopt.envs.average_reward.ContinuingWrapper"
    )
