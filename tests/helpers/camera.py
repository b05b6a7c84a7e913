"""A small environment that shows pictures."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

import rlopt
from rlopt.data import DemonstrationMetadata, Demonstrations


class Camera(gym.Env[np.ndarray, np.ndarray]):
    """A dot that the action moves, in a picture of ``side`` x ``side``; episodes of 15 steps."""

    action_space: spaces.Space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, side: int = 20) -> None:
        self.side = side
        self.observation_space: spaces.Space = spaces.Box(0, 255, (1, side, side), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.at, self.steps = self.np_random.uniform(0, self.side - 1, 2), 0
        return self.picture(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.at = np.clip(self.at + action, 0, self.side - 1)
        self.steps += 1
        return self.picture(), -float(abs(self.at - 5).sum()) / self.side, False, self.steps == 15, {}

    def picture(self) -> np.ndarray:
        rows, columns = (np.exp(-((np.arange(self.side) - place) ** 2) / 8) for place in self.at)
        return (255 * rows[:, None] * columns).astype(np.uint8)[None]


gym.register("Camera-v0", Camera)


def camera(side: int = 20) -> Any:
    """One such environment that shows the last three pictures."""
    return rlopt.make_env("Camera-v0", seed=3, backend="gymnasium", frame_stack=3, env_kwargs={"side": side})


def expert_of_camera(side: int = 20, n_episodes: int = 2) -> Demonstrations:
    """Episodes that go to pixel (5, 5), with the stacks of three frames that :func:`camera` shows."""
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    env = Camera(side)
    for seed in range(n_episodes):
        frames = [env.reset(seed=seed)[0]] * 3
        for _ in range(15):
            action = np.clip(5 - env.at, -1, 1).astype(np.float32)
            stack = np.concatenate(frames)
            frames = [*frames[1:], env.step(action)[0]]
            rows.append((stack, action, np.concatenate(frames)))
    observations, actions, following = (np.stack(part) for part in zip(*rows, strict=True))
    n = len(actions)
    return Demonstrations(
        observations=observations,
        actions=actions,
        rewards=np.zeros(n, np.float32),
        next_observations=following,
        discounts=np.ones(n, np.float32),
        episode_ends=np.arange(n) % 15 == 14,
        metadata=DemonstrationMetadata(env="unknown"),
    )
