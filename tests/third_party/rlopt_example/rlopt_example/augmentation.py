"""The glider's symmetries: nothing but the edge tells one place or direction from another."""

from typing import Any

import numpy as np

from rlopt.agents.guda.augmentations import Augmentation, Rotate, Translate
from rlopt.agents.guda.batch import Batch
from rlopt.agents.guda.domains import Domain, Layout
from rlopt.agents.guda.simulators import EnvSimulator
from rlopt.agents.guda.tasks import Task
from rlopt_example.envs import REACH, Glider, reward_of


class GliderDomain(Domain):
    """``example/Glider-v0``, moved and turned by multiples of 90 degrees, which keep actions within their bounds."""

    name = "glider"
    width = 2
    layout = Layout(points=((0, 1),), action_vectors=((0, 1),))
    rotations = exact_rotations = "quarter"
    mirrors = False
    invalid_because = "the glider was at the edge"

    def augmentation(self) -> Augmentation:
        """Move the first place of a segment, turn the segment about it."""
        return Augmentation(self, Translate(), Rotate(quarter=True))

    def usable(self, batch: Batch) -> np.ndarray:
        return self.valid(batch)

    def valid(self, batch: Batch) -> np.ndarray:
        rows = np.concatenate((batch.observations, batch.next_observations), axis=1)
        return (np.abs(rows) < REACH).all(axis=1)

    def positions(self, generator: np.random.Generator, count: int) -> np.ndarray:
        return generator.uniform(-REACH, REACH, (count, 2)).astype(np.float32)

    def outcome(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        rewards = reward_of(batch.next_observations.astype(np.float64)).astype(np.float32)
        return rewards, np.ones_like(rewards)

    def simulator(self, env: Any = None) -> EnvSimulator:
        return EnvSimulator(Glider() if env is None else env, _set_state)


def _set_state(env: Any, observation: np.ndarray) -> None:
    env.unwrapped.position = np.asarray(observation, np.float64)


TASK = Task(("example/Glider-",), lambda dataset, config: GliderDomain(), {}, 1)
