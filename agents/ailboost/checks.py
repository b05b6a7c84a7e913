"""Spaces and replay buffers that AILBoost cannot use."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces

from rlopt.errors import ConfigError, SpaceError


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
