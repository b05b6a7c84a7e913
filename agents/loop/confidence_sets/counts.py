"""Counts of model-based agents: visits, rewards and transitions of every pair; and their optimistic sweeps."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

from rlopt.average_reward.mdp import Array


class Counts:
    """Visits of a process with S states and A actions.

    :param n_states: S
    :param n_actions: A
    :param dtype: dtype of the transitions
    """

    def __init__(self, n_states: int, n_actions: int, dtype: Any = np.float64) -> None:
        self.n_states, self.n_actions = n_states, n_actions
        # Lists: a number of one is read and written several times faster than that of an array.
        self.visits = [0.0] * (n_states * n_actions)
        """Visits of each pair s * A + a, as in what follows."""
        self._reward_sums = [0.0] * (n_states * n_actions)
        self._transitions = np.zeros(n_states * n_actions * n_states, dtype)

    def add(self, state: int, action: int, reward: float, next_state: int) -> None:
        """Takes a transition in."""
        pair = state * self.n_actions + action
        self.visits[pair] += 1.0
        self._reward_sums[pair] += reward
        self._transitions[pair * self.n_states + next_state] += 1

    @property
    def counts(self) -> Array:
        """[S, A] visits."""
        return np.array(self.visits).reshape(self.n_states, self.n_actions)

    @property
    def reward_sums(self) -> Array:
        """[S, A]."""
        return np.array(self._reward_sums).reshape(self.n_states, self.n_actions)

    @property
    def transitions(self) -> Array:
        """[S, A, S] visits by next state, a view."""
        return self._transitions.reshape(self.n_states, self.n_actions, self.n_states)

    def mean_rewards(self, unknown: float) -> Array:
        """[S, A] of the rewards seen; ``unknown`` where there are none."""
        counts = self.counts
        return np.where(counts > 0, self.reward_sums / np.maximum(counts, 1), unknown)

    def kernel(self) -> Array:
        """[S, A, S] frequencies of the next states; uniform where a pair has no visit."""
        counts = self.counts[:, :, None]
        return np.where(counts > 0, self.transitions / np.maximum(counts, 1), 1.0 / self.n_states)

    def get_state(self) -> dict[str, Any]:
        """Everything, as arrays."""
        return {"counts": self.counts, "reward_sums": self.reward_sums, "transitions": self.transitions.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave; raises ValueError if it does not fit."""
        require_fitting(self.get_state(), state)
        transitions = state["transitions"]
        if transitions.min() < 0:
            raise ValueError("counts are negative")
        if not np.array_equal(transitions.sum(axis=2), state["counts"]):
            raise ValueError("the visits do not add up")
        self.visits = state["counts"].reshape(-1).tolist()
        self._reward_sums = state["reward_sums"].reshape(-1).tolist()
        self._transitions = transitions.reshape(-1).copy()


class OptimisticValues(NamedTuple):
    """Where damped relative value iteration ended."""

    values: Array
    """[S], the smallest is 0."""
    action_values: Array
    """[S, A], one backup of them."""
    gain: float
    """Middle of the bracket of the gain."""
    error: float
    """Half the width of the bracket: how far the gain may be off."""
    sweeps: int


def relative_sweeps(
    backup: Callable[[Array], Array], start: Array, accuracy: float, max_sweeps: int
) -> OptimisticValues:
    """Relative value iteration with damping 1/2 for any monotone backup that commutes with shifts.

    Ends once the bracket [min, max] of (max_a backup(V) - V), which holds the gain, is no wider than 2 ``accuracy``.

    :param backup: values [S] to action values [S, A]
    :param start: [S]
    """
    values = start - start.min()
    for sweep in range(1, max_sweeps + 1):
        action_values = backup(values)
        change = action_values.max(axis=1) - values
        low, high = float(change.min()), float(change.max())
        if high - low <= 2 * accuracy or sweep == max_sweeps:
            break
        values = values + 0.5 * change
        values -= values.min()
    return OptimisticValues(values, action_values, (low + high) / 2, (high - low) / 2, sweep)


def require_fitting(own: dict[str, Any], given: dict[str, Any], free_length: Collection[str] = ()) -> None:
    """Raises ValueError unless ``given`` has the entries of ``own``, alike in type, shape and finite.

    :param free_length: arrays whose first axis may differ
    """
    for name, value in own.items():
        other: Any = given.get(name)
        if isinstance(value, np.ndarray):
            first = int(name in free_length)
            fits = isinstance(other, np.ndarray) and other.dtype == value.dtype and other.ndim == value.ndim
            fits = fits and other.shape[first:] == value.shape[first:] and bool(np.all(np.isfinite(other)))
        else:
            fits = type(other) is type(value) and (not isinstance(other, float) or bool(np.isfinite(other)))
        if not fits:
            raise ValueError(f"{name} is missing or does not fit")


def require_actions(policy: np.ndarray, n_actions: int) -> None:
    """Raises ValueError unless all actions of ``policy`` exist."""
    if policy.min(initial=0) < 0 or policy.max(initial=0) >= n_actions:
        raise ValueError("the policy has actions that do not exist")
