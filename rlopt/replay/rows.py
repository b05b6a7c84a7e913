"""Saves and restores replay buffers: their rows as plain arrays, checked before they are restored.

Stable-Baselines3's buffers (numpy) and those of :mod:`rlopt.replay.buffers` (tensors) name their rows alike, so that
either kind takes the checkpoint of the other.
"""

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from rlopt.data.columns import scaled_actions
from rlopt.data.dataset import Dataset
from rlopt.errors import CheckpointError
from rlopt.state.envs import copy_arrays
from rlopt.storage.tree import Tree

_ROWS = (
    "observations",
    "next_observations",
    "frame_index",
    "actions",
    "rewards",
    "dones",
    "timeouts",
    "ep_start",
    "ep_length",
)
"""Attributes with a row for each transition; a buffer has those that its kind needs."""


def capture_rows(buffer: ReplayBuffer, copy: bool = True) -> dict[str, Tree]:
    """Position, sizes and filled rows of ``buffer``, as numbers and numpy arrays by name.

    :param copy: False gives views where the rows are on the CPU, valid until the next transition is stored
    """
    filled = filled_rows(buffer, buffer.pos, buffer.full)
    state: dict[str, Tree] = {"pos": int(buffer.pos), "full": bool(buffer.full)}
    state["buffer_size"], state["n_envs"] = int(buffer.buffer_size), int(buffer.n_envs)
    state["rows"] = {}
    for attribute in _ROWS:
        rows = stored_part(buffer, attribute)
        if isinstance(rows, dict):
            state["rows"][attribute] = {key: _part(part, filled, copy) for key, part in rows.items()}
        elif rows is not None:
            state["rows"][attribute] = _part(rows, filled, copy)
    if isinstance(buffer, HerReplayBuffer):
        state["current_ep_start"] = buffer._current_ep_start.copy()
        infos = [list(row) for row in buffer.infos[:filled]] if buffer.copy_info_dict else None
        state["infos"] = copy_arrays(infos) if copy else infos
    return state


def check_rows(buffer: ReplayBuffer, state: Tree) -> None:
    """Raises CheckpointError unless ``state`` fits ``buffer``: sizes, position, shapes and dtypes of all rows."""
    size = (state["buffer_size"], state["n_envs"])
    if size != (buffer.buffer_size, buffer.n_envs):
        raise CheckpointError(
            f"the checkpoint's replay buffer has {size[0]} rows of {size[1]} environments, this model's "
            f"{buffer.buffer_size} of {buffer.n_envs}: use the same buffer_size and n_envs"
        )
    pos, full = state["pos"], state["full"]
    if type(pos) is not int or type(full) is not bool or not 0 <= pos < buffer.buffer_size:
        raise CheckpointError("the checkpoint's replay buffer has no valid position: it is malformed")
    filled = filled_rows(buffer, pos, full)
    for attribute in _ROWS:
        rows, saved_rows = stored_part(buffer, attribute), state["rows"].get(attribute)
        parts = rows if isinstance(rows, dict) else {"": rows}
        saved_parts = saved_rows if isinstance(saved_rows, dict) else {"": saved_rows}
        if set(parts) != set(saved_parts):
            raise CheckpointError(f"the checkpoint's replay buffer has other {attribute} than this model's")
        for key, part in parts.items():
            _check_part(f"{attribute}{f'[{key}]' if key else ''}", part, saved_parts[key], filled)
    if isinstance(buffer, HerReplayBuffer):
        _check_her(buffer, state, filled)


def restore_rows(buffer: ReplayBuffer, state: Tree) -> None:
    """Fills ``buffer``, in place, from a state that :func:`check_rows` accepted."""
    before, filled = filled_rows(buffer, buffer.pos, buffer.full), filled_rows(buffer, state["pos"], state["full"])
    for attribute, saved in state["rows"].items():
        rows = stored_part(buffer, attribute)
        if not isinstance(rows, dict):
            rows, saved = {"": rows}, {"": saved}
        for key, part in rows.items():
            part[:filled] = torch.from_numpy(saved[key]) if isinstance(part, torch.Tensor) else saved[key]
            # Only rows that were written are cleared: writing to the others would make them take memory.
            if before > filled:
                part[filled:before] = 0
    buffer.pos, buffer.full = state["pos"], state["full"]
    if isinstance(buffer, HerReplayBuffer):
        buffer._current_ep_start = state["current_ep_start"].copy()
        if state["infos"] is not None:
            for row, infos in enumerate(state["infos"]):
                for column, info in enumerate(infos):
                    buffer.infos[row, column] = info


def stored_part(buffer: ReplayBuffer, name: str) -> Any:
    """What ``buffer`` keeps of every row by that name, to be written too: an array, a tensor, or a dict; else None."""
    return buffer.stored(name) if hasattr(buffer, "stored") else getattr(buffer, name, None)


def filled_rows(buffer: ReplayBuffer, pos: int, full: bool) -> int:
    """How many rows of ``buffer`` hold something when its position is ``pos``."""
    if full:
        return int(buffer.buffer_size)
    # With optimize_memory_usage the newest transition's next observation lies in the row after it.
    return min(pos + 1, buffer.buffer_size) if buffer.optimize_memory_usage and pos else pos


def _part(rows: np.ndarray | torch.Tensor, filled: int, copy: bool) -> np.ndarray:
    if isinstance(rows, torch.Tensor):
        copy = copy and rows.device.type == "cpu"  # cpu() has copied what was on a GPU
        rows = rows[:filled].cpu().numpy()
    return rows[:filled].copy() if copy else rows[:filled]


def _dtype(rows: np.ndarray | torch.Tensor) -> np.dtype:
    return torch.empty(0, dtype=rows.dtype).numpy().dtype if isinstance(rows, torch.Tensor) else rows.dtype


def _check_part(name: str, own: Any, saved: Any, filled: int) -> None:
    if own is None and saved is None:
        return
    expected, dtype = (None, None) if own is None else ((filled, *own.shape[1:]), _dtype(own))
    if own is None or not isinstance(saved, np.ndarray) or saved.shape != expected or saved.dtype != dtype:
        raise CheckpointError(
            f"the checkpoint's replay buffer has {name} of {getattr(saved, 'dtype', type(saved).__name__)}"
            f"{getattr(saved, 'shape', '')}, this model's of {dtype}{expected}"
        )


def _check_her(buffer: HerReplayBuffer, state: Tree, filled: int) -> None:
    _check_part("current_ep_start", buffer._current_ep_start, state["current_ep_start"], buffer.n_envs)
    limits = (("ep_start", buffer.buffer_size), ("ep_length", buffer.buffer_size + 1))
    indices = [(state["rows"][name], end) for name, end in limits] + [(state["current_ep_start"], buffer.buffer_size)]
    if any(rows.size and (rows.min() < 0 or rows.max() >= end) for rows, end in indices):
        raise CheckpointError("the checkpoint's replay buffer has episodes outside it: it is malformed")
    infos = state["infos"]
    if (infos is not None) is not bool(buffer.copy_info_dict):
        raise CheckpointError("the checkpoint's replay buffer has another copy_info_dict: use the same settings")
    if infos is not None and (len(infos) != filled or any(len(row) != buffer.n_envs for row in infos)):
        raise CheckpointError("the checkpoint's replay buffer has not one info per transition: it is malformed")


def chosen_rows(column: Any, rows: torch.Tensor) -> Any:
    """The ``rows`` (B,) of a column, or of each part of a dict of columns."""
    if isinstance(column, dict):
        return {key: part.index_select(0, rows) for key, part in column.items()}
    return column.index_select(0, rows)


def joined_columns(first: Any, second: Any) -> Any:
    """The rows of two tensors behind one another, or of two dicts of tensors."""
    if isinstance(first, dict):
        return {key: torch.cat([part, second[key]]) for key, part in first.items()}
    return torch.cat([first, second])


def cut_episodes(buffer: ReplayBuffer | None) -> None:
    """Marks the running episodes as cut off, because the next transition to be stored begins new ones."""
    if buffer is None or (buffer.pos == 0 and not buffer.full):
        return
    dones, timeouts = stored_part(buffer, "dones"), stored_part(buffer, "timeouts")
    if isinstance(buffer, HerReplayBuffer):
        unfinished = buffer._current_ep_start != buffer.pos
        for index in np.flatnonzero(unfinished):
            dones[buffer.pos - 1, index] = 1
            buffer._compute_episode_length(int(index))
            if buffer.handle_timeout_termination:
                timeouts[buffer.pos - 1, index] = 1
    elif isinstance(buffer, NStepReplayBuffer):
        # n-step returns stop at a timeout and bootstrap there; a plain timeout has done = 1 too. Where the episode is
        # not done this gives 1, elsewhere what was there.
        row = buffer.pos - 1
        timeouts[row] = 1 - dones[row] * (1 - timeouts[row])
    elif buffer.optimize_memory_usage:
        # Its next observation is about to be overwritten; Stable-Baselines3 does the same (_setup_learn).
        dones[buffer.pos - 1] = 1


def seed_buffer(buffer: Any, dataset: Dataset) -> None:
    """Writes ``dataset`` to the first rows of an empty replay buffer, each environment a stretch of it.

    A stretch that ends inside an episode is marked as cut there; the rest that does not divide by the number of
    environments is left out.
    """
    length = len(dataset) // buffer.n_envs
    actions = scaled_actions(dataset.actions, buffer.action_space)
    ends = dataset.episode_ends.copy()
    ends[length - 1 :: length] = True
    columns: dict[str, Any] = {
        "observations": dataset.observations,
        "next_observations": dataset.next_observations,
        "actions": actions.reshape(len(dataset), -1),
        "rewards": dataset.rewards,
        "dones": ends.astype(np.float32),
        "timeouts": (ends & (dataset.discounts > 0)).astype(np.float32),
    }
    for name, column in columns.items():
        storage = stored_part(buffer, name)
        pairs = [(storage[key], column[key]) for key in storage] if isinstance(storage, dict) else [(storage, column)]
        for rows, values in pairs:
            part = torch.from_numpy(np.ascontiguousarray(values[: length * buffer.n_envs]))
            stretches = part.reshape(buffer.n_envs, length, *part.shape[1:]).transpose(0, 1)
            rows[:length] = stretches.reshape(rows[:length].shape).to(rows.dtype)
    buffer.pos = length % buffer.buffer_size
    buffer.full = length == buffer.buffer_size
