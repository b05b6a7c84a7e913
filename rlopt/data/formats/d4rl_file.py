"""The arrays of a D4RL-layout HDF5 file, checked, before anything is converted."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.data.checks import CLIP_ACTIONS, check_bounds, float32
from rlopt.data.formats.hdf5 import open_hdf5, read_array
from rlopt.data.formats.limits import budget_of
from rlopt.data.names import D4RLName
from rlopt.errors import DataError

REQUIRED = ("observations", "actions", "rewards", "terminals")
_EXTRAS = {"infos/goal": "goal", "infos/qpos": "qpos", "infos/qvel": "qvel"}


@dataclass
class RawFile:
    """N rows as they lie in the file."""

    observations: np.ndarray
    """(N, observation) float32."""
    actions: np.ndarray
    """(N, action) float32."""
    rewards: np.ndarray
    """(N,) float32."""
    terminals: np.ndarray
    """(N,) bool."""
    timeouts: np.ndarray | None
    """(N,) bool; None if the file has none."""
    next_observations: np.ndarray | None
    """(N, observation) float32; None if the file has none."""
    extras: dict[str, np.ndarray]
    """``goal``, ``qpos``, ``qvel`` (N, ...), as far as the file has them."""
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rewards)


def read_raw(path: Path, entry: D4RLName, clip_actions: bool) -> RawFile:
    """Reads and checks a file; see :func:`rlopt.data.formats.d4rl.read_d4rl` for the errors.

    :param entry: what the file should be
    :param clip_actions: clip to [-1, 1] what lies outside
    """
    budget = budget_of(path)
    with open_hdf5(path) as file:
        arrays = {
            name: read_array(file, name, budget, single=True) for name in (*REQUIRED, "timeouts", "next_observations")
        }
        extras = {short: read_array(file, name, budget, single=True) for name, short in _EXTRAS.items()}
        _require_keys(arrays, sorted(file)[:12])
    try:
        raw = _checked(arrays, extras)
        _check_entry(raw, entry)
        _bound_actions(raw, clip_actions)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return raw


def _require_keys(arrays: dict[str, Any], present: list[str]) -> None:
    missing = [name for name in REQUIRED if arrays[name] is None]
    if missing:
        raise DataError(
            f"{', '.join(missing)} missing (it has {', '.join(present) or 'nothing'}): give a file of the D4RL layout"
        )


def _checked(arrays: dict[str, Any], extras: dict[str, Any]) -> RawFile:
    length = len(arrays["rewards"]) if arrays["rewards"].ndim else 0
    if length < 2:
        raise DataError(f"it has {length} rows: a data set needs at least 2, as the last has no successor")
    for name, array in (*arrays.items(), *extras.items()):
        if array is not None and (array.ndim == 0 or len(array) != length):
            rows = len(array) if array.ndim else 0
            raise DataError(f"{name} has {rows} rows, rewards {length}: the file is damaged or was cut")
    if arrays["observations"].ndim != 2 or arrays["actions"].ndim != 2:
        shapes = f"observations {arrays['observations'].shape}, actions {arrays['actions'].shape}"
        raise DataError(f"{shapes}: the D4RL layout has flat ones, (N, size)")
    following = arrays["next_observations"]
    if following is not None and following.shape != arrays["observations"].shape:
        raise DataError(f"next_observations {following.shape} and observations {arrays['observations'].shape} differ")
    return RawFile(
        observations=_floats("observations", arrays["observations"]),
        actions=_floats("actions", arrays["actions"]),
        rewards=_vector("rewards", _floats("rewards", arrays["rewards"])),
        terminals=_flags("terminals", arrays["terminals"]),
        timeouts=None if arrays["timeouts"] is None else _flags("timeouts", arrays["timeouts"]),
        next_observations=None if following is None else _floats("next_observations", following),
        extras={name: _extra(name, array) for name, array in extras.items() if array is not None},
    )


def _floats(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "f":
        raise DataError(f"{name} has dtype {array.dtype}: the D4RL layout has float32")
    return float32(name, array)


def _extra(name: str, array: np.ndarray) -> np.ndarray:
    return _floats(f"infos/{name}", array) if array.dtype.kind == "f" else array


def _vector(name: str, array: np.ndarray) -> np.ndarray:
    if array.shape == (len(array), 1):
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{name} has shape {array.shape}: (N,) is needed")
    return array


def _flags(name: str, array: np.ndarray) -> np.ndarray:
    array = _vector(name, array)
    if array.dtype != bool and not ((array == 0) | (array == 1)).all():
        raise DataError(f"{name} has values other than 0 and 1: the file is damaged or of another layout")
    return array.astype(bool)


def _check_entry(raw: RawFile, entry: D4RLName) -> None:
    sizes = (raw.observations.shape[1], raw.actions.shape[1])
    if sizes != (entry.observation_size, entry.action_size):
        raise DataError(
            f"observations of size {sizes[0]} and actions of size {sizes[1]} are not those of {entry.name} "
            f"({entry.observation_size} and {entry.action_size}): this is the data set of another environment"
        )


def _bound_actions(raw: RawFile, clip: bool) -> None:
    low, high = np.full(raw.actions.shape[1], -1.0), np.full(raw.actions.shape[1], 1.0)
    if clip:
        outside = int((np.abs(raw.actions) > 1).any(axis=1).sum())
        if outside:
            raw.notes.append(f"actions of {outside} rows clipped to [-1, 1]")
        raw.actions = np.clip(raw.actions, -1.0, 1.0)
    else:
        check_bounds(raw.actions, low, high, f"D4RL's lie in [-1, 1]; {CLIP_ACTIONS}")


def replaced(raw: RawFile, **changes: Any) -> RawFile:
    """A copy with other arrays."""
    return dataclasses.replace(raw, **changes)
