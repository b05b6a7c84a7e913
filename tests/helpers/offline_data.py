"""Small data sets for the tests of the offline learners."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from rlopt.data import Dataset, Metadata


def recorded(
    env: gymnasium.Env, env_id: str, steps: int, act: Callable[[Any, np.random.Generator], Any], seed: int = 0
) -> Dataset:
    """What ``act(observation, rng)`` does in ``env`` for ``steps`` steps, the last episode cut."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[Any, ...]] = []
    observation, _ = env.reset(seed=seed)
    while len(rows) < steps:
        action = act(observation, rng)
        following, reward, terminated, truncated, _ = env.step(action)
        ends = terminated or truncated or len(rows) == steps - 1
        rows.append((observation, action, reward, following, float(not terminated), ends))
        observation = env.reset()[0] if ends else following
    observations, actions, rewards, following, discounts, ends = zip(*rows, strict=True)
    discrete = np.ndim(actions[0]) == 0
    return Dataset(
        observations=stacked(observations),
        actions=np.array(actions, np.int64 if discrete else np.float32),
        rewards=np.array(rewards, np.float32),
        next_observations=stacked(following),
        discounts=np.array(discounts, np.float32),
        episode_ends=np.array(ends, bool),
        metadata=Metadata(env=env_id, generator="tests", seed=seed),
    )


def stacked(observations: Any) -> Any:
    if isinstance(observations[0], dict):
        return {key: stacked([part[key] for part in observations]) for key in observations[0]}
    return np.array(observations, np.float32)


def pendulum(steps: int = 600, seed: int = 0) -> Dataset:
    """Uniformly random torques, episodes of 200 steps."""
    env = gymnasium.make("Pendulum-v1")
    return recorded(env, "Pendulum-v1", steps, lambda _, rng: rng.uniform(-2, 2, 1).astype(np.float32), seed)


def corridor(steps: int = 300, right: float = 0.5, seed: int = 0) -> Dataset:
    """``rlopt/Corridor-v0`` where each step goes right with probability ``right``: Discrete actions, true terminals."""
    import rlopt.envs.tasks.toy  # noqa: F401 - registers it

    env = gymnasium.make("rlopt/Corridor-v0")
    return recorded(env, "rlopt/Corridor-v0", steps, lambda _, rng: int(rng.random() < right), seed)
