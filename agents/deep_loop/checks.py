"""Spaces and environments that DeepLOOP refuses because it would get their average reward wrong."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_normalize

from rlopt.errors import ConfigError, SpaceError


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
            "DeepLOOP takes no VecNormalize: the gain is in units of the environment's reward, and changing "
            "statistics would change the current hypothesis; leave out normalize_rewards and normalize_observations"
        )
