"""KL-UCRL: UCRL2 with Kullback-Leibler balls of transition distributions."""

import math
from typing import Any, ClassVar

import numpy as np

from rlopt.agents.loop.baselines.base import Episodic
from rlopt.agents.loop.baselines.config import KLUCRLConfig
from rlopt.agents.loop.confidence_sets.optimistic_iteration import Plan, optimistic_plan
from rlopt.agents.loop.confidence_sets.outcomes import Outcomes
from rlopt.agents.loop.states import CountedStates
from rlopt.average_reward.mdp import Array


def transition_constant(n_states: int, n_actions: int, steps: int, delta: float) -> float:
    """C_P: the divergence from the frequencies of n visits to the truth is at most C_P / n."""
    logarithm = math.log(max(steps, 3))
    bound = math.log(2 * math.e * n_states**2 * n_actions * logarithm / delta)
    inner = bound + 1 / logarithm
    return n_states * (bound + math.log(inner) * (1 + 1 / inner))


def reward_constant(n_states: int, n_actions: int, steps: int, delta: float) -> float:
    """C_R: the mean of n rewards in [0, 1] is within C_R / sqrt(n) of the truth."""
    return math.sqrt(math.log(4 * n_states * n_actions * math.log(max(steps, 3)) / delta) / 1.99)


class KLUCRLLearner(Outcomes):
    """Outcomes, the balls around their frequencies, and the optimistic policy of the episode."""

    def __init__(
        self, n_states: int, n_actions: int, config: KLUCRLConfig, reward_range: tuple[float, float], steps: int
    ) -> None:
        super().__init__(n_states, n_actions, reward_range)
        self.config, self.gain, self.policy = config, reward_range[1], [0] * n_states
        self.transition_constant = config.transition_scale * transition_constant(
            n_states, n_actions, steps, config.delta
        )
        self.reward_constant = config.reward_scale * reward_constant(n_states, n_actions, steps, config.delta)
        self._values = np.zeros(n_states)
        self._limits = [1.0] * (n_states * n_actions)
        """Visits of each pair at which the episode ends: twice those at its start, at least one."""

    def largest_rewards(self) -> Array:
        """[S A] upper bounds of the mean rewards."""
        table = self.table()
        low, high = self.reward_range
        means = np.einsum("nk,nk->n", table.shares, table.rewards)
        widths = (high - low) * self.reward_constant / np.sqrt(np.maximum(table.visits, 1.0))
        return np.where(table.visits > 0, np.minimum(means + widths, high), high)

    def plan(self, steps: int) -> Plan:
        """Begins an episode with the policy of extended value iteration, up to 1 / sqrt(t) as in the paper."""
        table, rewards = self.table(), self.largest_rewards()
        low, high = self.reward_range
        radii = self.transition_constant / np.maximum(table.visits, 1.0)
        known = table._replace(rewards=np.broadcast_to(rewards[:, None], table.shares.shape))
        accuracy = max(high - low, 1e-12) / (2 * math.sqrt(steps + 1))
        policy = np.array(self.policy, np.int64)
        found = optimistic_plan(known, radii, rewards, self._values, policy, accuracy, self.config.max_sweeps)
        self.policy, self._values = found.policy.tolist(), found.values
        self.gain = (found.low + found.high) / 2
        self._limits = [max(2.0 * count, 1.0) for count in self.visits]
        return found

    def add(self, state: int, action: int, reward: float, next_state: int) -> bool:  # type: ignore[override]
        """Takes a transition in; returns whether the episode ends: the next pair's visits have doubled."""
        super().add(state, action, reward, next_state)
        pair = next_state * self.n_actions + self.policy[next_state]
        return self.visits[pair] >= self._limits[pair]

    def get_state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            **super().get_state(),
            "policy": np.array(self.policy, np.int64),
            "values": self._values.copy(),
            "limits": np.array(self._limits),
            "gain": float(self.gain),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave; raises ValueError if it does not fit."""
        super().set_state(state)
        self.policy, self._values = state["policy"].tolist(), state["values"].copy()
        self._limits, self.gain = state["limits"].tolist(), state["gain"]


class KLUCRL(Episodic, CountedStates):
    """KL-UCRL (Filippi, Cappe and Garivier, Optimism in reinforcement learning and Kullback-Leibler divergence, 2010).

    The arguments are those of :class:`rlopt.agents.loop.base.ContinuingAgent`, with the settings of
    :class:`rlopt.agents.loop.baselines.config.KLUCRLConfig`.
    """

    config_class: ClassVar[type[Any]] = KLUCRLConfig
    data: KLUCRLLearner

    def _data_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"limits": (self.n_states * self.n_actions,)}

    def _begin(self) -> None:
        assert self.horizon is not None
        self.data = KLUCRLLearner(self.n_states, self.n_actions, self.config, self.reward_range, self.horizon)

    def _plan(self) -> None:
        self.data.plan(self.n_transitions)
