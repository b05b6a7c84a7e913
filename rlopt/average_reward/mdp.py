"""Finite Markov decision processes, checked when made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from rlopt.average_reward.policy_iteration import policy_iteration
from rlopt.average_reward.solution import AverageRewardSolution
from rlopt.errors import ModelError

Array = npt.NDArray[np.float64]
Policy = npt.ArrayLike
"""Actions [S] (whole numbers) or probabilities [S, A]."""

ROW_SUM_TOLERANCE = 1e-8
"""How far from 1 the probabilities of a row may sum up; they are divided by their sum then."""


@dataclass(frozen=True, eq=False)
class FiniteMDP:
    """A Markov decision process with finitely many states and actions, all actions possible in every state.

    The arrays are copied, checked and made read-only. Its optimal gain and bias are worked out when first asked for.

    :raises ModelError: for arrays of the wrong shape, a NaN or infinity, rows of ``P`` that are no distributions, or
        rewards outside ``reward_range``
    """

    P: Array
    """[S, A, S] probability of the next state."""
    r: Array
    """[S, A] expected reward."""
    reward_range: tuple[float, float] | None = None
    """Smallest and largest reward that a step can give; None takes them from ``r``, right where rewards have no noise
    of their own."""

    def __post_init__(self) -> None:
        P, r = _as_array("P", self.P), _as_array("r", self.r)
        if P.ndim != 3 or P.shape[0] != P.shape[2] or 0 in P.shape:
            raise ModelError(f"P has shape {P.shape}: give [states, actions, states] with at least one of each")
        if r.shape != P.shape[:2]:
            raise ModelError(f"r has shape {r.shape}: P asks for [states, actions] = {P.shape[:2]}")
        if np.any(P < 0):
            state, action, target = (int(i) for i in np.argwhere(P < 0)[0])
            raise ModelError(
                f"P[{state}, {action}, {target}] is {P[state, action, target]:g}: probabilities must be at least 0"
            )
        sums = P.sum(axis=2)
        worst = np.unravel_index(np.argmax(abs(sums - 1)), sums.shape)
        if abs(sums[worst] - 1) > ROW_SUM_TOLERANCE:
            state, action = (int(i) for i in worst)
            raise ModelError(
                f"the probabilities P[{state}, {action}] sum up to {sums[worst]:.10g}, not 1: divide the row by its "
                "sum or correct it"
            )
        P = P / sums[:, :, None]
        low, high = _reward_range(r, self.reward_range)
        r = np.clip(r, low, high)
        for name, array in (("P", P), ("r", r)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "reward_range", (low, high))

    @property
    def n_states(self) -> int:
        """How many states there are, S."""
        return int(self.P.shape[0])

    @property
    def n_actions(self) -> int:
        """How many actions every state has, A."""
        return int(self.P.shape[1])

    @cached_property
    def solution(self) -> AverageRewardSolution:
        """The optimal gain, bias and policy by policy iteration; raises ModelError if there is no single gain."""
        return policy_iteration(self)

    @property
    def gain(self) -> float:
        """J*, the largest long-run mean reward a step."""
        return self.solution.gain

    @property
    def bias(self) -> Array:
        """[S] h*, the optimal bias; its mean under the stationary distribution of the optimal policy is 0."""
        return self.solution.bias

    @property
    def span(self) -> float:
        """max h* - min h*."""
        return self.solution.span

    def chain(self, policy: Policy) -> tuple[Array, Array]:
        """The Markov chain and rewards of a stationary policy: P_pi [S, S], r_pi [S].

        :raises ModelError: if ``policy`` is neither actions [S] nor probabilities [S, A]
        """
        probabilities = policy_probabilities(policy, self.n_states, self.n_actions)
        return np.einsum("sa,sat->st", probabilities, self.P), np.einsum("sa,sa->s", probabilities, self.r)


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


def _as_array(name: str, values: npt.ArrayLike) -> Array:
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError):
        raise ModelError(
            f"{name} is no array of numbers: give nested lists of equal lengths or a numpy array"
        ) from None
    if not np.all(np.isfinite(array)):
        place = ", ".join(str(int(i)) for i in np.argwhere(~np.isfinite(array))[0])
        raise ModelError(f"{name}[{place}] is NaN or infinite: correct it")
    return array


def _reward_range(r: Array, stated: tuple[float, float] | None) -> tuple[float, float]:
    if stated is None:
        return float(r.min()), float(r.max())
    low, high = float(stated[0]), float(stated[1])
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ModelError(f"reward_range is {stated}: give two finite numbers, the smaller first")
    # A mean of rewards may leave their range by a rounding.
    margin = 1e-12 * max(1.0, abs(low), abs(high))
    outside = (r < low - margin) | (r > high + margin)
    if outside.any():
        state, action = (int(i) for i in np.argwhere(outside)[0])
        raise ModelError(
            f"r[{state}, {action}] is {r[state, action]:g}, outside reward_range {(low, high)}: widen the range or "
            "rescale the rewards"
        )
    return low, high
