"""A finite decision process as a Gymnasium environment that knows its exact process."""

import dataclasses
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from rlopt.average_reward.mdp import FiniteMDP
from rlopt.errors import ConfigError, ModelError

METADATA: dict[str, Any] = {"render_modes": []}
"""Metadata of environments that cannot be drawn."""
Outcome = tuple[float, int, float]
"""Probability, next state, reward."""


class FiniteEnv(gymnasium.Env[Any, Any]):
    """Draws the transitions of a finite process; never terminates and never truncates.

    Observation: the state, Discrete(S). Action: Discrete(A). ``mdp`` is the exact process.

    :param outcomes: ``outcomes[state][action]``, the possible outcomes, none if the action is impossible; None takes
        them from ``mdp``, with the expected reward in each step
    :param mdp: None works it out of ``outcomes``
    :param start: the first state, or probabilities [S] of it
    :raises ModelError: if the outcomes are not a process
    """

    metadata: dict[str, Any] = METADATA

    def __init__(
        self,
        outcomes: Sequence[Sequence[Sequence[Outcome]]] | None = None,
        *,
        mdp: FiniteMDP | None = None,
        start: int | npt.ArrayLike = 0,
    ) -> None:
        if outcomes is None:
            if mdp is None:
                raise ModelError("give the outcomes or the mdp")
            outcomes = _outcomes_of(mdp)
        elif mdp is not None:
            mdp = dataclasses.replace(mdp, outcomes=outcomes)
        self.mdp = _mdp_of(outcomes) if mdp is None else mdp
        self.observation_space = spaces.Discrete(self.mdp.n_states)
        self.action_space = spaces.Discrete(self.mdp.n_actions)
        self._rows = [
            [_row(list(action)) for action in [*state, *[[]] * (self.mdp.n_actions - len(state))]] for state in outcomes
        ]
        distribution = np.eye(self.mdp.n_states)[start] if isinstance(start, int) else np.asarray(start, np.float64)
        self._start = _row([(float(p), state, 0.0) for state, p in enumerate(distribution) if p > 0])
        self.state = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        cumulative, states, _ = self._start
        self.state = states[bisect_right(cumulative, self.np_random.random())]
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        actions = self._rows[self.state]
        if not 0 <= action < len(actions):
            raise ConfigError(f"the action is {action!r}: give a whole number from 0 to {len(actions) - 1}")
        cumulative, states, rewards = actions[action]
        if not states:
            raise ConfigError(f"the action {action} is impossible in state {self.state}: take another one")
        index = bisect_right(cumulative, self.np_random.random())
        self.state = states[index]
        return self.state, rewards[index], False, False, {}

    def get_state(self) -> dict[str, Any]:
        """What a run needs to continue exactly, besides ``np_random``."""
        return {"state": self.state}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave.

        :raises rlopt.errors.ConfigError: for a state that there is not
        """
        if type(state["state"]) is not int or not 0 <= state["state"] < self.mdp.n_states:
            raise ConfigError(f"the state is {state['state']!r}: give one from 0 to {self.mdp.n_states - 1}")
        self.state = state["state"]


def _row(outcomes: list[Outcome]) -> tuple[list[float], list[int], list[float]]:
    """The inner borders of the outcomes' shares of [0, 1), with next states and rewards."""
    possible = [outcome for outcome in outcomes if outcome[0] > 0]
    borders = np.cumsum([probability for probability, _, _ in possible])
    return borders[:-1].tolist(), [int(s) for _, s, _ in possible], [float(r) for _, _, r in possible]


def _outcomes_of(mdp: FiniteMDP) -> list[list[list[Outcome]]]:
    return [
        [
            [(float(mdp.P[s, a, t]), int(t), float(mdp.r[s, a])) for t in np.flatnonzero(mdp.P[s, a])]
            for a in range(mdp.n_actions)
        ]
        for s in range(mdp.n_states)
    ]


def _mdp_of(outcomes: Sequence[Sequence[Sequence[Outcome]]]) -> FiniteMDP:
    size, actions = len(outcomes), max(len(state) for state in outcomes)
    P, r = np.zeros((size, actions, size)), np.full((size, actions), -np.inf)
    rewards = [reward for state in outcomes for action in state for _, _, reward in action]
    for s, state in enumerate(outcomes):
        for a, action in enumerate(state):
            r[s, a] = 0.0 if len(action) else -np.inf
            for probability, target, reward in action:
                P[s, a, target] += probability
                r[s, a] += probability * reward
    return FiniteMDP(P, r, (min(rewards), max(rewards)), outcomes)
