"""Likelihood sets of finite processes: distributions within a Kullback-Leibler ball, and the distance of two."""

from typing import Any

import numpy as np

from rlopt.agents.loop.confidence_sets.counts import Counts, require_actions, require_fitting
from rlopt.agents.loop.confidence_sets.planner import Certificate, FixedPoint, Problem, certify, fixed_point
from rlopt.average_reward.mdp import Array

BISECTIONS = 60
"""Of the dual variable, which lies within 2^-60 of its first interval then."""
SWEEPS_A_KERNEL = 10
"""Backups with the same optimistic distributions while a plan is rough: they raise the values at little cost."""
ROUGH_ROUNDS = 500
"""How often the distributions are refreshed at most before every sweep refreshes them."""


def optimistic_distributions(kernel: Array, radii: Array, values: Array) -> Array:
    """The distributions p with KL(kernel, p) <= radii under which the mean of ``values`` is largest.

    p is proportional to kernel / (nu - values), nu > max values, or has besides mass on the best states where the
    kernel has none (Filippi, Cappe and Garivier 2010, section IV); nu is found by bisection.

    :param kernel: [N, S]
    :param radii: [N] >= 0; infinity allows any distribution
    :param values: [S]
    :returns: [N, S]
    """
    spread = float(np.ptp(values))
    if spread == 0.0:
        return kernel.copy()
    shortfall = (values.max() - values) / spread
    best = shortfall == 0.0
    inside = np.where(kernel > 0, kernel, 0.0)
    mass_on_best = inside[:, best].sum(axis=1)
    found = np.empty_like(kernel)
    # Without mass on the best states the divergence has a finite limit as nu falls to the largest value.
    others = inside[:, ~best]
    ratio = np.log(shortfall[~best])
    weight = others / shortfall[~best]
    with np.errstate(divide="ignore"):
        limit = np.where(mass_on_best > 0, np.inf, others @ ratio + np.log(weight.sum(axis=1)))
    jumps = radii >= limit
    if jumps.any():
        rest = weight[jumps] / weight[jumps].sum(axis=1, keepdims=True)
        left = np.exp(limit[jumps] - radii[jumps])
        found[np.ix_(jumps, ~best)] = rest * left[:, None]
        found[np.ix_(jumps, best)] = ((1.0 - left) / best.sum())[:, None]
    rows = np.flatnonzero(~jumps)
    if len(rows):
        found[rows] = _tilted(inside[rows], shortfall, radii[rows])
    return found


def _tilted(kernel: Array, shortfall: Array, radii: Array) -> Array:
    """kernel / (nu - values), normalised, with the divergence ``radii``; by bisection of log(nu - max values)."""
    low, high = np.full(len(kernel), -40.0), np.full(len(kernel), 40.0)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        gaps = np.exp(middle)[:, None] + shortfall
        divergence = np.einsum("ns,ns->n", kernel, np.log(gaps)) + np.log(np.sum(kernel / gaps, axis=1))
        too_far = divergence > radii
        low, high = np.where(too_far, middle, low), np.where(too_far, high, middle)
    distributions = kernel / (np.exp(high)[:, None] + shortfall)
    return np.asarray(distributions / distributions.sum(axis=1, keepdims=True), np.float64)


def divergence(first: Array, second: Array) -> Array:
    """[...] KL(first, second) over the last axis; infinite where second lacks mass that first has."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(first > 0, first * (np.log(first) - np.log(second)), 0.0)
    return np.asarray(np.maximum(terms.sum(axis=-1), 0.0), np.float64)


class TabularLikelihood:
    """Counts, the likelihood set, the plan in force and its total-variation discrepancy.

    The maximum-likelihood distribution of a pair is its frequencies, and the log likelihood of a process f is less
    than the largest by sum n KL(frequencies, P_f). Rewards are taken as known once seen. Where the plan in force had
    to guess both reward and distribution of a pair, it is at the total variation 1 from what was seen since.

    :param n_states: S
    :param n_actions: A
    :param problem: span, rewards and accuracy of the plans
    """

    def __init__(self, n_states: int, n_actions: int, problem: Problem) -> None:
        self.model, self.problem = Counts(n_states, n_actions), problem
        self.n_states, self.n_actions = n_states, n_actions
        self.distributions = np.full((n_states, n_actions, n_states), 1.0 / n_states)
        """[S, A, S], P_f of the plan in force."""
        self._apart = np.zeros((n_states, n_actions))
        """n TV(P_f, frequencies) of each pair."""
        self._guessed = np.ones((n_states, n_actions), np.int64)
        """1 for pairs that had no visit at the time of the plan in force, 0 for the others."""
        self.policy = [0] * n_states
        self.gain = problem.largest_reward
        self.discrepancy = 0.0
        """sum_i TV(P_f, P_g) at the pairs of the data, P_g the maximum-likelihood distributions."""

    def add(self, state: int, action: int, reward: float, next_state: int) -> None:
        """Takes a transition in; only the visited pair's distance changes."""
        self.model.add(state, action, reward, next_state)
        count = self.model.visits[state * self.n_actions + action]
        if self._guessed[state, action]:
            apart = count
        else:
            seen = self.model.transitions[state, action]
            apart = 0.5 * float(np.abs(count * self.distributions[state, action] - seen).sum())
        self.discrepancy += apart - float(self._apart[state, action])
        self._apart[state, action] = apart

    def plan(self, beta: float) -> Certificate:
        """Makes a plan by extended value iteration, every pair with its share of beta, and puts it in force."""
        point = self._solve(beta / (self.n_states * self.n_actions))
        self._put_in_force(point)
        seen = self.model.counts > 0
        apart = divergence(self.model.kernel()[seen], self.distributions[seen])
        shortfall = float(np.sum(self.model.counts[seen] * apart))
        return certify(point, shortfall, beta, self.problem, None, seen.sum(axis=1) > 0)

    def _solve(self, local_beta: float) -> FixedPoint:
        counts = self.model.counts
        unseen = counts.reshape(-1) == 0
        kernel = self.model.kernel().reshape(-1, self.n_states)
        radii = local_beta / np.maximum(counts.reshape(-1), 1)
        # A pair without a visit pays r_max and leads to the best state.
        rewards = self.model.mean_rewards(self.problem.largest_reward)

        def refresh(values: Array) -> None:
            distributions = optimistic_distributions(kernel, radii, values)
            distributions[unseen] = np.eye(self.n_states)[values.argmax()]
            self.distributions = distributions.reshape(*counts.shape, -1)

        def kept(values: Array) -> Array:
            backed: Array = rewards + self.distributions @ values
            return backed

        def fresh(values: Array) -> Array:
            refresh(values)
            return kept(values)

        values = np.zeros(self.n_states)
        for _ in range(ROUGH_ROUNDS):
            refresh(values)
            rough = fixed_point(kept, values, self.problem._replace(max_sweeps=SWEEPS_A_KERNEL))
            moved = float(np.abs(rough.state_values - values).max())
            values = rough.state_values
            if moved <= self.problem.tolerance * self.problem.span:
                break
        return fixed_point(fresh, values, self.problem)

    def _put_in_force(self, point: FixedPoint) -> None:
        self.gain = point.gain
        self.policy = point.backup.argmax(axis=1).tolist()
        expected = self.model.counts[:, :, None] * self.distributions
        self._apart = 0.5 * np.abs(expected - self.model.transitions).sum(axis=2)
        self._guessed = (self.model.counts == 0).astype(np.int64)
        self.discrepancy = float(self._apart.sum())

    def get_state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            **self.model.get_state(),
            "laws": self.distributions.copy(),  # the name in files of version 0.1
            "apart": self._apart.copy(),
            "guessed": self._guessed.copy(),
            "policy": np.array(self.policy, np.int64),
            "gain": float(self.gain),
            "discrepancy": float(self.discrepancy),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave; raises ValueError if it does not fit."""
        require_fitting(self.get_state(), state)
        require_actions(state["policy"], self.n_actions)
        self.model.set_state(state)
        self.distributions = state["laws"].copy()
        self._apart, self._guessed = state["apart"].copy(), state["guessed"].copy()
        self.policy = state["policy"].tolist()
        self.gain, self.discrepancy = state["gain"], state["discrepancy"]
