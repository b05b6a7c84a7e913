"""The gymnasium backend: environments stepped one after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from rlopt.envs.batch import ObservationBuffer, float32_actions, guard_actions
from rlopt.envs.seeding import derive_seeds
from rlopt.envs.settings import EnvSettings


class GymnasiumVecEnv(DummyVecEnv):
    """Stable-Baselines3's in-process ``VecEnv`` with what rlopt adds on top.

    float32 observations, checked and clipped actions, action repeat, frame stack, independent seeds, exact state.

    :param env_fns: make the environments
    :param settings: with the backend resolved
    """

    def __init__(self, env_fns: Sequence[Callable[[], gymnasium.Env[Any, Any]]], settings: EnvSettings) -> None:
        self.settings = settings
        envs = [make() for make in env_fns]
        buffer = ObservationBuffer(envs[0].observation_space, len(envs), settings.frame_stack)
        super().__init__([lambda env=env: env for env in envs])  # type: ignore[misc]
        self._buffer = buffer
        self.observation_space = buffer.space
        self.action_space = float32_actions(self.action_space)
        self._env_action_dtype = getattr(envs[0].action_space, "dtype", None)
        self.seed(settings.seed)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds every environment at the next ``reset``, from independent streams derived from ``seed``."""
        root = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else int(seed)
        self._seeds = list(derive_seeds(root, self.num_envs))
        return self._seeds

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = guard_actions(actions, self.action_space, self.num_envs)

    def step_wait(self) -> VecEnvStepReturn:
        rewards = np.zeros(self.num_envs, np.float32)
        dones = np.zeros(self.num_envs, bool)
        infos: list[dict[str, Any]] = []
        for index in range(self.num_envs):
            observation, rewards[index], terminated, truncated, info = self._step_one(index, self.actions[index])
            self._buffer.write(index, observation)
            dones[index] = terminated or truncated
            infos.append({**info, "TimeLimit.truncated": truncated and not terminated})
        self._buffer.advance()
        for index in np.flatnonzero(dones):
            infos[index]["terminal_observation"] = self._buffer.read_row(index)
            self._reset_one(int(index))
        return self._buffer.read(), rewards, dones, infos

    def reset(self) -> VecEnvObs:
        for index in range(self.num_envs):
            self._reset_one(index, self._seeds[index], self._options[index])
        self._reset_seeds()
        self._reset_options()
        return self._buffer.read()

    def _step_one(self, index: int, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        env, total = self.envs[index], 0.0
        for _ in range(self.settings.action_repeat):
            observation, reward, terminated, truncated, info = env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, bool(terminated), bool(truncated), info

    def _reset_one(self, index: int, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        arguments: dict[str, Any] = {"options": options} if options else {}
        observation, self.reset_infos[index] = self.envs[index].reset(seed=seed, **arguments)
        self._buffer.write(index, observation)
        self._buffer.restart([index])
