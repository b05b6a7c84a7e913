"""The compiled model of a dm_control task, and what its environment adds."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlopt.envs.suite.task import Task
from rlopt.envs.suite.tasks import LEFT_OUT, TASKS
from rlopt.errors import ConfigError


@dataclass(frozen=True)
class LoadedTask:
    """A task of :data:`rlopt.envs.suite.tasks.TASKS` with its model."""

    task: Task
    model: Any
    """``mujoco.MjModel``"""
    substeps: int
    """Physics steps of one environment step."""
    low: np.ndarray
    """(nu,), the least actions."""
    high: np.ndarray
    """(nu,)"""


def obstacle(name: str) -> str | None:
    """Why ``<domain>-<task>`` cannot be simulated for many worlds at once, in words; None if it can."""
    return (
        None if name in TASKS else LEFT_OUT.get(name, "its observation and reward are not written as tensor functions")
    )


def load_task(name: str, device: torch.device) -> LoadedTask:
    """Compiles the model of ``<domain>-<task>``.

    :raises rlopt.errors.ConfigError: the task is none of :data:`rlopt.envs.suite.tasks.TASKS`
    """
    if (reason := obstacle(name)) is not None:
        raise ConfigError(f"dm_control/{name} is not simulated on a device: {reason}")
    from dm_control import suite

    domain, _, task = name.partition("-")
    env = suite.load(domain, task, task_kwargs={"random": 0})
    env.reset()  # some constants of a model are set by the task then
    model, spec = env.physics.model.ptr, env.action_spec()
    low, high = (np.broadcast_to(bound, spec.shape).astype(np.float32) for bound in (spec.minimum, spec.maximum))
    substeps = round(env.control_timestep() / env.physics.timestep())
    return LoadedTask(TASKS[name](model, device), model, substeps, low, high)
