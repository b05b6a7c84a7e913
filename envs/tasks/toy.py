"""Small environments whose every value can be worked out by hand, for tests and first experiments."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

_METADATA: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}


class Corridor(gymnasium.Env[np.ndarray, Any]):
    """A corridor of cells 0..length; start in cell 0, reward 1 and the end of the episode in the last cell.

    Observation: the cell, float32 [1]. Actions: 0 stays, 1 goes right. Reward: -0.1 a step, +1 in the last cell.
    Registered as ``rlopt/Corridor-v0`` with length 4 and a limit of 6 steps: going right always ends it truly after 4
    steps with return 0.6; staying always truncates it after 6 steps with return -0.6.
    """

    metadata: dict[str, Any] = _METADATA

    def __init__(self, length: int = 4, render_mode: str | None = None) -> None:
        self.length = length
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0.0, float(length), (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.cell = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.cell = 0
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.cell += int(action == 1)
        reached = self.cell >= self.length
        return self._observation(), 0.9 if reached else -0.1, reached, False, {}

    def render(self) -> np.ndarray:
        image = np.zeros((16, 16 * (self.length + 1), 3), np.uint8)
        image[:, 16 * self.cell : 16 * (self.cell + 1)] = 255
        return image

    def _observation(self) -> np.ndarray:
        return np.array([self.cell], np.float32)


class RandomTarget(gymnasium.Env[np.ndarray, np.ndarray]):
    """One-step-readable control: reward is minus the distance between the action and a target that the reset draws.

    Observation: target and last action, float32 [2]. Action: float32 [1] in [-1, 1]. Registered as
    ``rlopt/RandomTarget-v0`` with a limit of 10 steps; the best return is 0.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._target = self._last = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._target, self._last = float(self.np_random.uniform(-1.0, 1.0)), 0.0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._last = float(action[0])
        return self._observation(), -abs(self._last - self._target), False, False, {}

    def _observation(self) -> np.ndarray:
        return np.array([self._target, self._last], np.float32)


def _register() -> None:
    for name, steps in (("Corridor", 6), ("RandomTarget", 10)):
        env_id = f"rlopt/{name}-v0"
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point=f"rlopt.envs.tasks.toy:{name}", max_episode_steps=steps)


_register()
