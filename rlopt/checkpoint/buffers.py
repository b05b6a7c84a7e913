"""The state of replay buffers (the filled rows only) and of action noise."""

import numpy as np
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.noise import (
    ActionNoise,
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from rlopt.errors import CheckpointError
from rlopt.replay.buffers import DeviceReplayBuffer
from rlopt.replay.rows import capture_rows, check_rows, restore_rows
from rlopt.state.envs import copy_arrays
from rlopt.storage.tree import Tree

_BUFFERS = (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer, HerReplayBuffer)
_OWN_STATE = "give it get_state() and set_state(state), or use one of Stable-Baselines3's"


def capture_buffer(buffer: ReplayBuffer | None, copy: bool = True) -> Tree:
    """The filled part of ``buffer``; a class with ``get_state`` and ``set_state`` of its own is asked instead.

    :param copy: False gives views of the buffer, to be written before the next transition is stored
    :raises rlopt.errors.CheckpointError: a class of buffer that cannot be captured
    """
    if buffer is None:
        return None
    name = type(buffer).__name__
    if isinstance(buffer, DeviceReplayBuffer):
        return {"class": name, **buffer.get_state(copy)}
    if hasattr(type(buffer), "get_state"):
        return {"class": name, "own": buffer.get_state()}  # type: ignore[attr-defined]
    if type(buffer) not in _BUFFERS:
        raise CheckpointError(f"replay_buffer_class: the state of {name} cannot be captured: {_OWN_STATE}")
    return {"class": name, **capture_rows(buffer, copy)}


def check_buffer(buffer: ReplayBuffer | None, state: Tree) -> None:
    """Raises CheckpointError unless ``state`` fits ``buffer``: class, size, shapes and dtypes of all rows.

    What Stable-Baselines3's buffer of a kind held fits the one of :mod:`rlopt.replay.buffers`, and the reverse.
    """
    own, saved = ("none", "none") if buffer is None else (type(buffer).__name__, "none")
    saved = saved if state is None else str(state["class"])
    if own.removeprefix("Device") != saved.removeprefix("Device"):
        raise CheckpointError(f"the checkpoint's replay buffer is {saved}, this model's {own}: use the same settings")
    if buffer is None:
        return
    if isinstance(buffer, DeviceReplayBuffer):
        buffer.check_state(state)
    elif "own" not in state and not hasattr(type(buffer), "get_state"):
        check_rows(buffer, state)


def restore_buffer(buffer: ReplayBuffer | None, state: Tree) -> None:
    """Fills ``buffer``, in place, from a state that :func:`check_buffer` accepted."""
    if buffer is None:
        return
    if isinstance(buffer, DeviceReplayBuffer):
        buffer.set_state(state)
    elif hasattr(type(buffer), "set_state"):
        buffer.set_state(state["own"])  # type: ignore[attr-defined]
    else:
        restore_rows(buffer, state)


def capture_noise(noise: ActionNoise | None) -> Tree:
    """The state of ``noise`` beyond the global random state it draws from.

    :raises rlopt.errors.CheckpointError: for noise of an unknown class that keeps a state
    """
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
