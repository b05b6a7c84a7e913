"""Whether EnvPool can be used here, and what its environments lack."""

import importlib
import os
import re
from functools import cache
from typing import Any

import numpy as np

from rlopt.envs.rendering import preload_egl
from rlopt.envs.system_packages import APT_EGL
from rlopt.errors import ConfigError

_NO_LIBRARY = re.compile(r"(lib\S+): cannot open shared object file")


@cache
def envpool_problem() -> str | None:
    """Why EnvPool cannot be used here and what helps, in words; None when it can."""
    preload_egl()
    try:
        importlib.import_module("envpool")
    except ModuleNotFoundError as error:
        return f"the package {error.name} is not installed: pip install 'rlopt[fast]'"
    except (ImportError, OSError) as error:
        if library := _NO_LIBRARY.search(str(error)):
            drawing = re.match(r"lib(EGL|OpenGL|GL\w*)\.", library[1])
            cure = f"apt-get install {APT_EGL}" if drawing else "install the package of the system that has it"
            return f"envpool needs the system's {library[1]}: {cure}"
        # EnvPool reads files of all its asset packages when imported, also for tasks that need none of them.
        return (
            f"envpool cannot be imported, a part of it such as its asset packages is missing or broken ({error}): "
            "pip install 'rlopt[fast]'"
        )
    return None


def import_envpool() -> Any:
    """The envpool module; raises :class:`rlopt.errors.ConfigError` with the cure where it cannot be used."""
    problem = envpool_problem()
    if problem is not None:
        raise ConfigError(f"backend 'envpool': {problem}, or use backend='gymnasium'")
    return importlib.import_module("envpool")


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


PARKING_WEIGHTS = (1, 0.3, 0, 0, 0.02, 0.02)
"""highway-env's weights of x, y, vx, vy, cosine and sine of the heading in the reward of parking-v0."""


def parking_reward(achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
    """The reward of highway-env's parking-v0 but for crashes, which EnvPool does not offer for relabelling.

    :param achieved: states [..., 6]
    :param desired: goals [..., 6]
    :returns: [...]: minus the square root of the weighted distance
    """
    gap = np.abs(np.asarray(achieved) - np.asarray(desired))
    reward: np.ndarray = -np.sqrt(gap @ np.array(PARKING_WEIGHTS, gap.dtype))
    return reward


def maze_reward(achieved: np.ndarray, desired: np.ndarray, *, dense: bool) -> np.ndarray:
    """The reward of gymnasium-robotics' point mazes, which EnvPool does not offer for relabelling.

    :param achieved: positions [..., 2]
    :param desired: goals [..., 2]
    :returns: [...]: 1 within 0.45 of the goal and 0 elsewhere, or exp(-distance) if ``dense``
    """
    distance = np.linalg.norm(np.asarray(achieved) - np.asarray(desired), axis=-1)
    return np.exp(-distance) if dense else (distance <= 0.45).astype(np.float64)
