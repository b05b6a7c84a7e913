"""Confidence set and planners for values linear in features: any feature map, finitely many actions.

States are known by the features of their actions alone. Those that were visited, the *support* (K of them), carry the
plan: the regression of V on the data needs V nowhere else. With states that can be told apart the support is at most
the number of states; with others it grows by one a step.
"""

from array import array
from typing import Any, NamedTuple

import numpy as np

from rlopt.agents.loop.confidence_sets.counts import require_fitting
from rlopt.agents.loop.confidence_sets.growing import GrowingArray
from rlopt.agents.loop.confidence_sets.planner import (
    Certificate,
    FixedPoint,
    Problem,
    ascend,
    best_member,
    certify,
    fixed_point,
)
from rlopt.agents.loop.losses import projected_discrepancy
from rlopt.average_reward.mdp import Array


class Frozen(NamedTuple):
    """The plan in force: Q_f + J_f = min(phi . weights + width, cap, J_f + H)."""

    weights: Array
    """[d]."""
    bonus_inverse: Array
    """[d, d]: the width is sqrt(local_beta phi . bonus_inverse phi), or what a residual can be."""
    local_beta: float
    cap: float
    gain: float


class Log(NamedTuple):
    """The transitions so far as arrays [n], for a plan."""

    start: np.ndarray
    """Rows of the states."""
    actions: np.ndarray
    end: np.ndarray
    """Rows of the next states."""
    rewards: Array
    features: Array
    """[n, d]."""
    into: Array
    """[K, d], for each state of the support the sum of the features that led to it."""
    reward_features: Array
    """[d], sum r phi."""


class Evaluation(NamedTuple):
    """The plan in force in one state."""

    targets: list[float]
    """[A], Q_f + J_f."""
    action: int
    """The greedy one."""
    state_value: float
    """V_f, in [0, H]."""


class LinearSet:
    """The data, the plan in force and its discrepancy, which a step updates in O(d^2).

    :param dimension: d
    :param n_actions: A
    :param problem: span, largest reward and accuracy of the plans
    :param ridge: > 0, added to the Gram matrix
    """

    def __init__(self, dimension: int, n_actions: int, problem: Problem, ridge: float) -> None:
        self.dimension, self.n_actions, self.problem, self.ridge = dimension, n_actions, problem, ridge
        self._support = GrowingArray((n_actions, dimension), np.float64)
        # Row of the state, action, row of the next state, reward: one entry a step.
        self._from, self._actions, self._to, self._rewards = array("q"), array("q"), array("q"), array("d")
        self._inverse = np.eye(dimension) / ridge
        self._regression = np.zeros(dimension)
        """[d], of r + V_f(s') for the plan in force."""
        start = problem.largest_reward
        self._frozen = Frozen(np.zeros(dimension), np.eye(dimension), 0.0, start, start)
        self._mixed_features = np.zeros(dimension)
        self._target_square_sum = 0.0
        self._evaluations: dict[int, Evaluation] = {}
        self.discrepancy = 0.0
        """Squared distance on the data of the plan in force from its own regression, kept up to date."""

    @property
    def gain(self) -> float:
        """J_f of the plan in force."""
        return self._frozen.gain

    @property
    def n_states(self) -> int:
        """K, states with a row of features."""
        return len(self._support)

    def add_state(self, features: Array) -> int:
        """Takes the features [A, d] of a state that has no row yet; returns its row."""
        return self._support.append(features)

    def evaluate(self, row: int) -> Evaluation:
        """The plan in force in a state of the support."""
        found = self._evaluations.get(row)
        if found is None:
            found = self._evaluations[row] = self.evaluate_features(self._support.rows[row])
        return found

    def square_width(self, row: int, action: int) -> float:
        """phi . (Gram + ridge)^-1 phi of a pair of the support."""
        features = self._support.rows[row, action]
        return float(features @ self._inverse @ features)

    def forget(self, row: int) -> None:
        """Drops what is kept for a state that does not come again."""
        self._evaluations.pop(row, None)

    def evaluate_features(self, features: Array) -> Evaluation:
        """The plan in force in a state given by the features of its actions [A, d]."""
        backup = self._backup_of(features, self._frozen)
        gain = self._frozen.gain
        targets = np.minimum(backup, gain + self.problem.span)
        action = int(backup.argmax())
        return Evaluation(targets.tolist(), action, min(max(float(backup[action]) - gain, 0.0), self.problem.span))

    def add(self, row: int, action: int, reward: float, next_row: int) -> None:
        """Takes a transition in; the inverse follows by Sherman and Morrison."""
        features = self._support.part(row, action)
        self._from.append(row)
        self._actions.append(action)
        self._to.append(next_row)
        self._rewards.append(reward)
        target = self.evaluate(row).targets[action]
        regressand = reward + self.evaluate(next_row).state_value
        moved = self._inverse @ features
        step = moved / (1.0 + float(features @ moved))
        self._inverse -= moved[:, None] * step
        self._regression += step * (regressand - float(features @ self._regression))
        self._mixed_features += (2.0 * target - regressand) * features
        self._target_square_sum += target * target
        self.discrepancy = projected_discrepancy(
            self._target_square_sum, self._mixed_features, self._regression, self.ridge
        )

    def plan(self, beta: float, planner: str) -> Certificate:
        """Makes a plan and puts it in force."""
        log = self.log()
        gram = log.features.T @ log.features + self.ridge * np.eye(self.dimension)
        inverse = np.asarray(np.linalg.inv(gram), np.float64)
        self._inverse = (inverse + inverse.T) / 2
        local_beta, none = beta / self.dimension, np.zeros(self.dimension)
        point = self._solve(log, none, local_beta)
        frozen = self._frozen_of(log, point, none, local_beta)
        if planner == "ellipsoid":
            point, frozen = self._climb(log, gram, beta, point, frozen)
        self._put_in_force(log, frozen)
        return certify(point, self.discrepancy, beta, self.problem, None)

    def log(self) -> Log:
        """All transitions as arrays."""
        support = self._support.rows
        start, actions, end = (np.array(column, np.int64) for column in (self._from, self._actions, self._to))
        features = support[start, actions]
        into = np.zeros((len(support), self.dimension))
        np.add.at(into, end, features)
        rewards = np.array(self._rewards, np.float64)
        return Log(start, actions, end, rewards, features, into, rewards @ features)

    def _solve(self, log: Log, tilt: Array, local_beta: float) -> FixedPoint:
        """The fixed point on the support with the weights moved by ``tilt`` [d] and the widths of ``local_beta``."""
        support = self._support.rows
        into, offset = log.into, self._inverse @ log.reward_features + tilt
        widths = self._widths(support, self._inverse, local_beta)
        flat = support.reshape(-1, self.dimension)

        def backup(values: Array) -> Array:
            linear = flat @ (offset + self._inverse @ (values @ into))
            return np.minimum(linear.reshape(widths.shape) + widths, self.problem.largest_reward + values.max())

        return fixed_point(backup, np.zeros(len(support)), self.problem)

    def _climb(
        self, log: Log, gram: Array, beta: float, bonus: FixedPoint, frozen: Frozen
    ) -> tuple[FixedPoint, Frozen]:
        """Planner of the exact set: from the policies of the bonus plan, which competes, and of the plan in force."""

        def tilt_for(policy: np.ndarray, point: FixedPoint) -> Array:
            direction = self._gradient(policy, point, log.into, gram)
            norm = float(np.sqrt(np.maximum(direction @ gram @ direction, 0.0)))
            return np.sqrt(beta) * direction / norm if norm > 0 else np.zeros(self.dimension)

        def improve(point: FixedPoint) -> Array:
            return tilt_for(point.backup.argmax(axis=1), point)

        present = self._backup_of(self._support.rows, self._frozen).argmax(axis=1)
        starts = [improve(bonus), tilt_for(present, bonus)]
        ascents = ascend(
            lambda tilt: self._solve(log, tilt, 0.0), improve, starts, self.problem.tolerance * self.problem.span
        )
        plans = [(bonus, frozen), *((point, self._frozen_of(log, point, tilt, 0.0)) for point, tilt in ascents)]
        discrepancies = [self._sums_of(log, plan)[-1] for _, plan in plans]
        return plans[best_member([point.gain for point, _ in plans], discrepancies, beta)]

    def _gradient(self, policy: np.ndarray, point: FixedPoint, into: Array, gram: Array) -> Array:
        """g [d] with dJ / dtilt = gram g for the values of ``policy`` without clips.

        The weights w and the gain solve (gram - C) w + J into.sum = reward features + gram tilt, C = sum_i phi_i
        phi(s'_i, policy)^T, and phi(s0, policy) . w = J in the state s0 of the smallest value.
        """
        chosen = self._support.rows[np.arange(self.n_states), policy]
        system = np.empty((self.dimension + 1, self.dimension + 1))
        system[:-1, :-1] = gram - into.T @ chosen
        system[:-1, -1] = into.sum(axis=0)
        system[-1, :-1] = chosen[point.state_values.argmin()]
        system[-1, -1] = -1.0
        gain_row = np.zeros(self.dimension + 1)
        gain_row[-1] = 1.0
        return np.asarray(np.linalg.lstsq(system.T, gain_row, rcond=None)[0][:-1], np.float64)

    def _widths(self, features: Array, inverse: Array, local_beta: float) -> Array:
        square = np.einsum("...i,ij,...j->...", features, inverse, features, optimize=True)
        return np.minimum(np.sqrt(local_beta * np.maximum(square, 0.0)), self.problem.largest_residual)

    def _backup_of(self, features: Array, frozen: Frozen) -> Array:
        values = features @ frozen.weights
        if frozen.local_beta:
            values = values + self._widths(features, frozen.bonus_inverse, frozen.local_beta)
        return np.minimum(values, frozen.cap)

    def _frozen_of(self, log: Log, point: FixedPoint, tilt: Array, local_beta: float) -> Frozen:
        values = point.state_values
        weights = self._inverse @ (log.reward_features + values @ log.into) + tilt
        cap = self.problem.largest_reward + float(values.max(initial=0.0))
        return Frozen(weights, self._inverse.copy(), local_beta, cap, point.gain)

    def _put_in_force(self, log: Log, frozen: Frozen) -> None:
        self._frozen = frozen
        self._evaluations.clear()
        sums = self._sums_of(log, frozen)
        self._mixed_features, self._target_square_sum, self._regression, self.discrepancy = sums

    def _sums_of(self, log: Log, frozen: Frozen) -> tuple[Array, float, Array, float]:
        """Over all data: sum [2 (Q_f + J_f) - y] phi, sum (Q_f + J_f)^2, the regression, and the discrepancy."""
        backup = self._backup_of(self._support.rows, frozen)
        state_values = np.clip(backup.max(axis=1) - frozen.gain, 0.0, self.problem.span)
        targets = np.minimum(backup, frozen.gain + self.problem.span)[log.start, log.actions]
        regressands = log.rewards + state_values[log.end]
        mixed, square_sum = (2.0 * targets - regressands) @ log.features, float(targets @ targets)
        regression = self._inverse @ (regressands @ log.features)
        return mixed, square_sum, regression, projected_discrepancy(square_sum, mixed, regression, self.ridge)

    def get_state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as arrays and numbers."""
        return {
            "support": self._support.rows.copy(),
            "start": np.array(self._from, np.int64),
            "actions": np.array(self._actions, np.int64),
            "end": np.array(self._to, np.int64),
            "rewards": np.array(self._rewards, np.float64),
            "inverse": self._inverse.copy(),
            "regression": self._regression.copy(),
            "mixed_features": self._mixed_features.copy(),
            "target_square_sum": float(self._target_square_sum),
            "discrepancy": float(self.discrepancy),
            "weights": self._frozen.weights.copy(),
            "bonus_inverse": self._frozen.bonus_inverse.copy(),
            "local_beta": float(self._frozen.local_beta),
            "cap": float(self._frozen.cap),
            "gain": float(self._frozen.gain),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave; raises ValueError if it does not fit."""
        require_fitting(self.get_state(), state, free_length=("support", "start", "actions", "end", "rewards"))
        rows, steps = len(state["support"]), len(state["rewards"])
        for name, limit in (("start", rows), ("actions", self.n_actions), ("end", rows)):
            index = state[name]
            if len(index) != steps or (steps and not (index.min() >= 0 and index.max() < limit)):
                raise ValueError("the transitions refer to states or actions that are not there")
        self._support.replace(state["support"])
        self._from, self._actions, self._to = (array("q", state[name].tolist()) for name in ("start", "actions", "end"))
        self._rewards = array("d", state["rewards"].tolist())
        for name in ("inverse", "regression", "mixed_features"):
            setattr(self, f"_{name}", state[name].copy())
        self._target_square_sum, self.discrepancy = state["target_square_sum"], state["discrepancy"]
        self._frozen = Frozen(*(state[name] for name in Frozen._fields))
        self._evaluations.clear()
