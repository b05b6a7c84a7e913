"""Q-learning for average reward, epsilon-greedy: differential Q-learning and RVI Q-learning."""

from typing import Any, ClassVar

import numpy as np

from rlopt.agents.loop.baselines.config import DifferentialQConfig, RVIQConfig
from rlopt.agents.loop.confidence_sets.counts import require_fitting
from rlopt.agents.loop.states import CountedStates
from rlopt.average_reward.mdp import Array
from rlopt.state import generator as randomness


class DifferentialQLearner:
    """Action values and a gain that follow each temporal difference (Wan, Naik and Sutton 2021, equations 3 and 4)."""

    def __init__(self, n_states: int, n_actions: int, config: DifferentialQConfig, seed: int | None) -> None:
        self.n_states, self.n_actions, self.config = n_states, n_actions, config
        self.rows = [[float(config.initial_value)] * n_actions for _ in range(n_states)]
        """Q, [S][A]; lists, of which a number is read faster than of an array."""
        self._visits = [[0] * n_actions for _ in range(n_states)]
        self.gain = 0.0
        self.rng = randomness.generator(seed)

    @property
    def values(self) -> Array:
        """[S, A] action values."""
        return np.array(self.rows)

    def act(self, state: int) -> int:
        """The greedy action, or with probability epsilon a uniform one."""
        if self.config.epsilon and self.rng.random() < self.config.epsilon:
            return int(self.rng.integers(self.n_actions))
        return self.greedy(state)

    def greedy(self, state: int) -> int:
        """The first of the best actions."""
        row = self.rows[state]
        return row.index(max(row))

    def add(self, state: int, action: int, reward: float, next_state: int) -> None:
        """Learns from a transition."""
        row, rate = self.rows[state], self._rate(state, action)
        difference = reward - self.gain + max(self.rows[next_state]) - row[action]
        row[action] += rate * difference
        self.gain += self.config.gain_rate * rate * difference

    def _rate(self, state: int, action: int) -> float:
        self._visits[state][action] += 1
        config = self.config
        return (
            config.learning_rate / self._visits[state][action] ** config.decay if config.decay else config.learning_rate
        )

    def get_state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "values": self.values,
            "visits": np.array(self._visits, np.int64),
            "gain": float(self.gain),
            "random": randomness.capture(self.rng),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave; raises ValueError if it does not fit."""
        require_fitting(self.get_state(), state)
        self.rows, self._visits, self.gain = state["values"].tolist(), state["visits"].tolist(), state["gain"]
        randomness.restore(self.rng, state["random"])


class RVIQLearner(DifferentialQLearner):
    """Action values alone; the gain is a function f of them (Abounadi, Bertsekas and Borkar 2001, equation 2.7)."""

    config: RVIQConfig

    def __init__(self, n_states: int, n_actions: int, config: RVIQConfig, seed: int | None) -> None:
        super().__init__(n_states, n_actions, config, seed)
        self._sum = config.initial_value * n_states * n_actions
        self.gain = self._reference()

    def add(self, state: int, action: int, reward: float, next_state: int) -> None:
        """Learns from a transition."""
        row = self.rows[state]
        step = self._rate(state, action) * (reward - self.gain + max(self.rows[next_state]) - row[action])
        row[action] += step
        self._sum += step
        self.gain = self._reference()

    def _reference(self) -> float:
        if self.config.reference == "pair":
            return self.rows[0][0]
        if self.config.reference == "state":
            return max(self.rows[0])
        return self._sum / (self.n_states * self.n_actions)

    def get_state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {**super().get_state(), "sum": float(self._sum)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave; raises ValueError if it does not fit."""
        super().set_state(state)
        self._sum = state["sum"]


class DifferentialQ(CountedStates):
    """Differential Q-learning (Wan, Naik and Sutton, Learning and planning in average-reward Markov decision processes,
    2021), off-policy control, epsilon-greedy.

    The arguments are those of :class:`rlopt.agents.loop.base.ContinuingAgent`, with the settings of
    :class:`rlopt.agents.loop.baselines.config.DifferentialQConfig`.
    """

    config_class: ClassVar[type[Any]] = DifferentialQConfig
    data: DifferentialQLearner

    def _data_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"values": (self.n_states, self.n_actions)}

    def _begin(self) -> None:
        self.data = DifferentialQLearner(self.n_states, self.n_actions, self.config, self.seed)

    def _act(self, state: int) -> int:
        return self.data.act(state)

    def _greedy(self, state: int) -> int:
        return self.data.greedy(state)


class RVIQ(DifferentialQ):
    """RVI Q-learning (Abounadi, Bertsekas and Borkar, Learning algorithms for Markov decision processes with average
    cost, 2001), epsilon-greedy.

    Arguments as those of :class:`DifferentialQ`; the settings are in
    :class:`rlopt.agents.loop.baselines.config.RVIQConfig`.
    """

    config_class: ClassVar[type[Any]] = RVIQConfig
    data: RVIQLearner

    def _begin(self) -> None:
        self.data = RVIQLearner(self.n_states, self.n_actions, self.config, self.seed)
