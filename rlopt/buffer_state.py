"""The state of SB3's replay buffers (the filled rows only) and of action noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.noise import (
    ActionNoise,
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from rlopt.env_state import copy_arrays
from rlopt.errors import CheckpointError
from rlopt.tree import Tree

_BUFFERS = (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer, HerReplayBuffer)
_ROWS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts", "ep_start", "ep_length")
_OWN_STATE = "give it get_state() and set_state(state), or use one of Stable-Baselines3's"


def capture_buffer(buffer: ReplayBuffer | None, copy: bool = True) -> Tree:
    """The filled part of ``buffer``; a class with ``get_state`` and ``set_state`` of its own is asked instead.

    :param copy: False gives views of the buffer, to be written before the next transition is stored
    :raises rlopt.errors.CheckpointError: a class of buffer that cannot be captured
    """
    if buffer is None:
        return None
    name = type(buffer).__name__
    if hasattr(type(buffer), "get_state"):
        return {"class": name, "own": buffer.get_state()}  # type: ignore[attr-defined]
    if type(buffer) not in _BUFFERS:
        raise CheckpointError(f"replay_buffer_class: the state of {name} cannot be captured: {_OWN_STATE}")
    filled = _filled_rows(buffer, buffer.pos, buffer.full)
    state: dict[str, Tree] = {"class": name, "pos": int(buffer.pos), "full": bool(buffer.full)}
    state["buffer_size"], state["n_envs"] = int(buffer.buffer_size), int(buffer.n_envs)
    state["rows"] = {}
    for attribute in _ROWS:
        rows = getattr(buffer, attribute, None)
        if isinstance(rows, dict):
            state["rows"][attribute] = {key: _part(part, filled, copy) for key, part in rows.items()}
        elif rows is not None:
            state["rows"][attribute] = _part(rows, filled, copy)
    if isinstance(buffer, HerReplayBuffer):
        state["current_ep_start"] = buffer._current_ep_start.copy()
        infos = [list(row) for row in buffer.infos[:filled]] if buffer.copy_info_dict else None
        state["infos"] = copy_arrays(infos) if copy else infos
    return state


def check_buffer(buffer: ReplayBuffer | None, state: Tree) -> None:
    """Raises CheckpointError unless ``state`` fits ``buffer``: class, size, shapes and dtypes of all rows."""
    own, saved = ("none", "none") if buffer is None else (type(buffer).__name__, "none")
    saved = saved if state is None else str(state["class"])
    if own != saved:
        raise CheckpointError(f"the checkpoint's replay buffer is {saved}, this model's {own}: use the same settings")
    if buffer is None or "own" in state or hasattr(type(buffer), "get_state"):
        return
    size = (state["buffer_size"], state["n_envs"])
    if size != (buffer.buffer_size, buffer.n_envs):
        raise CheckpointError(
            f"the checkpoint's replay buffer has {size[0]} rows of {size[1]} environments, this model's "
            f"{buffer.buffer_size} of {buffer.n_envs}: use the same buffer_size and n_envs"
        )
    pos, full = state["pos"], state["full"]
    if type(pos) is not int or type(full) is not bool or not 0 <= pos < buffer.buffer_size:
        raise CheckpointError("the checkpoint's replay buffer has no valid position: it is malformed")
    filled = _filled_rows(buffer, pos, full)
    for attribute in _ROWS:
        rows, saved_rows = getattr(buffer, attribute, None), state["rows"].get(attribute)
        parts = rows if isinstance(rows, dict) else {"": rows}
        saved_parts = saved_rows if isinstance(saved_rows, dict) else {"": saved_rows}
        if set(parts) != set(saved_parts):
            raise CheckpointError(f"the checkpoint's replay buffer has other {attribute} than this model's")
        for key, part in parts.items():
            _check_rows(f"{attribute}{f'[{key}]' if key else ''}", part, saved_parts[key], filled)
    if isinstance(buffer, HerReplayBuffer):
        _check_her(buffer, state, filled)


def restore_buffer(buffer: ReplayBuffer | None, state: Tree) -> None:
    """Fills ``buffer``, in place, from a state that :func:`check_buffer` accepted."""
    if buffer is None:
        return
    if hasattr(type(buffer), "set_state"):
        buffer.set_state(state["own"])  # type: ignore[attr-defined]
        return
    before, filled = _filled_rows(buffer, buffer.pos, buffer.full), _filled_rows(buffer, state["pos"], state["full"])
    for attribute, saved in state["rows"].items():
        rows = getattr(buffer, attribute)
        if not isinstance(rows, dict):
            rows, saved = {"": rows}, {"": saved}
        for key, part in rows.items():
            part[:filled] = saved[key]
            # Rows never written stay untouched: the operating system gives memory only to those that were.
            if before > filled:
                part[filled:before] = 0
    buffer.pos, buffer.full = state["pos"], state["full"]
    if isinstance(buffer, HerReplayBuffer):
        buffer._current_ep_start = state["current_ep_start"].copy()
        if state["infos"] is not None:
            for row, infos in enumerate(state["infos"]):
                for column, info in enumerate(infos):
                    buffer.infos[row, column] = info


def cut_episodes(buffer: ReplayBuffer | None) -> None:
    """Marks the running episodes as cut off, because the next transition to be stored begins new ones."""
    if buffer is None or (buffer.pos == 0 and not buffer.full):
        return
    if isinstance(buffer, HerReplayBuffer):
        unfinished = buffer._current_ep_start != buffer.pos
        for index in np.flatnonzero(unfinished):
            buffer.dones[buffer.pos - 1, index] = 1
            buffer._compute_episode_length(int(index))
            if buffer.handle_timeout_termination:
                buffer.timeouts[buffer.pos - 1, index] = 1
    elif isinstance(buffer, NStepReplayBuffer):
        # n-step returns stop at a timeout and bootstrap there; a plain timeout has done = 1 too.
        buffer.timeouts[buffer.pos - 1] = np.maximum(buffer.timeouts[buffer.pos - 1], 1 - buffer.dones[buffer.pos - 1])
    elif buffer.optimize_memory_usage:
        # Its next observation is about to be overwritten; Stable-Baselines3 does the same (_setup_learn).
        buffer.dones[buffer.pos - 1] = 1


def capture_noise(noise: ActionNoise | None) -> Tree:
    """The state of ``noise`` beyond the global random state it draws from."""
    if noise is None or type(noise) is NormalActionNoise:
        return None
    if hasattr(type(noise), "get_state"):
        return {"own": noise.get_state()}  # type: ignore[attr-defined]
    if type(noise) is OrnsteinUhlenbeckActionNoise:
        return {"previous": copy_arrays(noise.noise_prev)}
    if type(noise) is VectorizedActionNoise:
        return {"parts": [capture_noise(part) for part in noise.noises]}
    raise CheckpointError(f"action_noise: the state of {type(noise).__name__} cannot be captured: {_OWN_STATE}")


def restore_noise(noise: ActionNoise | None, state: Tree) -> None:
    """Puts ``noise``, in place, into ``state``; CheckpointError if it is another kind of noise."""
    if state is None and (noise is None or type(noise) is NormalActionNoise):
        return
    if state is not None and "own" in state and hasattr(type(noise), "set_state"):
        noise.set_state(state["own"])  # type: ignore[union-attr]
    elif type(noise) is OrnsteinUhlenbeckActionNoise and state is not None and "previous" in state:
        if not isinstance(state["previous"], np.ndarray) or state["previous"].shape != noise.noise_prev.shape:
            raise CheckpointError("the checkpoint's action noise has another shape: use the same action_noise")
        noise.noise_prev = state["previous"].copy()
    elif type(noise) is VectorizedActionNoise and state is not None and len(state["parts"]) == len(noise.noises):
        for part, part_state in zip(noise.noises, state["parts"], strict=True):
            restore_noise(part, part_state)
    else:
        raise CheckpointError(f"the checkpoint's action noise is not {type(noise).__name__}: use the same action_noise")


def _filled_rows(buffer: ReplayBuffer, pos: int, full: bool) -> int:
    if full:
        return int(buffer.buffer_size)
    # The memory-saving variant keeps the last transition's next observation in the row after it.
    return min(pos + 1, buffer.buffer_size) if buffer.optimize_memory_usage and pos else pos


def _part(rows: np.ndarray, filled: int, copy: bool) -> np.ndarray:
    return rows[:filled].copy() if copy else rows[:filled]


def _check_rows(name: str, own: Any, saved: Any, filled: int) -> None:
    if own is None and saved is None:
        return
    expected = None if own is None else (filled, *own.shape[1:])
    if own is None or not isinstance(saved, np.ndarray) or saved.shape != expected or saved.dtype != own.dtype:
        raise CheckpointError(
            f"the checkpoint's replay buffer has {name} of {getattr(saved, 'dtype', type(saved).__name__)}"
            f"{getattr(saved, 'shape', '')}, this model's of {getattr(own, 'dtype', None)}{expected}"
        )


def _check_her(buffer: HerReplayBuffer, state: Tree, filled: int) -> None:
    _check_rows("current_ep_start", buffer._current_ep_start, state["current_ep_start"], buffer.n_envs)
    limits = (("ep_start", buffer.buffer_size), ("ep_length", buffer.buffer_size + 1))
    indices = [(state["rows"][name], end) for name, end in limits] + [(state["current_ep_start"], buffer.buffer_size)]
    if any(rows.size and (rows.min() < 0 or rows.max() >= end) for rows, end in indices):
        raise CheckpointError("the checkpoint's replay buffer has episodes outside it: it is malformed")
    infos = state["infos"]
    if (infos is not None) is not bool(buffer.copy_info_dict):
        raise CheckpointError("the checkpoint's replay buffer has another copy_info_dict: use the same settings")
    if infos is not None and (len(infos) != filled or any(len(row) != buffer.n_envs for row in infos)):
        raise CheckpointError("the checkpoint's replay buffer has not one info per transition: it is malformed")
