"""UCRL3: an interval for the probability of each next state, and optimism over those that matter."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from rlopt.agents.loop.baselines.base import DoublingLearner, Episodic
from rlopt.agents.loop.baselines.config import UCRL3Config
from rlopt.agents.loop.confidence_sets.counts import OptimisticValues
from rlopt.agents.loop.confidence_sets.optimistic_iteration import kernel_plan
from rlopt.agents.loop.states import CountedStates
from rlopt.average_reward.mdp import Array

Mask = npt.NDArray[np.bool_]

PEELING = 1.12
"""eta, the growth of the slices of time."""
BISECTIONS = 30


def peeled(visits: Array, delta: float) -> Array:
    """l_n(delta) / n of Bernstein's inequality for all n at once, by slices of time that grow by eta."""
    n, square = np.maximum(visits, 1.0), math.log(PEELING) ** 2
    inside = np.log(n * PEELING) * np.log(n * PEELING**2) / (square * delta)
    return np.asarray(PEELING * np.log(inside) / n, np.float64)


def laplace(visits: Array, delta: float) -> Array:
    """beta_n(delta)^2 = 2 (1 + 1/n) log(sqrt(n + 1) / delta) / n, the method of mixtures for a unit variance."""
    n = np.maximum(visits, 1.0)
    return np.asarray(2 * (1 + 1 / n) * np.log(np.sqrt(n + 1) / delta) / n, np.float64)


def sub_gaussian(p: Array) -> Array:
    """g(p) = (1/2 - p) / log(1/p - 1), a Bernoulli variable's sub-Gaussian variance (Kearns and Saul 1998)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (0.5 - p) / np.log(1 / p - 1)
    found = np.where(np.abs(p - 0.5) < 1e-6, 0.25, found)
    return np.where((p <= 0) | (p >= 1), 0.0, found)


def probability_intervals(frequencies: Array, visits: Array, delta: float) -> tuple[Array, Array]:
    """Lower and upper bounds of probabilities: the p on each side whose bounds both allow the frequency.

    Bernstein's inequality with the variance p (1 - p), and sub-Gaussian tails: with g(p) above, and below the same for
    p < 1/2 but p (1 - p) beyond (Bourel, Maillard and Talebi 2020, section 3.1).

    :param frequencies: [...]
    :param visits: [...] > 0
    :param delta: of one side of one bound
    """
    slices, mixture = peeled(visits, delta), laplace(visits, delta / 2)

    def too_far(p: Array, variance: Array) -> Mask:
        bernstein = np.sqrt(2 * p * (1 - p) * slices) + slices / 3
        return np.abs(p - frequencies) > np.minimum(bernstein, np.sqrt(variance * mixture))

    def above(p: Array) -> Mask:
        return too_far(p, np.where(p < 0.5, sub_gaussian(p), p * (1 - p)))

    def below(p: Array) -> Mask:
        return too_far(p, sub_gaussian(p))

    return _furthest(below, frequencies, 0.0), _furthest(above, frequencies, 1.0)


def _furthest(too_far: Callable[[Array], Mask], start: Array, end: float) -> Array:
    inside, outside = start.astype(np.float64), np.full_like(start, end, dtype=np.float64)
    inside = np.where(too_far(outside), inside, outside)
    for _ in range(BISECTIONS):
        middle = (inside + outside) / 2
        far = too_far(middle)
        inside, outside = np.where(far, inside, middle), np.where(far, middle, outside)
    return inside


def filled(lower: Array, upper: Array, room: Array | float = 1.0) -> Array:
    """[N, S] the p between the bounds with a sum of at most 1 and as much as can be on the first columns.

    :param lower: [N, S]
    :param upper: [N, S]
    """
    extra = upper - lower
    left = np.maximum(room - lower.sum(axis=1), 0.0)
    before = np.cumsum(extra, axis=1) - extra
    return np.asarray(lower + np.clip(left[:, None] - before, 0.0, extra), np.float64)


def near_optimistic(lower: Array, upper: Array, seen: Mask, values: Array, kappa: Array) -> Array:
    """[N, S] near-optimistic distributions: as much as the intervals allow on the best of the states that matter.

    These are the states seen and the k best, k the smallest number at which what the others could add is at most the
    smaller of ``kappa`` and what these give (NOSS, algorithm 2 of the paper).

    :param lower: [N, S]
    :param upper: [N, S]
    :param seen: [N, S] whether the next state was seen
    :param values: [S]
    :param kappa: [N]
    """
    order = np.argsort(-values, kind="stable")
    worth = values[order] - values.min()
    low, high, known = lower[:, order], upper[:, order], seen[:, order]
    place = np.arange(len(values))
    least, most = np.ones(len(low), np.int64), np.full(len(low), len(values), np.int64)
    while np.any(least < most):
        middle = (least + most) // 2
        inside = known | (place < middle[:, None])
        within = filled(np.where(inside, low, 0.0), np.where(inside, high, 0.0)) @ worth
        without = filled(np.zeros_like(low), np.where(inside, 0.0, high)) @ worth
        enough = without <= np.minimum(kappa, within)
        least, most = np.where(enough, least, np.minimum(middle + 1, most)), np.where(enough, middle, most)
    inside = known | (place < least[:, None])
    found = np.zeros_like(low)
    found[:, order] = filled(np.where(inside, low, 0.0), np.where(inside, high, 0.0))
    return found


class UCRL3Learner(DoublingLearner):
    """Counts, intervals and the optimistic policy of the episode."""

    def __init__(self, n_states: int, n_actions: int, config: UCRL3Config, reward_range: tuple[float, float]) -> None:
        super().__init__(n_states, n_actions, config, reward_range)
        self._square_sums = np.zeros((n_states, n_actions))
        self.delta = config.delta / (n_states * n_actions * (3 + 3 * n_states))
        """Of one bound: three for rewards and three for each next state."""

    def reward_bounds(self) -> Array:
        """[S, A] upper bounds of the mean rewards: the better of Hoeffding's and the empirical Bernstein one."""
        low, high = self.reward_range
        size = max(high - low, 1e-300)
        counts = self.model.counts
        visits = np.maximum(counts, 1.0)
        means = self.model.mean_rewards(high)
        variance = np.maximum(self._square_sums / visits - means**2, 0.0) / size**2
        slices = peeled(visits, self.delta)
        width = np.minimum(np.sqrt(laplace(visits, self.delta) / 4), np.sqrt(2 * variance * slices) + 7 * slices / 3)
        return np.where(counts > 0, np.minimum(means + size * width, high), high)

    def plan(self, steps: int) -> OptimisticValues:
        """Begins an episode with the policy of extended value iteration, up to 1 / t as in the paper."""
        states, pairs = self.n_states, len(self.model.visits)
        counts = self.model.counts.reshape(-1)
        visits = np.maximum(counts, 1.0)[:, None]
        transitions = self.model.transitions.reshape(pairs, states)
        frequencies = transitions / visits
        lower, upper = probability_intervals(frequencies, np.broadcast_to(visits, frequencies.shape), self.delta)
        lower[counts == 0], upper[counts == 0] = 0.0, 1.0
        seen, rewards = transitions > 0, self.reward_bounds()
        share = 10 * seen.sum(axis=1) / max(float(counts.max()), 1.0) ** (2 / 3)

        def kernel_of(values: Array) -> Array:
            kernel = near_optimistic(lower, upper, seen, values, share * np.ptp(values))
            # What is left of the mass counts as the worst state.
            kernel[:, values.argmin()] += 1.0 - kernel.sum(axis=1)
            return kernel.reshape(*rewards.shape, states)

        accuracy = max(self.reward_range[1] - self.reward_range[0], 1e-12) / (2.0 * max(steps, 1))
        found = kernel_plan(kernel_of, rewards, self._values, accuracy, self.config.max_sweeps)
        self._put_in_force(found)
        return found

    def add(self, state: int, action: int, reward: float, next_state: int) -> bool:
        """Takes a transition in; returns whether the episode ends."""
        self._square_sums[state, action] += reward * reward
        return super().add(state, action, reward, next_state)

    def get_state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {**super().get_state(), "reward_squares": self._square_sums.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave; raises ValueError if it does not fit."""
        super().set_state(state)
        self._square_sums = state["reward_squares"].copy()


class UCRL3(Episodic, CountedStates):
    """UCRL3 (Bourel, Maillard and Talebi, Tightening exploration in upper confidence reinforcement learning, 2020).

    The arguments are those of :class:`rlopt.agents.loop.base.ContinuingAgent`, with the settings of
    :class:`rlopt.agents.loop.baselines.config.UCRL3Config`.
    """

    config_class: ClassVar[type[Any]] = UCRL3Config
    data: UCRL3Learner

    def _begin(self) -> None:
        self.data = UCRL3Learner(self.n_states, self.n_actions, self.config, self.reward_range)

    def _plan(self) -> None:
        self.data.plan(self.n_transitions)
