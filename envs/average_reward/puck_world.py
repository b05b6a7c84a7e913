"""PuckWorld: push a puck to a target that moves on, forever."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rlopt.envs.average_reward.finite import METADATA
from rlopt.errors import ConfigError

_PUSHES = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], np.float64)


class PuckWorld(gymnasium.Env[Any, Any]):
    """``rlopt/PuckWorld-v0``: a puck with friction in the unit square, pushed along the axes.

    Observation: x, y, vx, vy of the puck and x, y of the target, float32 [6], places in [0, 1], speeds in [-1, 1] in
    units of 0.05 a step. Action: none, left, right, down, up. Reward: minus the distance to the target over sqrt 2, in
    [-1, 0]. The target moves to a uniform place with probability 1 / ``target_steps`` in a step, so the observation is
    Markov. The square's sides stop the puck. The environment never terminates or truncates.
    """

    metadata: dict[str, Any] = METADATA
    speed_limit, push, friction = 0.05, 0.01, 0.9
    reward_range = (-1.0, 0.0)

    def __init__(self, target_steps: int = 100) -> None:
        if target_steps < 1:
            raise ConfigError(f"target_steps is {target_steps}: give a number of at least 1")
        self.target_steps = target_steps
        self.observation_space = spaces.Box(
            np.array([0, 0, -1, -1, 0, 0], np.float32), np.ones(6, np.float32), dtype=np.float32
        )
        self.action_space = spaces.Discrete(5)
        self._place, self._velocity, self._target = np.zeros(2), np.zeros(2), np.zeros(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._place, self._target = self.np_random.random(2), self.np_random.random(2)
        self._velocity = np.zeros(2)
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not 0 <= action < len(_PUSHES):
            raise ConfigError(f"the action is {action!r}: give a whole number from 0 to {len(_PUSHES) - 1}")
        speed = self.friction * self._velocity + self.push * _PUSHES[int(action)]
        self._velocity = np.clip(speed, -self.speed_limit, self.speed_limit)
        place = self._place + self._velocity
        self._place = np.clip(place, 0.0, 1.0)
        self._velocity[place != self._place] = 0.0
        reward = -float(np.linalg.norm(self._place - self._target)) / np.sqrt(2)
        if self.np_random.random() < 1 / self.target_steps:
            self._target = self.np_random.random(2)
        return self._observation(), float(reward), False, False, {}

    def _observation(self) -> np.ndarray:
        parts = (self._place, self._velocity / self.speed_limit, self._target)
        return np.concatenate(parts).astype(np.float32)

    def get_state(self) -> dict[str, Any]:
        """What a run needs to continue exactly, besides ``np_random``."""
        return {"place": self._place.copy(), "velocity": self._velocity.copy(), "target": self._target.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave."""
        self._place, self._velocity, self._target = (
            np.array(state[name], np.float64).reshape(2) for name in ("place", "velocity", "target")
        )
