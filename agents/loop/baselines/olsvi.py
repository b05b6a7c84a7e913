"""OLSVI.FH: optimistic least-squares value iteration over a fixed horizon, restarted without a reset."""

import math
from typing import Any, ClassVar

import numpy as np

from rlopt.agents.loop.baselines.base import Episodic
from rlopt.agents.loop.baselines.config import OLSVIFHConfig
from rlopt.agents.loop.confidence_sets.counts import require_fitting
from rlopt.agents.loop.confidence_sets.growing import GrowingArray
from rlopt.agents.loop.states import FeatureStates
from rlopt.average_reward.mdp import Array


class OLSVILearner:
    """Ridge regression of r + V_{h+1} on features for each step h of an episode, with elliptical bonuses.

    :param dimension: d
    :param n_actions: A
    :param episode_length: H
    :param bonus: beta, times the norm of phi in the inverse Gram matrix
    :param largest_reward: no value of step h exceeds this times the steps that remain
    """

    def __init__(
        self, dimension: int, n_actions: int, episode_length: int, bonus: float, ridge: float, largest_reward: float
    ) -> None:
        self.dimension, self.n_actions, self.length = dimension, n_actions, episode_length
        self.bonus, self.ridge, self.largest_reward = bonus, ridge, largest_reward
        self._support = GrowingArray((n_actions, dimension), np.float64)
        self._into = GrowingArray((dimension,), np.float64)
        """For each state seen, the sum of the features that led to it."""
        self._gram, self._reward_features = np.zeros((dimension, dimension)), np.zeros(dimension)
        self._inverse = np.eye(dimension) / ridge
        """At the last plan."""
        self._weights = np.zeros((episode_length, dimension))
        self.position = 0
        """h, steps of the episode so far."""
        self.gain = largest_reward

    @property
    def n_states(self) -> int:
        """K, states with a row of features."""
        return len(self._support)

    def add_state(self, features: Array) -> int:
        """Takes the features [A, d] of a state that has no row yet; returns its row."""
        self._into.append(np.zeros(self.dimension))
        return self._support.append(features)

    def action_values(self, features: Array, step: int) -> Array:
        """[..., A], Q_h of states given by the features [..., A, d] of their actions, for h = ``step`` from 0."""
        square = np.einsum("...i,ij,...j->...", features, self._inverse, features)
        values = features @ self._weights[step] + self.bonus * np.sqrt(np.maximum(square, 0.0))
        return np.asarray(np.minimum(values, self.largest_reward * (self.length - step)), np.float64)

    def act(self, row: int) -> int:
        """The best action in a state of the support at the present step of the episode."""
        return int(self.action_values(self._support.rows[row], self.position).argmax())

    def add(self, row: int, action: int, reward: float, next_row: int) -> bool:
        """Takes a transition in; returns whether the episode is over."""
        features = self._support.rows[row, action]
        self._gram += np.outer(features, features)
        self._reward_features += reward * features
        self._into.rows[next_row] += features
        self.position += 1
        return self.position == self.length

    def plan(self) -> None:
        """Begins an episode: backward from its last step, all transitions so far in every regression."""
        self.position = 0
        self._inverse = np.asarray(np.linalg.inv(self._gram + self.ridge * np.eye(self.dimension)), np.float64)
        support, into = self._support.rows, self._into.rows
        square = np.einsum("kai,ij,kaj->ka", support, self._inverse, support, optimize=True)
        widths = self.bonus * np.sqrt(np.maximum(square, 0.0))
        values: Array = np.zeros(len(support))
        for step in range(self.length - 1, -1, -1):
            self._weights[step] = self._inverse @ (self._reward_features + values @ into)
            capped = np.minimum(support @ self._weights[step] + widths, self.largest_reward * (self.length - step))
            values = np.asarray(capped.max(axis=1), np.float64)
        self.gain = float(values.min(initial=self.largest_reward * self.length)) / self.length

    def get_state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "support": self._support.rows.copy(),
            "into": self._into.rows.copy(),
            "gram": self._gram.copy(),
            "reward_features": self._reward_features.copy(),
            "inverse": self._inverse.copy(),
            "weights": self._weights.copy(),
            "position": self.position,
            "gain": float(self.gain),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave; raises ValueError if it does not fit."""
        own = self.get_state()
        rows = len(state["support"])
        own["support"], own["into"] = np.zeros((rows, *own["support"].shape[1:])), np.zeros((rows, self.dimension))
        require_fitting(own, state)
        if not 0 <= state["position"] < self.length:
            raise ValueError("the step of the episode is not in it")
        self._support.replace(state["support"])
        self._into.replace(state["into"])
        self._gram, self._reward_features = state["gram"].copy(), state["reward_features"].copy()
        self._inverse, self._weights = state["inverse"].copy(), state["weights"].copy()
        self.position, self.gain = state["position"], state["gain"]


class OLSVIFH(Episodic, FeatureStates):
    """OLSVI.FH (Wei, Jafarnia-Jahromi, Luo and Jain, Learning infinite-horizon average-reward MDPs with linear function
    approximation, 2021, algorithm 2): LSVI-UCB in episodes of a fixed length, one after the other without a reset.

    Its policy depends on the step of the episode; ``predict`` gives the actions of the first step, which look furthest.

    :param env: an environment that never ends with Discrete actions, or its id; any observations
    :param feature_map: None takes the features of an environment that knows them (``mdp.features``)
    :param reward_range: (smallest, largest) reward of a step; None takes it from an environment that knows it
    :param seed: seed of the environment's first reset; the algorithm itself draws no random numbers
    :param settings: see :class:`rlopt.agents.loop.baselines.config.OLSVIFHConfig`
    """

    config_class: ClassVar[type[Any]] = OLSVIFHConfig
    data: OLSVILearner

    def _data_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"gram": (self.dimension, self.dimension), "weights": (self.config.episode_length, self.dimension)}

    def _begin(self) -> None:
        config, d = self.config, self.dimension
        assert self.horizon is not None
        low, high = self.reward_range
        logarithm = math.log(2 * d * self.horizon / config.delta)
        bonus = config.bonus_scale * d * config.episode_length * (high - low) * math.sqrt(logarithm)
        actions = int(self.action_space.n)  # type: ignore[attr-defined]
        self.data = OLSVILearner(d, actions, config.episode_length, bonus, config.ridge, high)

    def _act(self, state: int) -> int:
        return self.data.act(state)

    def _greedy_of(self, observation: Any) -> int:
        self._check_observation(observation)
        return int(self.data.action_values(self._features(observation), 0).argmax())

    def _plan(self) -> None:
        self.data.plan()
