"""A dm_control suite task as a Gymnasium environment: flat float32 observations in dm_control's own order."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rlopt.envs.rendering import route_warnings
from rlopt.errors import ConfigError

RENDER_SIZE = (240, 320)
"""Height and width of ``render()`` where no other size is asked for."""

_METADATA: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 40}


class DMControlEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One dm_control task.

    Observation: the task's entries flattened and concatenated in dm_control's order, float32 [d]. Action: float32 [a]
    within the task's bounds. ``terminated`` is dm_control's end with discount 0 (no suite task has one), ``truncated``
    its end with another discount. The task's time limit is lifted: the caller truncates (after 1000 steps as a rule).

    :param task: ``<domain>-<task>``, such as ``cheetah-run``
    :param seed: seed of the random numbers that build the model (lqr alone draws some)
    """

    metadata: dict[str, Any] = _METADATA

    def __init__(
        self,
        task: str,
        *,
        seed: int = 0,
        render_mode: str | None = None,
        render_size: tuple[int, int] = RENDER_SIZE,
        camera_id: int = 0,
        fast_render: bool = False,
        task_kwargs: dict[str, Any] | None = None,
    ) -> None:
        try:
            from dm_control import suite
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"environment 'dm_control/{task}' needs dm-control ({error.name} is missing): pip install 'rlopt[dmc]' "
                "with Python 3.11 or 3.12, since labmaze has no wheel for later ones; EnvPool steps four or more "
                "copies of most tasks without it"
            ) from None
        route_warnings()
        domain_name, _, task_name = task.partition("-")
        kwargs = {"time_limit": float("inf"), **(task_kwargs or {}), "random": np.random.RandomState(seed)}
        self.dm_env = suite.load(domain_name, task_name, task_kwargs=kwargs)
        self.render_mode = render_mode
        self._render_size = render_size
        self._camera_id = camera_id
        spec = self.dm_env.action_spec()
        self._action_dtype = spec.dtype
        low, high = (np.broadcast_to(bound, spec.shape).astype(np.float32) for bound in (spec.minimum, spec.maximum))
        self.action_space = spaces.Box(low, high, dtype=np.float32)
        size = sum(int(np.prod(entry.shape)) for entry in self.dm_env.observation_spec().values())
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.metadata = {**self.metadata, "render_fps": max(1, round(1.0 / self.dm_env.control_timestep()))}
        if fast_render:
            drop_shadows(self.dm_env.physics.model)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.dm_env.task.random.seed(seed)
        return flatten(self.dm_env.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        time_step = self.dm_env.step(np.asarray(action, self._action_dtype))
        over = time_step.last()
        terminated = bool(over and time_step.discount == 0.0)
        return flatten(time_step.observation), float(time_step.reward), terminated, over and not terminated, {}

    def render(self) -> np.ndarray:
        height, width = self._render_size
        return self.dm_env.physics.render(height=height, width=width, camera_id=self._camera_id)

    def close(self) -> None:
        self.dm_env.close()


def flatten(observation: dict[str, Any]) -> np.ndarray:
    """The entries of a dm_control observation as one float32 vector, in the mapping's order."""
    return np.concatenate([np.ravel(value) for value in observation.values()]).astype(np.float32)


def drop_shadows(model: Any) -> None:
    """Turns shadow maps and multi-sampling off in a MuJoCo model; call before the first image."""
    model.vis.quality.shadowsize = 0
    model.vis.quality.offsamples = 0
