"""Shared parts of the backends: checks of a batch of actions, and float32 stacked observations."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from rlopt.envs.settings import EnvSettings
from rlopt.errors import NonFiniteError, SpaceError, StateUnavailableError

Observation = np.ndarray | dict[str, np.ndarray]


def guard_actions(actions: Any, space: spaces.Space[Any], n_envs: int) -> np.ndarray:
    """Returns a batch of actions that an environment may be given.

    Box actions are cast to the space's dtype and clipped to its bounds: some tasks compute their control cost from the
    action as given, others clip it, and MuJoCo resets itself silently on a NaN.

    :param actions: [n_envs, *space.shape]
    :raises NonFiniteError: naming the environment, when an action is NaN or infinite
    :raises SpaceError: when the batch has another shape
    """
    batch = np.asarray(actions)
    if batch.dtype.kind == "f" and not np.isfinite(batch).all():
        bad = np.flatnonzero(~np.isfinite(batch.reshape(n_envs, -1)).all(axis=1))
        raise NonFiniteError(
            f"the action of environment {', '.join(map(str, bad[:8]))} is NaN or infinite: "
            "check the policy's output, or lower the learning rate"
        )
    if not isinstance(space, spaces.Box):
        return batch
    expected = (n_envs, *space.shape)
    if batch.shape != expected:
        raise SpaceError(f"actions have shape {batch.shape}, expected {expected}")
    return np.clip(batch.astype(space.dtype), space.low, space.high)


def float32_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The space with every float64 Box, also inside a Dict, replaced by its float32 Box."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: float32_space(inner) for key, inner in space.spaces.items()})
    if isinstance(space, spaces.Box) and space.dtype == np.float64:
        return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
    return space


def stacked_space(space: spaces.Space[Any], frames: int) -> spaces.Space[Any]:
    """The space of ``frames`` observations concatenated along their first axis.

    :raises SpaceError: when the space has a part that cannot be concatenated
    """
    if frames == 1:
        return space
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: stacked_space(inner, frames) for key, inner in space.spaces.items()})
    if not isinstance(space, spaces.Box) or not space.shape:
        raise SpaceError(
            f"frame_stack={frames} needs array observations, this environment has {space}: use frame_stack=1"
        )
    low, high = (np.concatenate([bound] * frames, axis=0) for bound in (space.low, space.high))
    return spaces.Box(low, high, dtype=space.dtype.type)


def check_settings(state: Mapping[str, Any], settings: EnvSettings) -> None:
    """Raises StateUnavailableError unless ``state`` was saved by an environment made with equal ``settings``.

    The root seed, the number of threads, the render mode and the device may differ: they do not touch what follows.
    """
    saved, current = dict(state.get("settings") or {}), settings.as_dict()
    for name, value in current.items():
        if name not in ("seed", "num_threads", "render_mode", "device") and saved.get(name) != value:
            raise StateUnavailableError(
                f"the saved environment state has {name}={saved.get(name)!r}, this environment {value!r}: "
                "make it with the settings of the run that saved the state"
            )


class ObservationBuffer:
    """The current observations of a batch, and the frames before them.

    The backend writes each new frame into :attr:`rows` (key None unless observations are a Dict), then calls
    :meth:`advance`; for environments that were reset, it writes the reset frame and calls :meth:`restart`.
    """

    def __init__(self, space: spaces.Space[Any], n_envs: int, frames: int) -> None:
        single = float32_space(space)
        if isinstance(single, spaces.Tuple) or (
            isinstance(single, spaces.Dict)
            and any(isinstance(inner, (spaces.Dict, spaces.Tuple)) for inner in single.spaces.values())
        ):
            raise SpaceError(f"observations must be an array or one level of named arrays, got {space}: flatten them")
        for part in single.spaces.values() if isinstance(single, spaces.Dict) else [single]:
            if part.shape is None or part.dtype is None:
                raise SpaceError(f"observations must be numbers, got {part}: encode them in the environment")
        self.space = stacked_space(single, frames)
        self._frames = frames
        parts: dict[str | None, spaces.Space[Any]] = {None: single}
        if isinstance(single, spaces.Dict):
            parts = dict(single.spaces.items())
        self.rows: dict[str | None, np.ndarray] = {
            key: np.zeros((n_envs, *(part.shape or ())), part.dtype) for key, part in parts.items()
        }
        self._stacks = {
            key: np.zeros((n_envs, frames * rows.shape[1], *rows.shape[2:]), rows.dtype)
            for key, rows in self.rows.items()
            if frames > 1
        }

    def write(self, index: int, observation: Any) -> None:
        """Stores the newest frame of environment ``index``, which has the shape that its space says."""
        for key, rows in self.rows.items():
            rows[index] = observation if key is None else observation[key]

    def advance(self) -> None:
        """Appends the newest frame of every environment to its stack."""
        for key, stack in self._stacks.items():
            width = self.rows[key].shape[1]
            stack[:, :-width] = stack[:, width:]
            stack[:, -width:] = self.rows[key]

    def restart(self, indices: Any) -> None:
        """Fills the stacks of ``indices`` with their newest frame, which a reset gave."""
        for key, stack in self._stacks.items():
            newest = self.rows[key][indices]
            stack[indices] = np.concatenate([newest] * self._frames, axis=1)

    def read(self) -> Observation:
        """A copy of all stacked observations: [n_envs, ...] or a dict of such."""
        return self._pick(slice(None))

    def read_row(self, index: int) -> Observation:
        """A copy of one environment's stacked observation."""
        return self._pick(index)

    def _pick(self, index: Any) -> Observation:
        source = self._stacks or self.rows
        if None in source:
            return np.array(source[None][index])
        return {str(key): np.array(values[index]) for key, values in source.items()}

    def get_state(self) -> dict[str, Any]:
        """Copies of all frames."""
        return {name: {key or "": array.copy() for key, array in part.items()} for name, part in self._parts().items()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes frames that :meth:`get_state` gave; raises StateUnavailableError when their shapes differ."""
        for name, part in self._parts().items():
            for key, array in part.items():
                saved = np.asarray(state.get(name, {}).get(key or ""))
                if saved.shape != array.shape or saved.dtype != array.dtype:
                    raise StateUnavailableError(
                        f"the saved observations {key or ''} are {saved.dtype}{saved.shape}, this environment's are "
                        f"{array.dtype}{array.shape}: make it with the settings of the run that saved them"
                    )
                array[...] = saved

    def _parts(self) -> dict[str, dict[str | None, np.ndarray]]:
        return {"rows": self.rows, "stacks": self._stacks}
