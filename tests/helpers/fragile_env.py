"""A task whose episodes leave traces on disk, take their time, and can kill or fail the process that plays them."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

ID = "fragile_env:Fragile-v0"
STEPS = 8


class Fragile(gymnasium.Env[Any, Any]):
    """Keeps a point that drifts near the origin.

    :param folder: for the traces
    :param seconds: that a step takes
    :param fatal: how many steps, of all processes together, end the process that takes them
    :param broken: whether every third step raises
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-1, 1, (2,), np.float64)

    def __init__(self, folder: str, seconds: float = 0.0, fatal: int = 0, broken: bool = False) -> None:
        self.folder, self.seconds, self.fatal, self.broken = Path(folder), seconds, fatal, broken
        self.folder.mkdir(parents=True, exist_ok=True)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.point, self.steps = self.np_random.normal(size=2), 0
        with (self.folder / "episodes.txt").open("a") as file:
            file.write(f"{seed} {os.getpid()}\n")
        return self.point.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(self.seconds)
        self.steps += 1
        if self.steps == 3:
            if self.broken:
                raise RuntimeError("the joint is loose")
            for number in range(self.fatal):
                try:
                    (self.folder / f"death{number}").touch(exist_ok=False)
                except FileExistsError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
        self.point = self.point + 0.3 * np.asarray(action) + self.np_random.normal(size=2) / 10
        ends = self.steps >= STEPS or bool(np.linalg.norm(self.point) > 4)
        return self.point.copy(), -float(np.sum(self.point**2)), ends, False, {}


gymnasium.register("Fragile-v0", Fragile)


def begun(folder: Path) -> list[tuple[int, int]]:
    """Seed and process of every episode that was begun."""
    path = folder / "episodes.txt"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [(int(seed), int(process)) for seed, process in (line.split() for line in lines)]
