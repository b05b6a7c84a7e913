"""Optimistic Q-learning: a discounted reduction whose values only fall, with bonuses of the visits."""

import math
from typing import Any, ClassVar

import numpy as np

from rlopt.agents.loop.baselines.config import OptimisticQConfig
from rlopt.agents.loop.confidence_sets.counts import require_fitting
from rlopt.agents.loop.states import CountedStates


class OptimisticQLearner:
    """Optimistic values of the discount 1 - 1/H (Wei et al. 2020, algorithm 1).

    :param bonus: of the n-th visit, times sqrt(1 / n)
    """

    def __init__(self, n_states: int, n_actions: int, H: float, bonus: float, largest_reward: float) -> None:
        self.n_states, self.n_actions, self.H, self.bonus = n_states, n_actions, H, bonus
        start = H * largest_reward
        self.learnt = [[start] * n_actions for _ in range(n_states)]
        """Q."""
        self.rows = [[start] * n_actions for _ in range(n_states)]
        """Q^, the least Q so far: what is acted on."""
        self.state_values = [start] * n_states
        self._visits = [[0] * n_actions for _ in range(n_states)]

    @property
    def gain(self) -> float:
        """(1 - discount) times the smallest state value."""
        return min(self.state_values) / self.H

    def greedy(self, state: int) -> int:
        """The first of the best actions."""
        row = self.rows[state]
        return row.index(max(row))

    def add(self, state: int, action: int, reward: float, next_state: int) -> None:
        """Learns from a transition."""
        self._visits[state][action] += 1
        count, H = self._visits[state][action], self.H
        rate = (H + 1.0) / (H + count)
        target = reward + (1.0 - 1.0 / H) * self.state_values[next_state] + self.bonus / math.sqrt(count)
        value = (1.0 - rate) * self.learnt[state][action] + rate * target
        self.learnt[state][action] = value
        if value < self.rows[state][action]:
            self.rows[state][action] = value
            self.state_values[state] = max(self.rows[state])

    def get_state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "learnt": np.array(self.learnt),
            "rows": np.array(self.rows),
            "state_values": np.array(self.state_values),
            "visits": np.array(self._visits, np.int64),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave; raises ValueError if it does not fit."""
        require_fitting(self.get_state(), state)
        if state["visits"].min() < 0:
            raise ValueError("counts are negative")
        self.learnt, self.rows = state["learnt"].tolist(), state["rows"].tolist()
        self.state_values, self._visits = state["state_values"].tolist(), state["visits"].tolist()


def paper_horizon(span: float, steps: int, pairs: int) -> float:
    """H = min(sqrt(span T / (S A)), (T / (S A))^(1/3)), at least 2 (Wei et al. 2020, theorem 1).

    :param span: of the optimal bias, in units of the range of rewards
    """
    return max(min(math.sqrt(span * steps / pairs), (steps / pairs) ** (1 / 3)), 2.0)


class OptimisticQ(CountedStates):
    """Optimistic Q-learning (Wei, Jafarnia-Jahromi, Luo, Sharma and Jain, Model-free reinforcement learning in
    infinite-horizon average-reward Markov decision processes, 2020, algorithm 1).

    The arguments are those of :class:`rlopt.agents.loop.base.ContinuingAgent`, with the settings of
    :class:`rlopt.agents.loop.baselines.config.OptimisticQConfig`.
    """

    config_class: ClassVar[type[Any]] = OptimisticQConfig
    data: OptimisticQLearner

    def _data_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"rows": (self.n_states, self.n_actions)}

    def _begin(self) -> None:
        assert self.horizon is not None
        H = self.config.effective_horizon or paper_horizon(
            self.span / max(self.reward_range[1] - self.reward_range[0], 1e-12),
            self.horizon,
            self.n_states * self.n_actions,
        )
        # A horizon of one step would make the logarithm small enough to matter, but never negative.
        bonus = self.config.bonus_scale * self.span * math.sqrt(H * math.log(2 * self.horizon / self.config.delta))
        self.data = OptimisticQLearner(self.n_states, self.n_actions, H, bonus, self.reward_range[1])

    def _greedy(self, state: int) -> int:
        return self.data.greedy(state)
