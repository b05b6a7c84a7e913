"""One environment, a Gymnasium one or a ``VecEnv`` of one copy, stepped the same way and never past an end."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from rlopt.errors import ConfigError


class Stepper:
    """:param env: a Gymnasium environment, or a ``VecEnv`` with one copy

    :raises ConfigError: for several copies
    """

    def __init__(self, env: gymnasium.Env[Any, Any] | VecEnv) -> None:
        if isinstance(env, VecEnv) and env.num_envs != 1:
            raise ConfigError(f"LOOP acts in one environment, here are {env.num_envs}: make it with n_envs=1")
        self.env = env
        self._batched = isinstance(env, VecEnv)

    @property
    def process(self) -> Any:
        """The environment under all wrappers."""
        return self.env.get_attr("unwrapped")[0] if isinstance(self.env, VecEnv) else self.env.unwrapped

    def reset(self, seed: int | None) -> Any:
        """The first observation; without a seed the environment's random stream goes on."""
        if isinstance(self.env, VecEnv):
            if seed is not None:
                self.env.seed(seed)
            observations: Any = self.env.reset()
            return observations[0]
        return self.env.reset(seed=seed)[0]

    def step(self, action: int) -> tuple[Any, float]:
        """Observation and reward.

        :raises ConfigError: if an episode ends
        """
        if self._batched:
            observations, rewards, dones, infos = self.env.step(np.array([action]))  # type: ignore[arg-type,misc]
            self.infos, ended = infos, dones[0]
            observation, reward = observations[0], float(rewards[0])
        else:
            observation, reward, terminated, truncated, info = self.env.step(action)  # type: ignore[misc]
            self.infos, ended = [info], terminated or truncated
        if ended:
            raise ConfigError(
                "an episode ended, but LOOP learns in tasks that never end: wrap the environment in "
                "rlopt.envs.average_reward.ContinuingWrapper, without a time limit"
            )
        return observation, float(reward)
