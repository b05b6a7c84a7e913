"""UCRL2: optimism over L1 balls of transition distributions, in episodes that end when a pair's visits double."""

import math
from typing import Any, ClassVar

import numpy as np

from rlopt.agents.loop.baselines.base import DoublingLearner, Episodic
from rlopt.agents.loop.baselines.config import UCRL2Config
from rlopt.agents.loop.confidence_sets.counts import OptimisticValues, relative_sweeps
from rlopt.agents.loop.states import CountedStates
from rlopt.average_reward.mdp import Array


def optimistic_kernel(kernel: Array, radii: Array, values: Array) -> Array:
    """The distributions within L1 distance ``radii`` of ``kernel`` under which the mean of ``values`` is largest.

    Half of the radius is added to the best state and taken from the worst (Jaksch, Ortner and Auer 2010, figure 2).

    :param kernel: [..., S]
    :param radii: [...] >= 0
    :param values: [S]
    :returns: [..., S]
    """
    order = np.argsort(-values, kind="stable")
    distributions = kernel[..., order]
    added = np.minimum(radii / 2, 1.0 - distributions[..., 0])
    # What is left to take from each state once all worse ones are empty.
    worse = np.cumsum(distributions[..., ::-1], axis=-1)[..., ::-1] - distributions
    distributions = distributions - np.clip(added[..., None] - worse, 0.0, distributions)
    distributions[..., 0] += added
    found = np.empty_like(distributions)
    found[..., order] = distributions
    return found


class UCRL2Learner(DoublingLearner):
    """Counts, confidence sets and the optimistic policy of the episode."""

    def sets(self, steps: int) -> tuple[Array, Array]:
        """Upper bounds of the mean rewards [S, A] and L1 radii of the distributions [S, A] after ``steps`` steps."""
        states, actions, config = self.n_states, self.model.n_actions, self.config
        visits, step = np.maximum(self.model.counts, 1), steps + 1
        low, high = self.reward_range
        width = (high - low) * np.sqrt(
            config.reward_scale * math.log(2 * states * actions * step / config.delta) / (2 * visits)
        )
        rewards = np.where(self.model.counts > 0, self.model.mean_rewards(high) + width, high)
        radii = np.sqrt(config.transition_scale * states * math.log(2 * actions * step / config.delta) / visits)
        return np.minimum(rewards, high), np.where(self.model.counts > 0, radii, 2.0)

    def plan(self, steps: int) -> OptimisticValues:
        """Begins an episode with the policy that extended value iteration gives, up to 1 / sqrt(t) as in the paper."""
        rewards, radii = self.sets(steps)
        kernel = self.model.kernel()

        def backup(values: Array) -> Array:
            backed: Array = rewards + optimistic_kernel(kernel, radii, values) @ values
            return backed

        accuracy = (self.reward_range[1] - self.reward_range[0]) / (2 * math.sqrt(steps + 1))
        found = relative_sweeps(backup, self._values, accuracy, self.config.max_sweeps)
        self._put_in_force(found)
        return found


class UCRL2(Episodic, CountedStates):
    """UCRL2 (Jaksch, Ortner and Auer, Near-optimal regret bounds for reinforcement learning, 2010).

    The arguments are those of :class:`rlopt.agents.loop.base.ContinuingAgent`, with the settings of
    :class:`rlopt.agents.loop.baselines.config.UCRL2Config`.
    """

    config_class: ClassVar[type[Any]] = UCRL2Config
    data: UCRL2Learner

    def _begin(self) -> None:
        self.data = UCRL2Learner(self.n_states, self.n_actions, self.config, self.reward_range)

    def _plan(self) -> None:
        self.data.plan(self.n_transitions)
