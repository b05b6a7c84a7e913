"""Confidence set and planners for finitely many states: counts, the running discrepancy, optimistic plans."""

from typing import Any

import numpy as np

from rlopt.agents.loop.confidence_sets.counts import Counts, require_actions
from rlopt.agents.loop.confidence_sets.planner import (
    Certificate,
    FixedPoint,
    Problem,
    ascend,
    best_member,
    certify,
    fixed_point,
)
from rlopt.agents.loop.losses import ellipsoid_residual, pair_errors, tabular_discrepancy
from rlopt.average_reward.chains import limiting_matrix
from rlopt.average_reward.mdp import Array


class TabularSet(Counts):
    """The data, the plan in force and its discrepancy, which a step updates in constant time.

    :param n_states: S
    :param n_actions: A
    :param problem: span, largest reward and accuracy of the plans
    """

    def __init__(self, n_states: int, n_actions: int, problem: Problem) -> None:
        super().__init__(n_states, n_actions, np.int64)
        self.problem = problem
        pairs = n_states * n_actions
        self._errors, self._targets, self._state_values = [0.0] * pairs, [0.0] * pairs, [0.0] * n_states
        self.policy = [0] * n_states
        self.gain = problem.largest_reward
        self.discrepancy = 0.0
        """L_D(f, f) - min_g L_D(f, g) of the plan in force on all data, kept up to date."""

    @property
    def targets(self) -> Array:
        """[S, A], Q_f + J_f of the plan in force."""
        return np.array(self._targets).reshape(self.n_states, self.n_actions)

    @property
    def state_values(self) -> Array:
        """[S], V_f of the plan in force."""
        return np.array(self._state_values)

    def add(self, state: int, action: int, reward: float, next_state: int) -> None:
        """Takes a transition in."""
        pair = state * self.n_actions + action
        count, error = self.visits[pair], self._errors[pair]
        new_error = error + self._targets[pair] - reward - self._state_values[next_state]
        self.discrepancy += new_error * new_error / (count + 1.0)
        if count:
            self.discrepancy -= error * error / count
        self._errors[pair] = new_error
        super().add(state, action, reward, next_state)

    def plan(self, beta: float, planner: str) -> Certificate:
        """Makes a plan and puts it in force."""
        bonus = self._solve(self._bonus(beta / (self.n_states * self.n_actions), self.problem.largest_residual))
        point = bonus if planner == "bonus" else self._climb(beta, bonus)
        upper = self._solve(self._bonus(beta, np.inf), point.state_values)
        self._put_in_force(point)
        visited = self.counts.sum(axis=1) > 0
        return certify(point, self.discrepancy, beta, self.problem, upper.gain, visited)

    def _bonus(self, local_beta: float, largest: float) -> Array:
        """sqrt(beta / n), [S, A]: with beta / (SA) for each pair the sum of n b^2 is at most beta."""
        return np.minimum(np.sqrt(local_beta / np.maximum(self.counts, 1)), largest)

    def _solve(self, residual: Array, start: Array | None = None) -> FixedPoint:
        """The gain-optimal solution of the empirical process with rewards r + ``residual``.

        No backup exceeds r_max + max V, and pairs without a visit have that value.
        """
        counts, shape = self.counts, (self.n_states * self.n_actions, self.n_states)
        visits = np.maximum(counts, 1)
        rewards = np.where(counts > 0, self.reward_sums / visits + residual, np.inf)
        kernel = self.transitions.reshape(shape) / visits.reshape(-1, 1)
        largest = self.problem.largest_reward

        def backup(values: Array) -> Array:
            values_after = (kernel @ values).reshape(counts.shape)
            return np.minimum(rewards + values_after, largest + values.max())

        return fixed_point(backup, np.zeros(self.n_states) if start is None else start, self.problem)

    def _climb(self, beta: float, bonus: FixedPoint) -> FixedPoint:
        """Planner of the exact set: from the policies of the bonus plan, which competes, and of the plan in force."""
        # Prior visits keep every residual within what it can be.
        widths = 1.0 / (self.counts + beta / self.problem.largest_residual**2)

        def residual_for(policy: np.ndarray, point: FixedPoint) -> Array:
            return ellipsoid_residual(self._frequencies(policy, point), widths, beta)

        def improve(point: FixedPoint) -> Array:
            return residual_for(point.backup.argmax(axis=1), point)

        starts = [improve(bonus), residual_for(np.array(self.policy), bonus)]
        ascents = ascend(self._solve, improve, starts, self.problem.tolerance * self.problem.span)
        points = [bonus, *(point for point, _ in ascents)]
        discrepancies = [tabular_discrepancy(self._errors_of(point), self.counts) for point in points]
        return points[best_member([point.gain for point in points], discrepancies, beta)]

    def _frequencies(self, policy: np.ndarray, point: FixedPoint) -> Array:
        """[S, A] long-run frequencies of the pairs that ``policy`` uses, where their residual changes the gain.

        A pair at the cap r_max + max V moves to the best state, whatever its residual.
        """
        counts, values = self.counts, point.state_values
        rows = np.arange(self.n_states)
        kernel = self.transitions / np.maximum(counts, 1)[:, :, None]
        capped = (counts == 0) | (point.backup >= self.problem.largest_reward + values.max())
        chain = np.where(capped[rows, policy][:, None], np.eye(self.n_states)[values.argmax()], kernel[rows, policy])
        distribution = limiting_matrix(chain)[point.backup.max(axis=1).argmin()]
        frequencies = np.zeros_like(counts)
        frequencies[rows, policy] = distribution
        return np.where(capped, 0.0, frequencies)

    def _put_in_force(self, point: FixedPoint) -> None:
        self.gain = point.gain
        self.policy = point.backup.argmax(axis=1).tolist()
        self._targets = self._targets_of(point).reshape(-1).tolist()
        self._state_values = point.state_values.tolist()
        errors = self._errors_of(point)
        self._errors = errors.reshape(-1).tolist()
        self.discrepancy = tabular_discrepancy(errors, self.counts)

    def _targets_of(self, point: FixedPoint) -> Array:
        """[S, A] Q_f + J_f: with this clip max_a Q_f is V_f exactly."""
        return np.minimum(point.backup, point.gain + self.problem.span)

    def _errors_of(self, point: FixedPoint) -> Array:
        targets = self._targets_of(point)
        return pair_errors(targets, self.counts, self.reward_sums, self.transitions, point.state_values)

    def get_state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as arrays and numbers."""
        return {
            **super().get_state(),
            "errors": np.array(self._errors),
            "targets": self.targets,
            "state_values": self.state_values,
            "policy": np.array(self.policy, np.int64),
            "gain": float(self.gain),
            "discrepancy": float(self.discrepancy),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave; raises ValueError if it does not fit."""
        super().set_state(state)
        require_actions(state["policy"], self.n_actions)
        for name in ("errors", "targets", "state_values"):
            setattr(self, f"_{name}", state[name].reshape(-1).tolist())
        self.policy, self.gain, self.discrepancy = state["policy"].tolist(), state["gain"], state["discrepancy"]
