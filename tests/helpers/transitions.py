"""Transitions of small processes: a wrapper that keeps them, and demonstrations that are right by construction."""

from typing import Any

import gymnasium
import numpy as np

from rlopt.data.demonstrations import Demonstrations
from rlopt.data.metadata import DemonstrationMetadata


class Recorder(gymnasium.Wrapper):
    """Keeps every transition in ``seen``: state, action, reward, next state."""

    def reset(self, **kwargs: Any) -> Any:
        self.seen: list[tuple[int, int, float, int]] = []
        self.last, info = self.env.reset(**kwargs)
        return self.last, info

    def step(self, action: Any) -> Any:
        observation, reward, *rest = self.env.step(action)
        self.seen.append((self.last, int(action), float(reward), observation))
        self.last = observation
        return observation, reward, *rest


def expert_of_random_target(n_episodes: int = 3) -> Demonstrations:
    """In ``rlopt/RandomTarget-v0``, the action that is the target at every step: return 0."""
    targets = np.repeat(np.linspace(-0.8, 0.8, n_episodes), 10).astype(np.float32)
    last = np.where(np.arange(len(targets)) % 10 == 0, 0.0, targets).astype(np.float32)
    return Demonstrations(
        observations=np.stack([targets, last], 1),
        actions=targets[:, None],
        rewards=np.zeros(len(targets), np.float32),
        next_observations=np.stack([targets, targets], 1),
        discounts=np.ones(len(targets), np.float32),
        episode_ends=np.arange(len(targets)) % 10 == 9,
        metadata=DemonstrationMetadata(env="rlopt/RandomTarget-v0", expert_return=0.0),
    )
