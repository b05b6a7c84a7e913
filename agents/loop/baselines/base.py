"""Base class of LOOP's peers whose policy changes only between episodes."""

from typing import Any

import numpy as np

from rlopt.agents.loop.base import ContinuingAgent
from rlopt.agents.loop.confidence_sets.counts import Counts, OptimisticValues, require_actions, require_fitting
from rlopt.agents.loop.contract import Switch


class EpisodeLearner:
    """Counts, and the policy of the episode with the values it came from."""

    def __init__(self, n_states: int, n_actions: int, config: Any, reward_range: tuple[float, float]) -> None:
        self.model, self.config, self.reward_range = Counts(n_states, n_actions), config, reward_range
        self.n_states, self.policy, self.gain = n_states, [0] * n_states, reward_range[1]
        self._values = np.zeros(n_states)

    def _put_in_force(self, found: OptimisticValues) -> None:
        self.policy = found.action_values.argmax(axis=1).tolist()
        self.gain, self._values = found.gain, found.values

    def get_state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        own = {"policy": np.array(self.policy, np.int64), "values": self._values.copy(), "gain": float(self.gain)}
        return self.model.get_state() | own

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave; raises ValueError if it does not fit."""
        require_fitting(self.get_state(), state)
        require_actions(state["policy"], self.model.n_actions)
        self.model.set_state(state)
        self.policy, self.gain, self._values = state["policy"].tolist(), state["gain"], state["values"].copy()


class DoublingLearner(EpisodeLearner):
    """An episode ends where the visits of the next pair have doubled since it began."""

    def __init__(self, n_states: int, n_actions: int, config: Any, reward_range: tuple[float, float]) -> None:
        super().__init__(n_states, n_actions, config, reward_range)
        self._limits = [1.0] * (n_states * n_actions)
        """Visits of each pair at which the episode ends: twice those at its start, at least one."""

    def _put_in_force(self, found: OptimisticValues) -> None:
        super()._put_in_force(found)
        self._limits = [max(2.0 * count, 1.0) for count in self.model.visits]

    def add(self, state: int, action: int, reward: float, next_state: int) -> bool:
        """Takes a transition in; returns whether the episode ends."""
        self.model.add(state, action, reward, next_state)
        pair = next_state * self.model.n_actions + self.policy[next_state]
        return self.model.visits[pair] >= self._limits[pair]

    def get_state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {**super().get_state(), "limits": np.array(self._limits)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave; raises ValueError if it does not fit."""
        super().set_state(state)
        self._limits = state["limits"].tolist()


class Episodic(ContinuingAgent):
    """For agents whose policy changes between episodes alone: ``data.add`` says when one is over."""

    def _plan(self) -> None:
        """Puts the policy of the next episode in force."""
        raise NotImplementedError

    def _start(self) -> None:
        if not self.plans:
            self._switch()

    def _take_in(self, state: int, action: int, reward: float, arrived: int) -> None:
        if self.data.add(state, action, reward, arrived):
            self._switch()

    def _switch(self) -> None:
        self._plan()
        self.plans.append(Switch(self.n_transitions, self.data.gain))
