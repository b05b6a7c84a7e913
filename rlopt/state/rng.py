"""The states of all random generators that training draws from, as plain arrays and numbers."""

import random
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlopt.errors import CheckpointError
from rlopt.storage.tree import Tree

_MAX_THREADS = 4096


def capture_random(action_space: spaces.Space[Any] | None) -> dict[str, Tree]:
    """The states of Python's, numpy's and torch's global generators and of the action space; torch's thread count.

    The thread count belongs to it because it decides in which order sums are taken, hence their last bits.
    """
    version, words, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=False)
    return {
        "python": {"version": version, "words": np.array(words, np.uint32), "gauss": gauss},
        "numpy": {
            "key": np.array(legacy["state"]["key"], np.uint32),
            "pos": int(legacy["state"]["pos"]),
            "has_gauss": int(legacy["has_gauss"]),
            "gauss": float(legacy["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "action_space": None if action_space is None else _capture_space(action_space),
        "threads": torch.get_num_threads(),
    }


def restore_random(state: Tree, action_space: spaces.Space[Any] | None) -> None:
    """Sets all generators as :func:`capture_random` found them; CUDA's as far as this machine has such devices.

    :raises rlopt.errors.CheckpointError: for a malformed state
    """
    python, legacy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(int(word) for word in python["words"]), python["gauss"]))
    if not isinstance(python["gauss"], float | None) or not isinstance(legacy["gauss"], float):
        raise CheckpointError("the checkpoint's random state is malformed")
    # numpy takes any position and would read beyond its key.
    if type(legacy["pos"]) is not int or not 0 <= legacy["pos"] <= 624:
        raise CheckpointError("the checkpoint's numpy random state is malformed")
    np.random.set_state(("MT19937", legacy["key"], legacy["pos"], legacy["has_gauss"], legacy["gauss"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        for device, words in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(words, device)
    if action_space is not None and state["action_space"] is not None:
        _restore_space(action_space, state["action_space"])
    threads = state["threads"]
    if type(threads) is not int or not 1 <= threads <= _MAX_THREADS:
        raise CheckpointError(f"the checkpoint asks for {threads!r} torch threads: it is malformed")
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)


def _parts(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    """The spaces within ``space``, which have generators of their own."""
    if isinstance(space, spaces.Dict):
        return list(space.spaces.values())
    if isinstance(space, spaces.Tuple):
        return list(space.spaces)
    return []


def _capture_space(space: spaces.Space[Any]) -> Tree:
    return {"own": space.np_random.bit_generator.state, "parts": [_capture_space(part) for part in _parts(space)]}


def _restore_space(space: spaces.Space[Any], state: Tree) -> None:
    space.np_random.bit_generator.state = state["own"]
    for part, part_state in zip(_parts(space), state["parts"], strict=True):
        _restore_space(part, part_state)
