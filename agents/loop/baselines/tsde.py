"""Posterior sampling with dynamic episodes (TSDE): acts optimally for a process drawn from the posterior."""

from typing import Any, ClassVar

import numpy as np

from rlopt.agents.loop.baselines.base import EpisodeLearner, Episodic
from rlopt.agents.loop.baselines.config import TSDEConfig
from rlopt.agents.loop.confidence_sets.counts import OptimisticValues
from rlopt.agents.loop.confidence_sets.optimistic_iteration import kernel_plan
from rlopt.agents.loop.states import CountedStates
from rlopt.average_reward.mdp import Array
from rlopt.state import generator as randomness


class TSDELearner(EpisodeLearner):
    """Dirichlet posterior, the policy of the drawn process, and when to draw the next."""

    def __init__(
        self, n_states: int, n_actions: int, config: TSDEConfig, reward_range: tuple[float, float], seed: int | None
    ) -> None:
        super().__init__(n_states, n_actions, config, reward_range)
        self.prior, self.rng = config.prior or 1.0 / n_states, randomness.generator(seed)
        self._start_visits = [0.0] * (n_states * n_actions)
        self.length, self.previous_length = 0, 0
        """Steps of the episode so far, and of the one before."""

    def sample(self) -> Array:
        """[S, A, S] transition distributions drawn from the posterior: Dirichlet(prior + visits)."""
        weights = self.rng.standard_gamma(self.model.transitions + self.prior)
        # Parameters far below 1 can all underflow; such a distribution has all its mass on one state.
        empty = weights.sum(axis=2) == 0
        if empty.any():
            parameters = self.model.transitions[empty] + self.prior
            for row, distribution in zip(
                np.argwhere(empty), parameters / parameters.sum(axis=1, keepdims=True), strict=True
            ):
                weights[tuple(row)] = np.eye(self.n_states)[self.rng.choice(self.n_states, p=distribution)]
        return np.asarray(weights / weights.sum(axis=2, keepdims=True), np.float64)

    def sample_rewards(self) -> Array:
        """[S, A] mean rewards: those seen, or drawn from their posterior; the largest where there are none."""
        low, high = self.reward_range
        known = self.model.mean_rewards(high)
        if self.config.rewards == "known" or high == low:
            return known
        counts, share = self.model.counts, np.clip((known - low) / (high - low), 0.0, 1.0)
        drawn = self.rng.beta(1 + counts * share, 1 + counts * (1 - share))
        return np.where(counts > 0, low + (high - low) * drawn, high)

    def plan(self) -> OptimisticValues:
        """Begins an episode with the best policy of a process drawn from the posterior."""
        kernel, (low, high) = self.sample(), self.reward_range
        rewards = self.sample_rewards()
        accuracy = self.config.tolerance * max(high - low, 1e-12)
        found = kernel_plan(lambda _: kernel, rewards, self._values, accuracy, self.config.max_sweeps)
        self._put_in_force(found)
        self._start_visits = list(self.model.visits)
        self.previous_length, self.length = self.length, 0
        return found

    def add(self, state: int, action: int, reward: float, next_state: int) -> bool:
        """Takes a transition in; returns whether the episode ends: longer than the last, or a pair's visits doubled."""
        self.model.add(state, action, reward, next_state)
        self.length += 1
        pair = state * self.model.n_actions + action
        return self.length > self.previous_length or self.model.visits[pair] > 2.0 * self._start_visits[pair]

    def get_state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            **super().get_state(),
            "start_visits": np.array(self._start_visits),
            "length": self.length,
            "previous_length": self.previous_length,
            "random": randomness.capture(self.rng),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave; raises ValueError if it does not fit."""
        super().set_state(state)
        self._start_visits = state["start_visits"].tolist()
        self.length, self.previous_length = state["length"], state["previous_length"]
        randomness.restore(self.rng, state["random"])


class TSDE(Episodic, CountedStates):
    """Posterior sampling (Ouyang, Gagrani, Nayyar and Jain, Learning unknown Markov decision processes: a Thompson
    sampling approach, 2017, algorithm TSDE).

    The arguments are those of :class:`rlopt.agents.loop.base.ContinuingAgent`, with the settings of
    :class:`rlopt.agents.loop.baselines.config.TSDEConfig`.
    """

    config_class: ClassVar[type[Any]] = TSDEConfig
    data: TSDELearner

    def _begin(self) -> None:
        self.data = TSDELearner(self.n_states, self.n_actions, self.config, self.reward_range, self.seed)

    def _plan(self) -> None:
        self.data.plan()
