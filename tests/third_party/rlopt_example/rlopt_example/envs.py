"""A glider in the plane that is to come back to the origin."""

from typing import Any

import gymnasium
import numpy as np

STEP = 0.1
"""How far an action of length 1 moves."""
REACH = 1.0
"""Positions are within this of the origin, in each coordinate."""


def reward_of(position: np.ndarray) -> np.ndarray:
    """Minus the squared distance to the origin, of positions (..., 2)."""
    return -(position**2).sum(axis=-1)


class Glider(gymnasium.Env[np.ndarray, np.ndarray]):
    """Observation: the position (2). Action: the direction (2), each in [-1, 1]. The reward is that of the arrival."""

    observation_space = gymnasium.spaces.Box(-REACH, REACH, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-REACH, REACH, 2)
        return self.position.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.position = np.clip(self.position + STEP * np.asarray(action, np.float64), -REACH, REACH)
        return self.position.astype(np.float32), float(reward_of(self.position)), False, False, {}


def register() -> None:
    """Registers the environments of the namespace ``example`` with Gymnasium."""
    gymnasium.register("example/Glider-v0", entry_point=Glider, max_episode_steps=50)
