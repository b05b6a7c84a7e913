"""The memory that a replay buffer needs, whether the device has it, and the tensors."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.preprocessing import get_action_dim, get_obs_shape

from rlopt.errors import ConfigError, SpaceError
from rlopt.replay.frames import frame_capacity, frame_shape

Field: TypeAlias = tuple[tuple[int, ...], np.dtype]
"""Shape and dtype of one part of one transition, such as its action."""
Fields: TypeAlias = dict[str, Field | dict[str, Field]]

_FLOAT = np.dtype(np.float32)
_deferred: ContextVar[bool] = ContextVar("deferred", default=False)


@contextmanager
def deferred_storage() -> Iterator[None]:
    """Context in which a buffer takes memory only when it is first used: a model loaded to act may never use it."""
    token = _deferred.set(True)
    try:
        yield
    finally:
        _deferred.reset(token)


def storage_is_deferred() -> bool:
    """Whether the caller is within :func:`deferred_storage`."""
    return _deferred.get()


def row_fields(
    observation_space: spaces.Space, action_space: spaces.Space, optimize_memory_usage: bool, frames: int = 1
) -> Fields:
    """What a buffer stores for each transition, by name: shapes and dtypes.

    :raises rlopt.errors.SpaceError: observations or actions of a dtype that torch does not have
    """
    observations: Field | dict[str, Field]
    if isinstance(observation_space, spaces.Dict):
        observations = {key: _observation(space) for key, space in observation_space.spaces.items()}
    else:
        observations = _observation(observation_space)
    fields: Fields = {"observations": observations}
    if frames != 1:
        frame_shape(observation_space, frames)  # raises for observations that are not stacks of frames
        fields = {"frame_index": ((frames + 1,), np.dtype(np.int32))}
    elif not optimize_memory_usage:
        fields["next_observations"] = observations
    dtype = np.dtype(ReplayBuffer._maybe_cast_dtype(action_space.dtype))
    fields["actions"] = _usable(action_space, (get_action_dim(action_space),), dtype)
    return fields | dict.fromkeys(("rewards", "dones", "timeouts"), ((), _FLOAT))


def _observation(space: spaces.Space) -> Field:
    shape = get_obs_shape(space)
    assert isinstance(shape, tuple) and space.dtype is not None
    return _usable(space, shape, space.dtype)


def _usable(space: spaces.Space, shape: tuple[int, ...], dtype: np.dtype) -> Field:
    try:
        torch.from_numpy(np.empty(0, dtype))
    except TypeError:
        raise SpaceError(f"{space} has dtype {dtype}, which torch cannot hold: use float32 or uint8") from None
    return shape, np.dtype(dtype)


def bytes_per_row(fields: Fields) -> int:
    """Bytes that one transition takes."""
    sizes = [list(field.values()) if isinstance(field, dict) else [field] for field in fields.values()]
    return sum(math.prod(shape) * dtype.itemsize for parts in sizes for shape, dtype in parts)


def replay_bytes(
    buffer_size: int,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    n_envs: int = 1,
    optimize_memory_usage: bool = False,
    frames: int = 1,
) -> int:
    """Bytes that a buffer of :mod:`rlopt.replay.buffers` takes on its device when it is full; arguments as there."""
    rows = max(buffer_size // n_envs, 1) * n_envs
    fields = row_fields(observation_space, action_space, optimize_memory_usage, frames)
    return _total_bytes(fields, rows, n_envs, observation_space, frames)


def _total_bytes(fields: Fields, rows: int, n_envs: int, space: spaces.Space, frames: int) -> int:
    frame_bytes = 0 if frames == 1 else math.prod(frame_shape(space, frames)) * np.dtype(space.dtype).itemsize
    return rows * bytes_per_row(fields) + frame_capacity(rows, n_envs, frames) * frame_bytes


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be taken on ``device``; None where that is unknown."""
    if device.type == "cuda":
        # torch keeps freed memory for its next tensors; the driver counts it as taken.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type == "cpu":
        try:
            lines = Path("/proc/meminfo").read_text().splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    return None


def check_memory(
    fields: Fields, rows: int, n_envs: int, device: torch.device, space: spaces.Space, frames: int = 1
) -> None:
    """Raises :class:`rlopt.errors.ConfigError` unless ``rows`` transitions fit into the free memory of ``device``."""
    free, needed = free_memory(device), _total_bytes(fields, rows, n_envs, space, frames)
    if free is None or needed <= free:
        return
    # The frames that every environment needs do not grow with the rows: they are subtracted first.
    fixed = _total_bytes(fields, 0, n_envs, space, frames)
    most = max(free - fixed, 0) * rows // (needed - fixed) // n_envs * n_envs
    cure = f"lower buffer_size to at most {most}" if most else "use a device with more memory"
    raise ConfigError(
        f"buffer_size={rows} needs {needed / 1e9:.2f} GB and {device} has {free / 1e9:.2f} GB free: {cure}"
    )


def allocate(field: Field | dict[str, Field], rows: tuple[int, ...], device: torch.device) -> Any:
    """Zeros (*rows, ...), a tensor or a dict of tensors; on the CPU they take memory as they are written."""
    if isinstance(field, dict):
        return {key: allocate(part, rows, device) for key, part in field.items()}
    shape, dtype = (*rows, *field[0]), field[1]
    if device.type == "cpu":
        # torch.zeros writes every zero. numpy asks the operating system for pages that are zero until they are written.
        return torch.from_numpy(np.zeros(shape, dtype))
    return torch.zeros(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, device=device)
