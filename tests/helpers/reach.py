"""A small goal task with known dynamics, and off-policy MDPO with small networks on it."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv

from rlopt.agents.mdpo.off_policy import OffPolicyMDPO
from rlopt.optim.compiled_step import compiler_found

needs_compiler = pytest.mark.skipif(not compiler_found(), reason="no C++ compiler: torch.compile cannot be tried")
SMALL = {"policy_kwargs": {"net_arch": [16, 16]}, "batch_size": 16, "learning_starts": 20, "device": "cpu"}


class Reach(gym.Env):
    """Moves a point to the origin; two actions with bounds that differ, episodes of 15 steps, sometimes a terminal."""

    observation_space: spaces.Space = spaces.Box(-10, 10, (2,), np.float32)
    action_space = spaces.Box(np.array([-2.0, -1.0], np.float32), np.array([1.0, 3.0], np.float32))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.point, self.steps = self.np_random.normal(size=2), 0
        return self.observation(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.point = np.clip(self.point + 0.1 * action, -10, 10)
        self.steps += 1
        distance = float(np.linalg.norm(self.point))
        return self.observation(), -distance, distance < 0.2, self.steps >= 15, {}

    def observation(self) -> Any:
        return self.point.astype(np.float32)


class ReachGoal(Reach):
    """The same as a goal-conditioned task with Dict observations."""

    observation_space = spaces.Dict(
        {name: spaces.Box(-10, 10, (2,), np.float32) for name in ("observation", "achieved_goal", "desired_goal")}
    )

    def observation(self) -> Any:
        point = self.point.astype(np.float32)
        return {"observation": point, "achieved_goal": point, "desired_goal": np.zeros(2, np.float32)}

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> np.ndarray:
        return -np.linalg.norm(achieved - desired, axis=-1)


def vec_env(n_envs: int = 1, env: type[gym.Env] = Reach) -> DummyVecEnv:
    return DummyVecEnv([env for _ in range(n_envs)])


def make(cls: type[SAC] = OffPolicyMDPO, n_envs: int = 1, seed: int = 5, **kwargs: Any) -> Any:
    proximity = {"kl_coef": 0.1} if issubclass(cls, OffPolicyMDPO) else {}
    return cls("MlpPolicy", vec_env(n_envs), seed=seed, **{**SMALL, **proximity, **kwargs})


def as_function(model: Any) -> Any:
    """Makes ``model`` take its gradient steps as a function of tensors, not compiled."""
    model._mode = lambda parts: "eager"
    return model


def assert_same(first: Any, second: Any, tolerance: float) -> None:
    """Asserts that two models have the same parameters up to ``tolerance``."""
    wanted = second.policy.state_dict()
    for name, tensor in first.policy.state_dict().items():
        assert torch.allclose(tensor, wanted[name], rtol=tolerance, atol=tolerance), name
