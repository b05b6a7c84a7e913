"""Logs the actions of the running episodes. Replayed into a fresh environment, they lead to the same state."""

from typing import Any

import numpy as np

from rlopt.errors import StateUnavailableError


class ActionLog:
    """The actions that each environment of a batch was given since its last reset, in preallocated arrays.

    :param n_envs: environments in the batch
    :param shape: shape of one action
    :param dtype: dtype of the actions as the environment gets them
    :param capacity: steps to make room for at first; the log doubles when an episode is longer
    """

    def __init__(self, n_envs: int, shape: tuple[int, ...], dtype: Any, capacity: int = 1024) -> None:
        self.lengths = np.zeros(n_envs, np.int64)
        """[n_envs]: how many actions are logged of each environment."""
        self._actions = np.zeros((n_envs, max(1, capacity), *shape), dtype)
        self._indices = np.arange(n_envs)

    def append(self, actions: np.ndarray) -> None:
        """Adds one action per environment, [n_envs, *shape]."""
        if self.lengths.max() == self._actions.shape[1]:
            self._actions = np.concatenate([self._actions, np.zeros_like(self._actions)], axis=1)
        self._actions[self._indices, self.lengths] = actions
        self.lengths += 1

    def clear(self, indices: Any) -> None:
        """Forgets the actions of environments that were reset."""
        self.lengths[indices] = 0

    def at(self, indices: np.ndarray, step: int) -> np.ndarray:
        """The actions that ``indices`` were given in step ``step`` of their episodes, [len(indices), *shape]."""
        return self._actions[indices, step]

    def get_state(self) -> dict[str, Any]:
        """The logged actions, environment after environment, and how many each has."""
        parts = [self._actions[index, :length] for index, length in enumerate(self.lengths)]
        return {"lengths": self.lengths.copy(), "actions": np.concatenate(parts)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave; raises StateUnavailableError when it does not fit."""
        lengths, actions = np.asarray(state["lengths"]), np.asarray(state["actions"])
        if (
            lengths.shape != self.lengths.shape
            or actions.dtype != self._actions.dtype
            or actions.shape != (lengths.sum(), *self._actions.shape[2:])
        ):
            raise StateUnavailableError("the saved action log does not fit this environment's actions and copies")
        capacity = max(self._actions.shape[1], int(lengths.max()))
        self._actions = np.zeros((len(lengths), capacity, *self._actions.shape[2:]), self._actions.dtype)
        ends = np.cumsum(lengths)
        for index, (length, end) in enumerate(zip(lengths, ends, strict=True)):
            self._actions[index, :length] = actions[end - length : end]
        self.lengths = lengths.astype(np.int64)
