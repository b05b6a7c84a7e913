"""Confidence set and planners for values linear in features: any feature map, finitely many actions.

States are known by the features of their actions alone. Those that were visited, the *support* (K of them), carry the
plan: the regression of V on the data needs V nowhere else. With states that can be told apart the support is at most
the number of states; with others it grows by one a step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rlopt.agents.loop.growing import GrowingArray
from rlopt.agents.loop.losses import projected_discrepancy
from rlopt.agents.loop.planner import Certificate, FixedPoint, Problem, ascend, fixed_point
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
        self._steps = GrowingArray((3,), np.int64)
        """Row of the state, action, row of the next state."""
        self._rewards = GrowingArray((), np.float64)
        self._gram, self._inverse = np.zeros((dimension, dimension)), np.eye(dimension) / ridge
        self._reward_features = np.zeros(dimension)
        start = problem.largest_reward
        self._frozen = Frozen(np.zeros(dimension), np.eye(dimension), 0.0, start, start)
        self._clear_sums()
        self._evaluations: dict[int, Evaluation] = {}
        self.discrepancy = 0.0
        """Squared distance on the data of the plan in force from its own regression, kept up to date."""

    @property
    def gain(self) -> float:
        """J_f of the plan in force."""
        return self._frozen.gain

    @property
    def n_support(self) -> int:
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
        features = self._support.rows[row, action]
        self._steps.append((row, action, next_row))
        self._rewards.append(reward)
        moved = self._inverse @ features
        self._inverse -= np.outer(moved, moved / (1.0 + features @ moved))
        self._gram += np.outer(features, features)
        self._reward_features += reward * features
        target = self.evaluate(row).targets[action]
        self._regressand_features += (reward + self.evaluate(next_row).state_value) * features
        self._target_features += target * features
        self._target_square_sum += target * target
        self._measure()

    def plan(self, beta: float, planner: str) -> Certificate:
        """Makes a plan and puts it in force."""
        self._inverse = np.linalg.inv(self._gram + self.ridge * np.eye(self.dimension))
        self._inverse = (self._inverse + self._inverse.T) / 2
        local_beta, none = beta / self.dimension, np.zeros(self.dimension)
        point = self._solve(none, local_beta)
        if planner == "bonus":
            frozen = self._frozen_of(point, none, local_beta)
        else:
            point, tilt = self._climb(beta, point)
            frozen = self._frozen_of(point, tilt, 0.0)
        self._put_in_force(frozen)
        return Certificate(
            in_set=self.discrepancy <= beta * (1 + 1e-9),
            discrepancy=self.discrepancy,
            beta=beta,
            converged=point.residual <= self.problem.tolerance * self.problem.span,
            residual=point.residual,
            sweeps=point.sweeps,
            clipped_states=int(np.sum(point.state_values >= self.problem.span)),
            gain_bracket=(point.gain, None),
        )

    def _solve(self, tilt: Array, local_beta: float) -> FixedPoint:
        """The fixed point on the support with the weights moved by ``tilt`` [d] and the widths of ``local_beta``."""
        support = self._support.rows
        into = self._features_into()
        offset = self._inverse @ self._reward_features + tilt
        widths = self._widths(support, self._inverse, local_beta)
        flat = support.reshape(-1, self.dimension)

        def backup(values: Array) -> Array:
            linear = flat @ (offset + self._inverse @ (values @ into))
            return np.minimum(linear.reshape(widths.shape) + widths, self.problem.largest_reward + values.max())

        return fixed_point(backup, np.zeros(len(support)), self.problem)

    def _climb(self, beta: float, bonus: FixedPoint) -> tuple[FixedPoint, Array]:
        """Planner of the exact set: from the bonus planner's policy and from the policy in force."""
        into = self._features_into()
        gram = self._gram + self.ridge * np.eye(self.dimension)

        def tilt_for(policy: np.ndarray, point: FixedPoint) -> Array:
            direction = self._gradient(policy, point, into, gram)
            norm = float(np.sqrt(max(direction @ gram @ direction, 0.0)))
            return np.sqrt(beta) * direction / norm if norm > 0 else np.zeros(self.dimension)

        def improve(point: FixedPoint) -> Array:
            return tilt_for(point.backup.argmax(axis=1), point)

        present = self._backup_of(self._support.rows, self._frozen).argmax(axis=1)
        starts = [improve(bonus), tilt_for(present, bonus)]
        return ascend(
            lambda tilt: self._solve(tilt, 0.0), improve, starts, self.problem.tolerance * self.problem.span
        )

    def _gradient(self, policy: np.ndarray, point: FixedPoint, into: Array, gram: Array) -> Array:
        """g [d] with dJ / dtilt = gram g for the values of ``policy`` without clips.

        The weights w and the gain solve (gram - C) w + J into.sum = reward features + gram tilt, C = sum_i phi_i
        phi(s'_i, policy)^T, and phi(s0, policy) . w = J in the state s0 of the smallest value.
        """
        chosen = self._support.rows[np.arange(self.n_support), policy]
        system = np.empty((self.dimension + 1, self.dimension + 1))
        system[:-1, :-1] = gram - into.T @ chosen
        system[:-1, -1] = into.sum(axis=0)
        system[-1, :-1] = chosen[point.state_values.argmin()]
        system[-1, -1] = -1.0
        gain_row = np.zeros(self.dimension + 1)
        gain_row[-1] = 1.0
        gradient: Array = np.linalg.lstsq(system.T, gain_row, rcond=None)[0][:-1]
        return gradient

    def _features_into(self) -> Array:
        """[K, d], for each state of the support the sum of the features that led to it."""
        steps = self._steps.rows
        into = np.zeros((self.n_support, self.dimension))
        np.add.at(into, steps[:, 2], self._support.rows[steps[:, 0], steps[:, 1]])
        return into

    def _widths(self, features: Array, inverse: Array, local_beta: float) -> Array:
        square = np.einsum("...i,ij,...j->...", features, inverse, features, optimize=True)
        return np.minimum(np.sqrt(local_beta * np.maximum(square, 0.0)), self.problem.largest_residual)

    def _backup_of(self, features: Array, frozen: Frozen) -> Array:
        values = features @ frozen.weights
        if frozen.local_beta:
            values = values + self._widths(features, frozen.bonus_inverse, frozen.local_beta)
        return np.minimum(values, frozen.cap)

    def _frozen_of(self, point: FixedPoint, tilt: Array, local_beta: float) -> Frozen:
        values = point.state_values
        weights = self._inverse @ (self._reward_features + values @ self._features_into()) + tilt
        cap = self.problem.largest_reward + float(values.max(initial=0.0))
        return Frozen(weights, self._inverse.copy(), local_beta, cap, point.gain)

    def _put_in_force(self, frozen: Frozen) -> None:
        self._frozen = frozen
        self._evaluations.clear()
        self._clear_sums()
        steps, support = self._steps.rows, self._support.rows
        if len(steps):
            backup = self._backup_of(support, frozen)
            state_values = np.clip(backup.max(axis=1) - frozen.gain, 0.0, self.problem.span)
            targets = np.minimum(backup, frozen.gain + self.problem.span)[steps[:, 0], steps[:, 1]]
            features = support[steps[:, 0], steps[:, 1]]
            self._regressand_features = (self._rewards.rows + state_values[steps[:, 2]]) @ features
            self._target_features = targets @ features
            self._target_square_sum = float(targets @ targets)
        self._measure()

    def _clear_sums(self) -> None:
        self._regressand_features = np.zeros(self.dimension)
        self._target_features = np.zeros(self.dimension)
        self._target_square_sum = 0.0

    def _measure(self) -> None:
        regression = self._inverse @ self._regressand_features
        self.discrepancy = projected_discrepancy(
            self._target_square_sum, self._target_features, regression, self._gram
        )

    def get_state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as arrays and numbers."""
        return {
            "support": self._support.rows.copy(),
            "steps": self._steps.rows.copy(),
            "rewards": self._rewards.rows.copy(),
            "inverse": self._inverse.copy(),
            "gram": self._gram.copy(),
            "reward_features": self._reward_features.copy(),
            "regressand_features": self._regressand_features.copy(),
            "target_features": self._target_features.copy(),
            "target_square_sum": float(self._target_square_sum),
            "weights": self._frozen.weights.copy(),
            "bonus_inverse": self._frozen.bonus_inverse.copy(),
            "local_beta": float(self._frozen.local_beta),
            "cap": float(self._frozen.cap),
            "gain": float(self._frozen.gain),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave; raises ValueError if it does not fit."""
        for name, value in self.get_state().items():
            given = state[name]
            if isinstance(value, float):
                fits = isinstance(given, float) and np.isfinite(given)
            else:
                fixed = 1 if name in ("support", "steps", "rewards") else 0
                fits = isinstance(given, np.ndarray) and given.dtype == value.dtype and given.ndim == value.ndim
                fits = fits and given.shape[fixed:] == value.shape[fixed:] and bool(np.all(np.isfinite(given)))
            if not fits:
                raise ValueError(f"{name} does not fit {self.n_actions} actions and {self.dimension} features")
        steps, rows = state["steps"], len(state["support"])
        limits = np.array([rows, self.n_actions, rows])
        if len(steps) != len(state["rewards"]) or (len(steps) and not np.all((steps >= 0) & (steps < limits))):
            raise ValueError("the transitions refer to states or actions that are not there")
        self._support.replace(state["support"])
        self._steps.replace(steps)
        self._rewards.replace(state["rewards"])
        for name in ("inverse", "gram", "reward_features", "regressand_features", "target_features"):
            setattr(self, f"_{name}", state[name].copy())
        self._target_square_sum = state["target_square_sum"]
        self._frozen = Frozen(*(state[name] for name in Frozen._fields))
        self._evaluations.clear()
        self._measure()
