"""An environment whose every number is known beforehand."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Numbers(gymnasium.Env):
    """Step t of episode k, both counted from 0, begins at the observation 10 k + t; its reward is 10 k + t + 1."""

    observation_space = spaces.Box(-1000, 1000, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, length: int = 1000, cut: bool = False) -> None:
        """:param cut: whether episodes are truncated after ``length`` steps, in place of a true end"""
        self.episode, self.length, self.cut = -1, length, cut

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.episode, self.steps = self.episode + 1, 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        last = self.steps >= self.length
        info = {"last": self.steps} if last else {}
        return self.observe(), float(10 * self.episode + self.steps), last and not self.cut, last and self.cut, info

    def observe(self) -> np.ndarray:
        return np.array([10 * self.episode + self.steps], np.float32)
