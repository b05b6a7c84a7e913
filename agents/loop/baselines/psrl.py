"""PSRL: the best policy of a process drawn from the posterior, until a pair's visits have doubled."""

from typing import ClassVar

import numpy as np

from rlopt.agents.loop.baselines.config import PSRLConfig
from rlopt.agents.loop.baselines.tsde import TSDE, TSDELearner
from rlopt.average_reward.mdp import Array


class PSRLLearner(TSDELearner):
    """Dirichlet posterior of the next states and Beta posterior of the mean rewards, with the episodes of UCRL2."""

    def sample_rewards(self) -> Array:
        """[S, A] mean rewards drawn from Beta(1 + n m, 1 + n (1 - m)), m the mean seen in units of the range.

        It is the posterior under a uniform prior once every reward is rounded to an end of the range at random with
        the same mean (Agrawal and Goyal 2012), here with the mean of that rounding.
        """
        low, high = self.reward_range
        counts = self.model.counts
        share = np.clip((self.model.mean_rewards(high) - low) / max(high - low, 1e-300), 0.0, 1.0)
        drawn = self.rng.beta(1 + counts * share, 1 + counts * (1 - share))
        return np.asarray(low + (high - low) * drawn, np.float64)

    def add(self, state: int, action: int, reward: float, next_state: int) -> bool:
        """Takes a transition in; returns whether the episode ends: the next pair's visits have doubled."""
        self.model.add(state, action, reward, next_state)
        self.length += 1
        pair = next_state * self.model.n_actions + self.policy[next_state]
        return self.model.visits[pair] >= max(2.0 * self._start_visits[pair], 1.0)


class PSRL(TSDE):
    """Posterior sampling (Osband, Russo and Van Roy, (More) efficient reinforcement learning via posterior sampling,
    2013) in a task that never ends, with the episodes of UCRL2 (as Agrawal and Jia 2017).

    The arguments are those of :class:`rlopt.agents.loop.base.ContinuingAgent`, with the settings of
    :class:`rlopt.agents.loop.baselines.config.PSRLConfig`.
    """

    config_class: ClassVar[type[PSRLConfig]] = PSRLConfig
    data: PSRLLearner

    def _begin(self) -> None:
        self.data = PSRLLearner(self.n_states, self.n_actions, self.config, self.reward_range, self.seed)
