"""IMED-RL: takes in every state the action whose data contradict least that it is the best."""

import math
from typing import Any, ClassVar

import numpy as np

from rlopt.agents.loop.baselines.config import IMEDRLConfig
from rlopt.agents.loop.confidence_sets.outcomes import Outcomes, pair_divergence, tilted_divergence
from rlopt.agents.loop.contract import Switch
from rlopt.agents.loop.states import CountedStates
from rlopt.average_reward.mdp import Array

ROUNDS = 100
"""Of policy iteration, which starts from the last policy: one is usual."""
ROUNDING = 1e-9
"""An index that is larger than another by this share of it is larger beyond all rounding."""


class IMEDRLLearner(Outcomes):
    """Outcomes, the empirical process with its best bias, and the indices.

    The empirical process has one visit to each pair besides the observed ones, which pays the middle of the range of
    rewards and leads to every state alike, as in the authors' program: it has one recurrent class.
    """

    def __init__(self, n_states: int, n_actions: int, reward_range: tuple[float, float]) -> None:
        super().__init__(n_states, n_actions, reward_range)
        self.gain = sum(reward_range) / 2
        self._kernel = np.full((n_states, n_actions, n_states), 1.0 / n_states)
        self._rewards = np.full((n_states, n_actions), self.gain)
        self._counts = np.zeros((n_states, n_actions))
        self._skeleton = np.ones((n_states, n_actions), bool)
        self._bias = np.zeros(n_states)
        self.policy = [0] * n_states
        self._solved_for: list[int] | None = None
        """The policy whose bias is at hand; None once one of its pairs was visited."""
        self._tilts = [0.5] * (n_states * n_actions)
        """[S A] where each pair's divergence was found last: a bound of the next one."""

    def add(self, state: int, action: int, reward: float, next_state: int) -> None:
        """Takes a transition in."""
        super().add(state, action, reward, next_state)
        self._counts[state, action] += 1
        weight = 1.0 / (self._counts[state, action] + 1.0)
        row = self._kernel[state, action]
        row *= 1.0 - weight
        row[next_state] += weight
        self._rewards[state, action] += weight * (reward - self._rewards[state, action])
        visits = self._counts[state]
        self._skeleton[state] = visits >= math.log(max(float(visits.max()), 1.0)) ** 2
        if self._solved_for and self._solved_for[state] == action:
            self._solved_for = None

    def solve(self) -> Array:
        """[S] the best bias of the empirical process, of the actions with at least log^2 of a state's most visits."""
        states = len(self._bias)
        rows = np.arange(states)
        policy = np.array(self.policy)
        kept = self._skeleton[rows, policy]
        if not kept.all():
            policy = np.where(kept, policy, self._skeleton.argmax(axis=1))
        for _ in range(ROUNDS):
            listed = policy.tolist()
            if listed != self._solved_for:
                matrix = np.eye(states) - self._kernel[rows, policy]
                matrix[:, 0] = 1.0
                solved = np.linalg.solve(matrix, self._rewards[rows, policy])
                self.gain, solved[0] = float(solved[0]), 0.0
                self._bias, self._solved_for = np.asarray(solved, np.float64), listed
            values = np.where(self._skeleton, self._rewards + self._kernel @ self._bias, -np.inf)
            margin = 1e-9 * (1.0 + float(self._bias.max() - self._bias.min()))
            good = values[rows, policy] >= values.max(axis=1) - margin
            if good.all():
                break
            policy = np.where(good, policy, values.argmax(axis=1))
        self.policy = policy.tolist()
        return self._bias

    def indices(self, state: int) -> list[float]:
        """[A] N K_inf + log N of each action of ``state``, all tried; K_inf to the largest mean of r + bias(s').

        Those that are surely not the smallest are infinite.
        """
        bias = self._bias.tolist()
        top = self.reward_range[1] + max(bias)
        largest = min(float((self._rewards[state] + self._kernel[state] @ self._bias).max()), top)
        found, smallest = [math.inf] * self.n_actions, math.inf
        # The best action, whose index is usually the smallest, comes first.
        for action in sorted(range(self.n_actions), key=lambda action: action != self.policy[state]):
            pair = state * self.n_actions + action
            visits, row = self.visits[pair], self.row(pair, bias)
            enough = (smallest + ROUNDING * (1.0 + smallest) - math.log(visits)) / visits
            if tilted_divergence(*row, top, largest, self._tilts[pair]) <= enough:
                apart, self._tilts[pair] = pair_divergence(*row, top, largest)
                found[action] = visits * apart + math.log(visits)
                smallest = min(smallest, found[action])
        return found

    def act(self, state: int) -> int:
        """The action that was tried least while one was not tried, else that of the smallest index."""
        visits = self._counts[state]
        if visits.min() == 0:
            return int(visits.argmin())
        self.solve()
        indices = self.indices(state)
        return indices.index(min(indices))

    def get_state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            **super().get_state(),
            "kernel": self._kernel.copy(),
            "rewards": self._rewards.copy(),
            "counts": self._counts.copy(),
            "skeleton": self._skeleton.astype(np.int64),
            "bias": self._bias.copy(),
            "policy": np.array(self.policy, np.int64),
            "gain": float(self.gain),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave; raises ValueError if it does not fit."""
        super().set_state(state)
        if not np.array_equal(np.array(self.visits), state["counts"].reshape(-1)):
            raise ValueError("the visits do not add up")
        self._kernel, self._rewards = state["kernel"].copy(), state["rewards"].copy()
        self._counts, self._bias = state["counts"].copy(), state["bias"].copy()
        self._skeleton, self.policy = state["skeleton"] != 0, state["policy"].tolist()
        self.gain, self._solved_for = state["gain"], None


class IMEDRL(CountedStates):
    """IMED-RL (Pesquerel and Maillard, IMED-RL: Regret optimal learning of ergodic Markov decision processes, 2022).

    A switch is a change of the best policy of the empirical process; the actions follow indices of their own.

    The arguments are those of :class:`rlopt.agents.loop.base.ContinuingAgent`; there are no settings.
    """

    config_class: ClassVar[type[Any]] = IMEDRLConfig
    data: IMEDRLLearner

    def _data_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"kernel": (self.n_states, self.n_actions, self.n_states)}

    def _begin(self) -> None:
        self.data = IMEDRLLearner(self.n_states, self.n_actions, self.reward_range)

    def _start(self) -> None:
        if not self.plans:
            self.plans.append(Switch(self.n_transitions, float(self.data.gain)))

    def _act(self, state: int) -> int:
        before = self.data.policy
        action = self.data.act(state)
        if self.data.policy != before:
            self.plans.append(Switch(self.n_transitions, float(self.data.gain)))
        return action
