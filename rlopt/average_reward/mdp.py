"""Finite Markov decision processes, checked when made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rlopt.average_reward.pairs import Pairs
from rlopt.average_reward.policy_iteration import policy_iteration
from rlopt.average_reward.solution import AverageRewardSolution
from rlopt.errors import ModelError

Array = npt.NDArray[np.float64]
Policy = npt.ArrayLike
"""Actions [S] (whole numbers) or probabilities [S, A]."""
Outcomes = Sequence[Sequence[Sequence[tuple[float, int, float]]]]
"""What can happen in each state after each action: (probability, next state, reward)."""

ROW_SUM_TOLERANCE = 1e-8
"""How far from 1 the probabilities of a row may sum up; they are divided by their sum then."""


class DecisionProcess:
    """What dense (:class:`FiniteMDP`) and sparse (:class:`~rlopt.average_reward.sparse.SparseMDP`) processes share."""

    reward_range: tuple[float, float] | None

    @property
    def n_states(self) -> int:
        """How many states there are, S."""
        raise NotImplementedError

    @property
    def n_actions(self) -> int:
        """How many actions there are, A; a state may have fewer."""
        raise NotImplementedError

    @property
    def pairs(self) -> Pairs:
        """The possible pairs of state and action, as planners take them."""
        raise NotImplementedError

    @classmethod
    def from_table(cls, table: npt.ArrayLike, reward_range: tuple[float, float] | None = None) -> Self:
        """A process from its possible transitions; pairs without one are impossible.

        :param table: [n, 5], rows (state, action, next state, probability, reward); states and actions from 0
        :raises ModelError: a malformed table, or one that is not a process
        """
        raise NotImplementedError

    @classmethod
    def from_gymnasium(cls, P: Any, start: npt.ArrayLike | None = None) -> Self:
        """A process from the dictionary ``P`` of Gymnasium's toy-text environments, made to continue after each end.

        :param P: ``P[state][action]``, a list of (probability, next state, reward, terminated); or an environment
            whose ``unwrapped`` has it, which also tells where it starts
        :param start: [S] probabilities of the state after an end; None takes ``initial_state_distrib`` of the
            environment
        :raises ModelError: if an end has no start to continue from, or the lists are not a process
        """
        table, known = transitions_of(P)
        return cls.from_table(continued(table, known if start is None else start))

    @cached_property
    def solution(self) -> AverageRewardSolution:
        """Optimal gains, bias and policy by policy iteration; raises ModelError if they cannot be proved."""
        return policy_iteration(self)

    @property
    def gain(self) -> float:
        """J*, the largest long-run mean reward a step; raises ModelError if it depends on the first state."""
        return self.solution.gain

    @property
    def gains(self) -> Array:
        """[S] the largest long-run mean reward a step from each first state."""
        return self.solution.gains

    @property
    def bias(self) -> Array:
        """[S] h*, the largest bias of the policies with the best gain.

        Its mean under the stationary distribution of each recurrent class of the optimal policy is 0.
        """
        return self.solution.bias

    @property
    def span(self) -> float:
        """max h* - min h* of that bias; raises ModelError if the gain depends on the first state.

        Where several policies are optimal, the optimality equation has other solutions too, with other spans: this is
        the span of the largest bias, which is unique.
        """
        self.solution.gain  # noqa: B018  raises where there is none
        return self.solution.span

    def policy_chain(self, policy: Policy) -> Pairs:
        """The Markov chain of a stationary policy, one pair a state.

        :raises ModelError: if ``policy`` is neither actions [S] nor probabilities [S, A], or takes an impossible action
        """
        pairs = self.pairs
        probabilities = policy_probabilities(policy, self.n_states, self.n_actions)
        possible = np.zeros((self.n_states, self.n_actions), bool)
        possible[pairs.state, pairs.action] = True
        if (probabilities[~possible] > 0).any():
            state, action = (int(i) for i in np.argwhere((probabilities > 0) & ~possible)[0])
            raise ModelError(
                f"the policy takes the action {action} in state {state}, where it is impossible: change it"
            )
        weight = probabilities[pairs.state, pairs.action]
        taken = pairs.only(weight > 0)
        weight = weight[weight > 0]
        return Pairs(
            self.n_states,
            np.arange(self.n_states),
            np.zeros(self.n_states, np.int64),
            np.bincount(taken.state, weight * taken.rewards, minlength=self.n_states),
            taken.source,
            taken.column,
            weight[taken.row] * taken.rate,
        )


@dataclass(frozen=True, eq=False)
class FiniteMDP(DecisionProcess):
    """A Markov decision process with finitely many states and actions, as dense arrays.

    The arrays are copied, checked and made read-only. Optimal gain and bias are computed on first use. The reward -inf
    marks an action that a state does not have; its row of ``P`` is then ignored and set to 0.

    :raises ModelError: for arrays of the wrong shape, a NaN or +infinity, rows of ``P`` that are not distributions,
        a state without actions, or rewards outside ``reward_range``
    """

    P: Array
    """[S, A, S] probability of the next state; from arrays [A, S, S] see :meth:`from_arrays`."""
    r: Array
    """[S, A] expected reward; -inf where the action is impossible."""
    reward_range: tuple[float, float] | None = None
    """Smallest and largest reward that a step can give; None takes them from ``r``, right where rewards have no noise
    of their own."""
    outcomes: Outcomes | None = None
    """What can happen, ``outcomes[state][action]``, where more is known of rewards than their means."""

    def __post_init__(self) -> None:
        P, r = as_array("P", self.P), as_array("r", self.r, forbidding=True)
        if P.ndim != 3 or P.shape[0] != P.shape[2] or 0 in P.shape:
            raise ModelError(
                f"P has shape {P.shape}: give [states, actions, states] with at least one of each, or take "
                "FiniteMDP.from_arrays for [actions, states, states]"
            )
        if r.shape != P.shape[:2]:
            raise ModelError(f"r has shape {r.shape}: P asks for [states, actions] = {P.shape[:2]}")
        possible = np.isfinite(r)
        check_actions(np.asarray(possible.any(axis=1)))
        P[~possible] = 0.0
        if np.any(P < 0):
            state, action, target = (int(i) for i in np.argwhere(P < 0)[0])
            raise ModelError(
                f"P[{state}, {action}, {target}] is {P[state, action, target]:g}: probabilities must be at least 0"
            )
        sums = np.where(possible, P.sum(axis=2), 1.0)
        worst = np.unravel_index(np.argmax(abs(sums - 1)), sums.shape)
        if abs(sums[worst] - 1) > ROW_SUM_TOLERANCE:
            state, action = (int(i) for i in worst)
            raise ModelError(
                f"the probabilities P[{state}, {action}] sum up to {sums[worst]:.10g}, not 1: divide the row by its "
                "sum or correct it"
            )
        P = P / sums[:, :, None]
        low, high = reward_range_of(r[possible], self.reward_range, np.argwhere(possible))
        r[possible] = np.clip(r[possible], low, high)
        for name, array in (("P", P), ("r", r)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "reward_range", (low, high))

    @classmethod
    def from_arrays(
        cls,
        P: npt.ArrayLike,
        r: npt.ArrayLike,
        order: str | None = None,
        reward_range: tuple[float, float] | None = None,
    ) -> FiniteMDP:
        """A process from arrays in either order of axes; rewards of states, pairs or transitions.

        :param P: [S, A, S] or [A, S, S]
        :param r: [S]; [S, A]; or as ``P``, the reward of each transition
        :param order: ``SAS`` or ``ASS``, what the axes of ``P`` are; None tells them by their lengths
        :raises ModelError: if the lengths do not tell the order, because there are as many actions as states
        """
        transitions, rewards = as_array("P", P), as_array("r", r, forbidding=True)
        if order not in (None, "SAS", "ASS"):
            raise ModelError(f"order is {order!r}: give SAS for [S, A, S] or ASS for [A, S, S]")
        if transitions.ndim != 3:
            raise ModelError(f"P has shape {transitions.shape}: give [S, A, S] or [A, S, S]")
        first, second, last = transitions.shape
        fits = {"SAS": first == last, "ASS": second == last}
        if order is None:
            if all(fits.values()):
                raise ModelError(
                    f"P has shape {transitions.shape}, which [S, A, S] and [A, S, S] both have: give order='SAS' or "
                    "order='ASS'"
                )
            order = "SAS" if fits["SAS"] else "ASS"
        if not fits[order]:
            raise ModelError(f"P has shape {transitions.shape}, which is not {', '.join(order)}")
        if order == "ASS":
            transitions = transitions.transpose(1, 0, 2)
        shape = transitions.shape
        if rewards.ndim == 3:
            if rewards.shape != (first, second, last):
                raise ModelError(
                    f"r has shape {rewards.shape}: rewards of transitions have that of P, {(first, second, last)}"
                )
            rewards = rewards.transpose(1, 0, 2) if order == "ASS" else rewards
            # A reward of -inf forbids the action whose transition is possible, and no other.
            with np.errstate(invalid="ignore"):
                rewards = np.where(transitions > 0, transitions * rewards, 0.0).sum(axis=2)
        elif rewards.shape == shape[:1]:
            rewards = np.broadcast_to(rewards[:, None], shape[:2])
        return FiniteMDP(transitions, rewards, reward_range)

    @classmethod
    def from_table(cls, table: npt.ArrayLike, reward_range: tuple[float, float] | None = None) -> FiniteMDP:
        """As :meth:`DecisionProcess.from_table`."""
        state, action, target, probability, reward = table_columns(table)
        n_states, n_actions = int(max(state.max(), target.max())) + 1, int(action.max()) + 1
        P, r = np.zeros((n_states, n_actions, n_states)), np.full((n_states, n_actions), -np.inf)
        np.add.at(P, (state, action, target), probability)
        r[state, action] = 0.0
        np.add.at(r, (state, action), probability * reward)
        return FiniteMDP(P, r, reward_range or (float(reward.min()), float(reward.max())))

    @property
    def n_states(self) -> int:
        """How many states there are, S."""
        return int(self.P.shape[0])

    @property
    def n_actions(self) -> int:
        """How many actions there are, A; a state may have fewer."""
        return int(self.P.shape[1])

    @property
    def possible(self) -> npt.NDArray[np.bool_]:
        """[S, A] which actions a state has."""
        return np.isfinite(self.r)

    @cached_property
    def pairs(self) -> Pairs:
        """As :attr:`DecisionProcess.pairs`."""
        state, action = np.nonzero(self.possible)
        rows = self.P[state, action]
        row, column = np.nonzero(rows)
        other = column != state[row]
        row, column = row[other], column[other]
        return Pairs(self.n_states, state, action, self.r[state, action], row, column, rows[row, column])

    def chain(self, policy: Policy) -> tuple[Array, Array]:
        """The Markov chain and rewards of a stationary policy: P_pi [S, S], r_pi [S].

        :raises ModelError: if ``policy`` is neither actions [S] nor probabilities [S, A]
        """
        probabilities = policy_probabilities(policy, self.n_states, self.n_actions)
        rewards = np.where(probabilities > 0, self.r, 0.0)
        return np.einsum("sa,sat->st", probabilities, self.P), np.einsum("sa,sa->s", probabilities, rewards)


def transitions_of(given: Any) -> tuple[list[tuple[int, int, int, float, float, bool]], npt.ArrayLike | None]:
    """Rows (state, action, next state, probability, reward, ended) of Gymnasium's ``P``, and the start if known."""
    owner = getattr(given, "unwrapped", None)
    P = given if owner is None else getattr(owner, "P", None)
    start = getattr(owner, "initial_state_distrib", None)
    if not isinstance(P, Mapping | Sequence):
        raise ModelError("there is no P: give a dictionary P[state][action] or a Gymnasium environment that has one")

    def items(level: Any) -> Any:
        return level.items() if isinstance(level, Mapping) else enumerate(level)

    try:
        rows = [
            (int(s), int(a), int(t), float(p), float(r), bool(end))
            for s, actions in items(P)
            for a, outcomes in items(actions)
            for p, t, r, end in outcomes
        ]
    except (TypeError, ValueError):
        raise ModelError(
            "P is malformed: P[state][action] lists (probability, next state, reward, terminated)"
        ) from None
    return [row for row in rows if row[3] != 0], start


def continued(rows: list[tuple[int, int, int, float, float, bool]], start: npt.ArrayLike | None) -> Array:
    """[n, 5] the transitions, with those that end leading to the start distribution [S] instead."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    ends = table[:, 5] > 0
    if not ends.any():
        return table[:, :5]
    if start is None:
        raise ModelError("P ends episodes and where they start again is unknown: give start, probabilities [S]")
    first = as_array("start", start)
    if first.ndim != 1 or first.min() < 0 or abs(first.sum() - 1) > ROW_SUM_TOLERANCE:
        raise ModelError(f"start has shape {first.shape} and the sum {first.sum():g}: give probabilities [S]")
    again = np.flatnonzero(first)
    last = np.repeat(table[ends, :5], len(again), axis=0)
    last[:, 2] = np.tile(again, int(ends.sum()))
    last[:, 3] *= np.tile(first[again] / first.sum(), int(ends.sum()))
    return np.concatenate([table[~ends, :5], last])


def table_columns(
    table: npt.ArrayLike,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64], Array, Array]:
    """State, action, next state, probability and reward of a table [n, 5], checked."""
    rows = as_array("the table", table)
    if rows.ndim != 2 or rows.shape[1] != 5 or not len(rows):
        raise ModelError(
            f"the table has shape {rows.shape}: give [n, 5], state, action, next state, probability, reward"
        )
    whole = rows[:, :3]
    if np.any(whole != np.floor(whole)) or whole.min() < 0:
        raise ModelError("the table has a state or action that is not a whole number of at least 0: correct it")
    indices = whole.astype(np.int64)
    return indices[:, 0], indices[:, 1], indices[:, 2], rows[:, 3].copy(), rows[:, 4].copy()


def policy_probabilities(policy: Policy, n_states: int, n_actions: int) -> Array:
    """A policy as probabilities [S, A].

    :raises ModelError: if it is neither actions [S] nor probabilities [S, A]
    """
    given = np.asarray(policy)
    if given.shape == (n_states,) and given.dtype.kind in "iu":
        if given.min() < 0 or given.max() >= n_actions:
            wrong = int(given.min() if given.min() < 0 else given.max())
            raise ModelError(f"the policy holds the action {wrong}: actions are 0 to {n_actions - 1}")
        return np.eye(n_actions)[given]
    if given.shape != (n_states, n_actions) or given.dtype.kind not in "iufb":
        raise ModelError(
            f"the policy has shape {given.shape} and type {given.dtype}: give whole actions [{n_states}] or "
            f"probabilities [{n_states}, {n_actions}]"
        )
    probabilities = np.asarray(given, np.float64)
    if not np.all(np.isfinite(probabilities)) or probabilities.min() < 0:
        raise ModelError("the policy has probabilities below 0 or not finite: correct them")
    sums = probabilities.sum(axis=1, keepdims=True)
    if np.abs(sums - 1).max() > ROW_SUM_TOLERANCE:
        raise ModelError(
            f"the policy's probabilities in state {int(np.argmax(abs(sums - 1)))} do not sum up to 1: divide by the sum"
        )
    return probabilities / sums


def as_array(name: str, values: npt.ArrayLike, forbidding: bool = False) -> Array:
    """A copy as float64; raises ModelError for what is not an array, or holds a NaN or an infinity.

    :param forbidding: -inf is allowed
    """
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError):
        raise ModelError(
            f"{name} is not an array of numbers: give nested lists of equal lengths or a numpy array"
        ) from None
    wrong = ~np.isfinite(array) & ~(forbidding & (array == -np.inf))
    if np.any(wrong):
        place = ", ".join(str(int(i)) for i in np.argwhere(wrong)[0])
        raise ModelError(f"{name}[{place}] is NaN or infinite: correct it")
    return array


def check_actions(has: npt.NDArray[np.bool_]) -> None:
    """Raises ModelError unless every state has an action."""
    if not has.all():
        raise ModelError(f"state {int(np.argmin(has))} has no possible action: give it one, such as staying")


def reward_range_of(
    rewards: Array, stated: tuple[float, float] | None, places: npt.NDArray[np.int64]
) -> tuple[float, float]:
    """The range of ``rewards`` [n], or the stated one if they lie in it; ``places`` [n, 2] are their pairs."""
    if stated is None:
        return float(rewards.min()), float(rewards.max())
    low, high = float(stated[0]), float(stated[1])
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ModelError(f"reward_range is {stated}: give two finite numbers, the smaller first")
    # A mean of rewards may leave their range by a rounding.
    margin = 1e-12 * max(abs(low), abs(high))
    outside = (rewards < low - margin) | (rewards > high + margin)
    if outside.any():
        first = int(np.argmax(outside))
        state, action = (int(i) for i in places[first])
        raise ModelError(
            f"r[{state}, {action}] is {rewards[first]:g}, outside reward_range {(low, high)}: widen the range or "
            "rescale the rewards"
        )
    return low, high
