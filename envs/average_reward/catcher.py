"""Catcher: move a paddle under falling fruit, one after the other, forever."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rlopt.envs.average_reward.finite import METADATA
from rlopt.errors import ConfigError


class Catcher(gymnasium.Env[Any, Any]):
    """``rlopt/Catcher-v0``: a paddle with inertia at the bottom of the unit square, and one fruit that falls.

    Observation: paddle x and velocity, fruit x and height, float32 [4]; places in [0, 1], velocity in [-1, 1] in units
    of 0.06 a step. Action: left, none, right. A fruit falls by ``fall`` per step. When it reaches the bottom, the
    reward is 1 if the paddle's centre is within ``half_width`` of it and -1 otherwise, and the next fruit starts at the
    top at a uniform place. In all other steps the reward is 0. A miss has no other consequence: the environment never
    terminates or truncates.
    """

    metadata: dict[str, Any] = METADATA
    speed_limit, push, friction = 0.06, 0.03, 0.8
    reward_range = (-1.0, 1.0)

    def __init__(self, fall: float = 0.05, half_width: float = 0.1) -> None:
        if not (0 < fall <= 1 and 0 < half_width <= 1):
            raise ConfigError(f"fall is {fall} and half_width {half_width}: give numbers in (0, 1]")
        self.fall, self.half_width = fall, half_width
        self.observation_space = spaces.Box(
            np.array([0, -1, 0, 0], np.float32), np.ones(4, np.float32), dtype=np.float32
        )
        self.action_space = spaces.Discrete(3)
        self._paddle, self._velocity, self._fruit, self._height = 0.5, 0.0, 0.5, 1.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._paddle, self._velocity = 0.5, 0.0
        self._fruit, self._height = float(self.np_random.random()), 1.0
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not 0 <= action < 3:
            raise ConfigError(f"the action is {action!r}: give 0, 1 or 2")
        velocity = self.friction * self._velocity + self.push * (int(action) - 1)
        self._velocity = min(max(velocity, -self.speed_limit), self.speed_limit)
        place = self._paddle + self._velocity
        self._paddle = min(max(place, 0.0), 1.0)
        if place != self._paddle:
            self._velocity = 0.0
        self._height -= self.fall
        reward = 0.0
        if self._height <= 1e-9:
            reward = 1.0 if abs(self._paddle - self._fruit) <= self.half_width else -1.0
            self._fruit, self._height = float(self.np_random.random()), 1.0
        return self._observation(), reward, False, False, {}

    def _observation(self) -> np.ndarray:
        return np.array([self._paddle, self._velocity / self.speed_limit, self._fruit, self._height], np.float32)

    def get_state(self) -> dict[str, Any]:
        """What a run needs to continue exactly, besides ``np_random``."""
        return {name: float(getattr(self, f"_{name}")) for name in ("paddle", "velocity", "fruit", "height")}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave."""
        for name in ("paddle", "velocity", "fruit", "height"):
            setattr(self, f"_{name}", float(state[name]))
