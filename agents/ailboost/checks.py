"""What AILBoost refuses: settings out of range and spaces that it cannot use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gymnasium import spaces

from rlopt.agents.imitation.adversarial_losses import check_reward_form
from rlopt.errors import ConfigError, SpaceError, unknown_name
from rlopt.validation import MAX_LEARNING_RATE, check_number, require

WEIGHTINGS = ("bias_corrected", "constant", "uniform", "recent")

# name -> (smallest, largest, whether the smallest is allowed, whether it is a whole number)
_RANGES: dict[str, tuple[float, float, bool, bool]] = {
    "recent_size": (1, math.inf, True, True),
    "learner_steps": (0, math.inf, True, True),
    "policy_steps": (1, math.inf, True, True),
    "discriminator_steps": (0, math.inf, True, True),
    "discriminator_batch_size": (1, math.inf, True, True),
    "discriminator_learning_rate": (0, MAX_LEARNING_RATE, True, False),
    "gradient_penalty": (0, math.inf, True, False),
    "output_bound": (0, math.inf, False, False),
}


def check_settings(settings: Mapping[str, Any], gamma: float) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for a setting of :class:`rlopt.AILBoost` outside its range."""
    for name, bounds in _RANGES.items():
        check_number(name, settings[name], *bounds)
    for name in ("normalize_inputs", "relabel", "absorbing"):
        require(type(settings[name]) is bool, f"{name} is {settings[name]!r}: give True or False")
    if settings["weighting"] not in WEIGHTINGS:
        raise unknown_name("weighting", str(settings["weighting"]), WEIGHTINGS)
    check_reward_form(settings["reward_form"], settings["divergence"])
    require(
        not settings["absorbing"] or gamma < 1,
        "gamma is 1 and the absorbing state has no value then: give gamma < 1 or absorbing=False",
    )


def check_model(model: Any) -> None:
    """Raises unless the observations and the replay buffer of ``model`` can be learned from with a discriminator.

    :raises rlopt.errors.SpaceError: Dict observations
    :raises rlopt.errors.ConfigError: a replay buffer off the device, normalised observations or rewards, hindsight
    """
    name = type(model).__name__
    if not isinstance(model.observation_space, spaces.Box):
        raise SpaceError(
            f"{name} takes flat observations or images, not {model.observation_space}: flatten them first "
            "(gymnasium.wrappers.FlattenObservation)"
        )
    if not hasattr(model.replay_buffer, "relabel"):
        raise ConfigError(
            f"{name} computes rewards when a batch is drawn: leave replay_buffer_class out, or give 'device' or "
            "'device_n_step'"
        )
    if model.get_vec_normalize_env() is not None:
        raise ConfigError(
            f"{name} compares observations with those of the demonstrations: switch normalize_observations and "
            "normalize_rewards off"
        )
