"""Linear mixtures of known kernels: the likelihood set of the weights, and the ascent of the gain in it."""

from typing import Any

import numpy as np

from rlopt.agents.loop.confidence_sets.barrier import furthest, log_likelihood, most_likely
from rlopt.agents.loop.confidence_sets.counts import require_actions, require_fitting
from rlopt.agents.loop.confidence_sets.planner import Certificate, FixedPoint, Problem, certify, fixed_point
from rlopt.average_reward.chains import limiting_matrix
from rlopt.average_reward.mdp import Array
from rlopt.errors import ModelError

REFRESH = 20
"""Steps between two refreshes of the maximum-likelihood weights for the switching rule."""
ASCENT_ROUNDS = 20
LIKELIHOOD_GAP = 1e-3
"""How far from the largest log likelihood the estimate may be, relative to beta (and to 1 where beta is larger)."""


class MixtureLikelihood:
    """The data, the likelihood set of the weights, the plan in force and its total-variation discrepancy.

    :param kernels: [d, S, A, S] known kernels
    :param rewards: [S, A] known mean rewards
    :param problem: span, rewards and accuracy of the plans
    """

    def __init__(self, kernels: Array, rewards: Array, problem: Problem) -> None:
        self.kernels, self.rewards, self.problem = kernels, rewards, problem
        self.dimension, self.n_states, self.n_actions = kernels.shape[:3]
        self._possible = np.asarray((kernels > 0).any(axis=0))
        self.transitions = np.zeros(kernels.shape[1:])
        """[S, A, S] visits."""
        self.estimate = np.full(self.dimension, 1.0 / self.dimension)
        """[d], maximum-likelihood weights at the last refresh."""
        self.weights = self.estimate.copy()
        """[d], those of the plan in force."""
        self._apart = np.zeros((self.n_states, self.n_actions))
        """[S, A], TV(P_f, P_g) of the plan in force and the estimate."""
        self._age = 0
        self._gap = LIKELIHOOD_GAP
        self.policy = [0] * self.n_states
        self.gain = problem.largest_reward
        self.discrepancy = 0.0
        """sum_i TV(P_f, P_g) at the pairs of the data."""

    def add(self, state: int, action: int, reward: float, next_state: int) -> None:
        """Takes a transition in; every 20 steps the estimate is refreshed, and with it the whole discrepancy."""
        if not self._possible[state, action, next_state]:
            raise ModelError(
                f"no kernel leads from state {state} by action {action} to state {next_state}, as the environment "
                "does: give the kernels of this environment, or model='tabular'"
            )
        self.transitions[state, action, next_state] += 1
        self.discrepancy += float(self._apart[state, action])
        self._age += 1
        if self._age >= REFRESH:
            self._refresh()

    def transition_densities(self) -> tuple[Array, Array]:
        """Densities [C, d] and counts [C] of the distinct transitions seen."""
        seen = self.transitions > 0
        return self.kernels[:, seen].T, self.transitions[seen]

    def _refresh(self) -> None:
        densities, counts = self.transition_densities()
        self.estimate = most_likely(self.estimate, densities, counts, self._gap)
        self._measure()

    def _measure(self) -> None:
        difference = np.tensordot(self.weights - self.estimate, self.kernels, 1)
        self._apart = 0.5 * np.abs(difference).sum(axis=2)
        self.discrepancy = float(np.sum(self.transitions.sum(axis=2) * self._apart))
        self._age = 0

    def plan(self, beta: float) -> Certificate:
        """Climbs to weights of the set with a large gain, from the estimate and from those in force."""
        self._gap = LIKELIHOOD_GAP * min(beta, 1.0)
        self._refresh()
        densities, counts = self.transition_densities()
        largest = log_likelihood(self.estimate, densities, counts)
        least = largest - beta
        best, best_weights = self.solve(self.estimate), self.estimate
        for start in (self.estimate, self.weights):
            if log_likelihood(start, densities, counts) < least:
                continue
            weights, point = self._climb(start, densities, counts, least)
            if point.gain > best.gain:
                best, best_weights = point, weights
        self.weights, self.gain = best_weights, best.gain
        self.policy = best.backup.argmax(axis=1).tolist()
        self._measure()
        shortfall = largest - log_likelihood(self.weights, densities, counts)
        return certify(best, max(shortfall, 0.0), beta, self.problem, None)

    def solve(self, weights: Array, start: Array | None = None) -> FixedPoint:
        """The gain-optimal solution of the process with these weights."""
        kernel = np.tensordot(weights, self.kernels, 1)

        def backup(values: Array) -> Array:
            backed: Array = self.rewards + kernel @ values
            return backed

        return fixed_point(backup, np.zeros(self.n_states) if start is None else start, self.problem)

    def gradient(self, weights: Array, point: FixedPoint) -> Array:
        """[d], dJ / dweights_k = sum_s mu(s) (P_k V)(s, policy(s)), mu stationary; exact if one policy is best."""
        rows, policy = np.arange(self.n_states), point.backup.argmax(axis=1)
        chain = np.tensordot(weights, self.kernels, 1)[rows, policy]
        distribution = limiting_matrix(chain / chain.sum(axis=1, keepdims=True))[point.backup.max(axis=1).argmin()]
        gradient: Array = (self.kernels[:, rows, policy] @ point.state_values) @ distribution
        return gradient

    def _climb(self, start: Array, densities: Array, counts: Array, least: float) -> tuple[Array, FixedPoint]:
        """Conditional-gradient ascent: towards the best weights for the linearised gain, halving steps that fall."""
        weights, point = start, self.solve(start)
        for _ in range(ASCENT_ROUNDS):
            target = furthest(self.gradient(weights, point), self.estimate, densities, counts, least)
            for share in (1.0, 0.5, 0.25, 0.125):
                candidate = (1 - share) * weights + share * target
                following = self.solve(candidate, point.state_values)
                if following.gain > point.gain:
                    break
            gained = following.gain - point.gain
            if gained > 0:
                weights, point = candidate, following
            if gained <= self.problem.tolerance * self.problem.span:
                break
        return weights, point

    def get_state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "transitions": self.transitions.copy(),
            "estimate": self.estimate.copy(),
            "weights": self.weights.copy(),
            "apart": self._apart.copy(),
            "age": self._age,
            "gap": float(self._gap),
            "policy": np.array(self.policy, np.int64),
            "gain": float(self.gain),
            "discrepancy": float(self.discrepancy),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave; raises ValueError if it does not fit."""
        require_fitting(self.get_state(), state)
        require_actions(state["policy"], self.n_actions)
        for name in ("estimate", "weights"):
            if state[name].min() < 0 or abs(state[name].sum() - 1) > 1e-9:
                raise ValueError(f"{name} are not a distribution")
        if state["transitions"].min() < 0:
            raise ValueError("counts are negative")
        self.transitions = state["transitions"].copy()
        self.estimate, self.weights = state["estimate"].copy(), state["weights"].copy()
        self._apart, self._age, self._gap = state["apart"].copy(), state["age"], state["gap"]
        self.policy, self.gain = state["policy"].tolist(), state["gain"]
        self.discrepancy = state["discrepancy"]
