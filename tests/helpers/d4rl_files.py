"""Small files of the D4RL layout, built to contain what the published ones are known for."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np


def write_file(path: Path, arrays: dict[str, Any]) -> Path:
    """Writes arrays as the generation scripts do: gzip, no checksums."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            compression = {"compression": "gzip"} if getattr(array, "size", 0) > 1 else {}
            file.create_dataset(name, data=array, **compression)
    return path


def gym_arrays(length: int = 40, timeouts: tuple[int, ...] = (), terminals: tuple[int, ...] = ()) -> dict[str, Any]:
    """Rows of the sizes of hopper; row i has observation i, so that successors can be read off."""
    rng = np.random.default_rng(0)
    flags = {"timeouts": np.zeros(length, bool), "terminals": np.zeros(length, bool)}
    flags["timeouts"][list(timeouts)] = True
    flags["terminals"][list(terminals)] = True
    return {
        "observations": np.repeat(np.arange(length, dtype=np.float32)[:, None], 11, axis=1),
        "actions": rng.uniform(-1, 1, (length, 3)).astype(np.float32),
        "rewards": np.arange(length, dtype=np.float32),
        **flags,
    }


def maze2d_rollout(length: int, reached: tuple[int, ...] = ()) -> dict[str, Any]:
    """An endless rollout of a point mass in the left arm of the U maze of D4RL's frame, as the layout has it.

    The equation of motion is Euler's: position += 0.01 * new velocity; what makes the velocity does not matter here.
    """
    rng = np.random.default_rng(1)
    position, velocity = np.array([2.8, 0.9]), np.zeros(2)
    actions = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
    states = []
    for action in actions:
        states.append(np.concatenate((position, velocity)))
        velocity = 0.9 * velocity + 0.1 * action
        position = position + 0.01 * velocity
    observations = np.array(states, np.float32)
    timeouts = np.zeros(length, bool)
    timeouts[list(reached)] = True
    return {
        "observations": observations,
        "actions": actions,
        "rewards": (np.linalg.norm(observations[:, :2] - 1, axis=1) <= 0.5).astype(np.float32),
        "terminals": np.zeros(length, bool),
        "timeouts": timeouts,
        "infos/goal": np.full((length, 2), 3.0, np.float32),
        "infos/qpos": observations[:, :2].copy(),
        "infos/qvel": observations[:, 2:].copy(),
    }
