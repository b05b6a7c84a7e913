"""The environments in which a policy search runs its candidates."""

import dataclasses
from typing import Any

import gymnasium
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, unwrap_vec_normalize

from rlopt.agents.zo_ranksgd.config import ZORankSGDConfig
from rlopt.envs import names
from rlopt.envs.make import make_from_settings, resolve_backend
from rlopt.envs.settings import EnvSettings
from rlopt.errors import ConfigError


def open_env(
    env: gymnasium.Env[Any, Any] | VecEnv | EnvSettings | str, config: ZORankSGDConfig, seed: int, spread: bool = False
) -> VecEnv:
    """A VecEnv for the rounds of a search; see :class:`rlopt.agents.zo_ranksgd.policies.search.RankedPolicySearch`.

    :param spread: whether others play them, so that one environment is enough here; it has the backend that all have
    :raises rlopt.errors.ConfigError: for a VecNormalize, or something that is not an environment
    """
    if isinstance(env, str):
        env = EnvSettings(env)
    if isinstance(env, EnvSettings):
        settings = dataclasses.replace(env, n_envs=slots(config), seed=seed)
        if spread:
            names.check_id(settings.id)
            settings = dataclasses.replace(settings, backend=resolve_backend(settings), n_envs=1)
        return make_from_settings(settings)
    if spread:
        raise ConfigError("an engine makes the environments itself: give an id or EnvSettings, or leave engine out")
    if isinstance(env, VecEnv):
        if unwrap_vec_normalize(env) is not None:
            raise ConfigError(
                "the statistics of a VecNormalize change within a round: give the environment under it, the search "
                "normalises observations itself (normalize_observations)"
            )
        return env
    if isinstance(env, gymnasium.Env):
        return DummyVecEnv([lambda: env])
    raise ConfigError(f"env must be an id, EnvSettings or an environment, not {type(env).__name__}")


def slots(config: ZORankSGDConfig) -> int:
    """Environments that play the largest round at once, max_envs at most."""
    return min(max(config.m, config.line_search_points) * config.episodes_per_candidate, config.max_envs)
