"""One environment, a Gymnasium one or a ``VecEnv`` of one copy, stepped the same way and never past an end."""

from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from rlopt.envs.outcomes import CheckedEnv
from rlopt.errors import ConfigError


class Stepper:
    """:param env: a Gymnasium environment, or a ``VecEnv`` with one copy

    :raises ConfigError: for several copies
    """

    def __init__(self, env: gymnasium.Env[Any, Any] | VecEnv) -> None:
        if isinstance(env, VecEnv) and env.num_envs != 1:
            raise ConfigError(f"LOOP acts in one environment, here are {env.num_envs}: make it with n_envs=1")
        self.env = env
        self.infos: list[dict[str, Any]] = [{}]
        """The infos of the last step."""
        self._vec_env = env if isinstance(env, VecEnv) else None
        self._single = None if isinstance(env, VecEnv) else CheckedEnv(env)

    @property
    def process(self) -> Any:
        """The environment under all wrappers."""
        return self.env.get_attr("unwrapped")[0] if isinstance(self.env, VecEnv) else self.env.unwrapped

    def vec_env(self) -> VecEnv:
        """The environment as a ``VecEnv``."""
        if self._vec_env is None:
            self._vec_env = DummyVecEnv([lambda: self.env])  # type: ignore[list-item,return-value]
        return self._vec_env

    def reset(self, seed: int | None) -> Any:
        """The first observation; without a seed the environment's random stream continues."""
        if isinstance(self.env, VecEnv):
            if seed is not None:
                self.env.seed(seed)
            observations: Any = self.env.reset()
            return observations[0]
        assert self._single is not None
        return self._single.reset(seed=seed)[0]

    def step(self, action: int) -> tuple[Any, float]:
        """Observation and reward.

        :raises ConfigError: if an episode ends
        :raises rlopt.errors.OutcomeError: for what is not a step of such an environment
        """
        if isinstance(self.env, VecEnv):
            observations, rewards, dones, infos = self.env.step(np.array([action]))
            self.infos, ended = infos, bool(dones[0])
            # Only Dict observations could not be indexed, and those have no place for one state.
            observation: Any = observations[0]  # type: ignore[index]
            reward = float(rewards[0])
        else:
            assert self._single is not None
            observation, reward, terminated, truncated, info = self._single.step(action)
            self.infos, ended = [info], terminated or truncated
        if ended:
            raise ConfigError(
                "an episode ended, but LOOP learns in tasks that never end: wrap the environment in "
                "rlopt.envs.average_reward.ContinuingWrapper, without a time limit"
            )
        return observation, reward
