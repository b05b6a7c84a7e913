"""What the tests of on-policy agents share: an environment of any spaces, and steps that are functions of tensors."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Anything(gymnasium.Env):
    """Random observations, rewards that depend on the action, ends and time limits."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, limit: int) -> None:
        self.observation_space, self.action_space, self.limit, self.t = observation_space, action_space, limit, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self.seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self.seen(), float(np.sum(action)), bool(self.np_random.random() < 0.05), self.t >= self.limit, {}

    def seen(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()


FLAT, IMAGE = spaces.Box(-1, 1, (3,), np.float32), spaces.Box(0, 255, (36, 36, 1), np.uint8)
ARMS, BUTTONS = spaces.Box(-0.5, 0.7, (2,), np.float32), spaces.Discrete(3)
PARTS = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(3)})


def stepped(model: Any) -> Any:
    """Makes ``model`` take each step as a function of tensors without compiling it."""
    model._update_mode = lambda: "eager"
    return model


def logged(model: Any) -> dict[str, float]:
    return {name: value for name, value in model.logger.name_to_value.items() if name.startswith("train/")}
