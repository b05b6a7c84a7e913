"""Demonstrations of the small goal task by an expert that goes straight there."""

from typing import Any

import numpy as np
from offline_data import recorded
from reach import Reach

from rlopt.data.demonstrations import Demonstrations


class Hold(Reach):
    """The same task without true ends: every episode is cut after 15 steps."""

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, False, truncated, info


def straight(observation: np.ndarray, _: Any = None) -> np.ndarray:
    """As far towards the origin as the bounds allow."""
    return np.clip(-10 * observation, Reach.action_space.low, Reach.action_space.high).astype(np.float32)


def demonstrations(steps: int = 60, env: type[Reach] = Reach, seed: int = 0) -> Demonstrations:
    dataset = recorded(env(), f"tests/{env.__name__}", steps, straight, seed)
    return Demonstrations.from_dataset(dataset, deterministic=True)
