"""Finite decision processes too large for dense arrays: a sparse row for each possible pair of state and action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rlopt.average_reward.mdp import (
    ROW_SUM_TOLERANCE,
    Array,
    DecisionProcess,
    as_array,
    check_actions,
    reward_range_of,
    table_columns,
)
from rlopt.average_reward.pairs import Pairs
from rlopt.errors import ModelError


@dataclass(frozen=True, eq=False)
class SparseMDP(DecisionProcess):
    """A finite process whose possible pairs of state and action each have a sparse row of transition probabilities.

    States may have different actions; a pair that is not listed is impossible. Everything that a
    :class:`rlopt.average_reward.FiniteMDP` can be planned with takes this too, except ``linear_program``. Optimal
    policies are found by sparse factors: a queue of a million states takes less than a minute.

    :raises ModelError: for shapes that do not fit, rows that are not distributions, a pair that is listed twice, or a
        state without actions
    """

    transitions: Any
    """[m, S] probabilities of the next state, anything that ``scipy.sparse.csr_array`` takes."""
    state: npt.NDArray[np.int64]
    """[m] the state of each pair."""
    action: npt.NDArray[np.int64]
    """[m] its action, from 0."""
    r: Array
    """[m] expected rewards; a pair with -inf is left out."""
    reward_range: tuple[float, float] | None = None
    """Smallest and largest reward that a step can give; None takes them from ``r``."""

    def __post_init__(self) -> None:
        from scipy.sparse import csr_array  # slow to import

        rows = csr_array(self.transitions, dtype=np.float64)
        r = as_array("r", self.r, forbidding=True)
        state, action = (np.asarray(values) for values in (self.state, self.action))
        if {r.shape, state.shape, action.shape} != {(rows.shape[0],)} or not rows.shape[0]:
            raise ModelError(
                f"transitions {rows.shape}, state {state.shape}, action {action.shape} and r {r.shape} do not fit: "
                "give [pairs, states] and three times [pairs]"
            )
        if any(values.dtype.kind not in "iu" or values.min() < 0 for values in (state, action)):
            raise ModelError("state and action must be whole numbers of at least 0")
        if state.max() >= rows.shape[1]:
            raise ModelError(f"the pairs have a state {state.max()}, but the rows {rows.shape[1]} columns")
        order = np.lexsort((action, state))
        order = order[np.isfinite(r[order])]
        state, action, r, rows = state[order].astype(np.int64), action[order].astype(np.int64), r[order], rows[order]
        twice = np.flatnonzero((np.diff(state) == 0) & (np.diff(action) == 0))
        if len(twice):
            raise ModelError(f"the pair of state {state[twice[0]]} and action {action[twice[0]]} is listed twice")
        check_actions(np.bincount(state, minlength=rows.shape[1]) > 0)
        rows.sum_duplicates()
        if not np.all(np.isfinite(rows.data)) or np.any(rows.data < 0):
            raise ModelError("transitions hold a NaN, an infinity or a number below 0: correct it")
        sums = np.asarray(rows.sum(axis=1)).reshape(-1)
        worst = int(np.argmax(abs(sums - 1)))
        if abs(sums[worst] - 1) > ROW_SUM_TOLERANCE:
            raise ModelError(
                f"the probabilities of state {state[worst]} and action {action[worst]} sum up to {sums[worst]:.10g}, "
                "not 1: divide the row by its sum or correct it"
            )
        rows.data = rows.data / np.repeat(sums, np.diff(rows.indptr))
        rows.eliminate_zeros()
        low, high = reward_range_of(r, self.reward_range, np.stack([state, action], axis=1))
        r = np.clip(r, low, high)
        for name, array in (("state", state), ("action", action), ("r", r)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "transitions", rows)
        object.__setattr__(self, "reward_range", (low, high))

    @classmethod
    def from_matrices(
        cls, matrices: Sequence[Any], r: npt.ArrayLike, reward_range: tuple[float, float] | None = None
    ) -> SparseMDP:
        """A process from a matrix [S, S] for each action, sparse or not.

        :param r: [S] or [S, A]; -inf where the action is impossible
        :raises ModelError: for shapes that do not fit
        """
        from scipy.sparse import csr_array, vstack

        rows = [csr_array(matrix, dtype=np.float64) for matrix in matrices]
        rewards = as_array("r", r, forbidding=True)
        shapes = {matrix.shape for matrix in rows}
        if len(shapes) != 1 or len(set(next(iter(shapes)))) != 1:
            raise ModelError(f"the matrices have the shapes {sorted(shapes)}: give one [S, S] for each action")
        size, actions = rows[0].shape[0], len(rows)
        if rewards.shape == (size,):
            rewards = np.broadcast_to(rewards[:, None], (size, actions))
        if rewards.shape != (size, actions):
            raise ModelError(f"r has shape {rewards.shape}: give [{size}] or [{size}, {actions}]")
        state, action = np.tile(np.arange(size), actions), np.repeat(np.arange(actions), size)
        allowed = np.isfinite(rewards.T.reshape(-1))
        return cls(
            vstack(rows, format="csr")[np.flatnonzero(allowed)],
            state[allowed],
            action[allowed],
            rewards.T.reshape(-1)[allowed],
            reward_range,
        )

    @classmethod
    def from_table(cls, table: npt.ArrayLike, reward_range: tuple[float, float] | None = None) -> SparseMDP:
        """As :meth:`DecisionProcess.from_table`."""
        from scipy.sparse import coo_array

        state, action, target, probability, reward = table_columns(table)
        size, actions = int(max(state.max(), target.max())) + 1, int(action.max()) + 1
        listed, row = np.unique(state * actions + action, return_inverse=True)
        matrix = coo_array((probability, (row, target)), shape=(len(listed), size)).tocsr()
        expected = np.asarray(np.bincount(row, probability * reward, minlength=len(listed)), np.float64)
        known = reward_range or (float(reward.min()), float(reward.max()))
        return cls(matrix, listed // actions, listed % actions, expected, known)

    @property
    def n_states(self) -> int:
        """How many states there are, S."""
        return int(self.transitions.shape[1])

    @cached_property
    def n_actions(self) -> int:
        """How many actions there are, A; a state may have fewer."""
        return int(self.action.max()) + 1

    @cached_property
    def pairs(self) -> Pairs:
        """As :attr:`DecisionProcess.pairs`."""
        matrix = self.transitions
        row = np.repeat(np.arange(len(self.state)), np.diff(matrix.indptr))
        column = matrix.indices.astype(np.int64)
        other = column != self.state[row]
        return Pairs(self.n_states, self.state, self.action, self.r, row[other], column[other], matrix.data[other])
