"""PMEVI-DT: extended value iteration whose values are held within bias differences that the data allow."""

import math
from typing import Any, ClassVar

import numpy as np

from rlopt.agents.loop.baselines.base import DoublingLearner, Episodic
from rlopt.agents.loop.baselines.config import PMEVIDTConfig
from rlopt.agents.loop.baselines.ucrl2 import optimistic_kernel
from rlopt.agents.loop.confidence_sets.counts import OptimisticValues
from rlopt.agents.loop.states import CountedStates
from rlopt.average_reward.mdp import Array


def closure(bounds: Array) -> Array:
    """[S, S] the tightest bounds D(s, s') of v(s) - v(s') that ``bounds`` imply: shortest paths."""
    found = bounds.copy()
    for middle in range(len(found)):
        found = np.minimum(found, found[:, middle, None] + found[None, middle])
    return found


def projected(values: Array, bounds: Array) -> Array:
    """The largest v <= ``values`` with v(s) - v(s') <= bounds[s, s'] for all s, s'.

    :param bounds: [S, S], closed (:func:`closure`), 0 on the diagonal
    """
    return np.asarray((values[None, :] + bounds).min(axis=1), np.float64)


class Commutes:
    """Rewards and steps of the parts of a run between alternate visits of each two states.

    A part from the first visit of s, after one of s', to the next visit of s' has under the optimal policy an expected
    sum of r - g of h(s) - h(s'), g the gain and h the bias.
    """

    def __init__(self, n_states: int) -> None:
        self.n_states = n_states
        self.last = np.full((n_states, n_states), -1, np.int64)
        """Which state of a pair was visited last; -1 for neither."""
        self.start_step, self.start_sum = np.zeros((2, n_states, n_states))
        self.steps, self.rewards, self.parts = np.zeros((3, n_states, n_states))
        """[s, s'] of the parts from s to s'."""

    def arrive(self, state: int, step: int, reward_sum: float) -> None:
        """Takes in that ``state`` is visited after ``step`` steps whose rewards sum up to ``reward_sum``."""
        last = self.last[state]
        ended = np.flatnonzero((last != state) & (last >= 0))
        self.parts[ended, state] += 1
        self.steps[ended, state] += step - self.start_step[state, ended]
        self.rewards[ended, state] += reward_sum - self.start_sum[state, ended]
        begun = np.flatnonzero(last != state)
        for first, second in ((state, begun), (begun, state)):
            self.start_step[first, second], self.start_sum[first, second] = step, reward_sum
            self.last[first, second] = state

    def differences(self, gain: float) -> tuple[Array, Array]:
        """Estimates of h(s) - h(s') [S, S], and the parts they rest on, in both directions."""
        sums = self.rewards - gain * self.steps
        parts = self.parts + self.parts.T
        return (sums - sums.T) / np.maximum(parts, 1.0), parts


class PMEVIDTLearner(DoublingLearner):
    """Counts, what is known of bias differences, and the optimistic policy of the episode; in units of the range."""

    def __init__(
        self, n_states: int, n_actions: int, config: PMEVIDTConfig, reward_range: tuple[float, float], steps: int
    ) -> None:
        super().__init__(n_states, n_actions, config, reward_range)
        self.largest_span = steps**0.2
        self.logarithm = math.log(n_states * n_actions * max(steps, 2) / config.delta)
        self.commutes = Commutes(n_states)
        self._plan_gain = 1.0
        """Of the present plan, in units of the range of rewards."""
        self._shortfall = 0.0
        """Sum of planned gain less reward: an upper bound of the regret while the plans are optimistic."""
        self._reward_sum, self._steps = 0.0, 0

    @property
    def size(self) -> float:
        """The range of rewards."""
        return max(self.reward_range[1] - self.reward_range[0], 1e-12)

    def bias_bounds(self) -> Array:
        """[S, S] bounds of h(s) - h(s'): the estimates and their errors, and the largest span.

        The error is (3 c + (1 + c)(1 + sqrt(8 t log(2 / delta))) + 2 B) / parts, c the largest span and B the sum of
        planned gain less reward (Boone and Zhang 2024, algorithm 3).
        """
        time, span = max(self._steps, 1), self.largest_span
        estimates, parts = self.commutes.differences(self._reward_sum / time)
        noise = (1 + span) * (1 + math.sqrt(8 * time * math.log(2 / self.config.delta)))
        error = (3 * span + noise + 2 * max(self._shortfall, 0.0)) / np.maximum(parts, 1.0)
        bounds = np.where(parts > 0, np.minimum(estimates + error, span), span)
        np.fill_diagonal(bounds, 0.0)
        closed = closure(bounds)
        if np.any(np.diag(closed) < 0):  # contradictory, which has the probability delta at most
            closed = np.full_like(bounds, span)
            np.fill_diagonal(closed, 0.0)
        return closed

    def mitigation(self, kernel: Array, values: Array, bounds: Array) -> Array:
        """[S, A] how far the mean of the next value may be above the empirical one, by Bernstein's inequality.

        sqrt(2 (Var + 8 c sum p d) log(S A T / delta) / n) + 3 c log(S A T / delta) / n, Var the empirical variance of
        ``values`` and d their uncertainty relative to the state.
        """
        visits, span = np.maximum(self.model.counts, 1.0), self.largest_span
        variance = np.maximum(kernel @ values**2 - (kernel @ values) ** 2, 0.0)
        width = np.minimum(bounds + bounds.T, 2 * span)
        variance = variance + 8 * span * np.einsum("sat,ts->sa", kernel, width)
        return np.asarray(
            np.sqrt(2 * variance * self.logarithm / visits) + 3 * span * self.logarithm / visits, np.float64
        )

    def plan(self, steps: int) -> OptimisticValues:
        """Begins an episode by projected mitigated extended value iteration, up to sqrt(log t / t) as in the paper."""
        low, size, counts = self.reward_range[0], self.size, self.model.counts
        visits, kernel = np.maximum(counts, 1.0), self.model.kernel()
        means = (self.model.mean_rewards(self.reward_range[1]) - low) / size
        rewards = np.where(counts > 0, np.minimum(means + np.sqrt(self.logarithm / (2 * visits)), 1.0), 1.0)
        # Weissman et al. 2003: 2^S events.
        radii = np.sqrt(2 * (self.n_states * math.log(2) + self.logarithm) / visits)
        radii = np.where(counts > 0, radii, 2.0)
        bounds = self.bias_bounds()
        values = projected(self._values, bounds)
        values = values - values.min()
        extra = np.where(counts > 0, self.mitigation(kernel, values, bounds), np.inf)
        accuracy = math.sqrt(math.log(max(steps, 2)) / max(steps, 2))
        for sweep in range(1, self.config.max_sweeps + 1):
            optimistic = optimistic_kernel(kernel, radii, values) @ values
            backup = rewards + np.minimum(optimistic, kernel @ values + extra)
            following = projected(backup.max(axis=1), bounds)
            change = following - values
            if float(np.ptp(change)) <= accuracy or sweep == self.config.max_sweeps:
                break
            values = values + 0.5 * change
            values -= values.min()
        self._plan_gain = float(min((change.min() + change.max()) / 2, 1.0))
        found = OptimisticValues(values, backup, low + size * self._plan_gain, size * float(np.ptp(change)) / 2, sweep)
        self._put_in_force(found)
        return found

    def arrive(self, state: int) -> None:
        """Takes in that ``state`` is visited."""
        self.commutes.arrive(state, self._steps, self._reward_sum)

    def add(self, state: int, action: int, reward: float, next_state: int) -> bool:
        """Takes a transition in; returns whether the episode ends."""
        if self._steps == 0:
            self.arrive(state)
        unit = (reward - self.reward_range[0]) / self.size
        self._steps += 1
        self._reward_sum += unit
        self._shortfall += self._plan_gain - unit
        self.arrive(next_state)
        return super().add(state, action, reward, next_state)

    def get_state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        commutes = self.commutes
        return {
            **super().get_state(),
            "plan_gain": float(self._plan_gain),
            "shortfall": float(self._shortfall),
            "reward_sum": float(self._reward_sum),
            "steps": self._steps,
            "last": commutes.last.copy(),
            "commutes": np.stack(
                [commutes.start_step, commutes.start_sum, commutes.steps, commutes.rewards, commutes.parts]
            ),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave; raises ValueError if it does not fit."""
        super().set_state(state)
        if state["last"].min() < -1 or state["last"].max() >= self.n_states:
            raise ValueError("states that are not there")
        self._plan_gain, self._steps = state["plan_gain"], state["steps"]
        self._shortfall, self._reward_sum = state["shortfall"], state["reward_sum"]
        commutes = self.commutes
        commutes.last = state["last"].copy()
        names = ("start_step", "start_sum", "steps", "rewards", "parts")
        for name, array in zip(names, state["commutes"], strict=True):
            setattr(commutes, name, array.copy())


class PMEVIDT(Episodic, CountedStates):
    """PMEVI-DT (Boone and Zhang, Achieving tractable minimax optimal regret in average reward MDPs, 2024).

    The arguments are those of :class:`rlopt.agents.loop.base.ContinuingAgent`, with the settings of
    :class:`rlopt.agents.loop.baselines.config.PMEVIDTConfig`.
    """

    config_class: ClassVar[type[Any]] = PMEVIDTConfig
    data: PMEVIDTLearner

    def _begin(self) -> None:
        assert self.horizon is not None
        self.data = PMEVIDTLearner(self.n_states, self.n_actions, self.config, self.reward_range, self.horizon)

    def _plan(self) -> None:
        self.data.plan(self.n_transitions)
