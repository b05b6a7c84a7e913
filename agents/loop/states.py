"""How observations become the states of a learner: counted (Discrete), or known by features of their actions."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from rlopt.agents.loop.base import ContinuingAgent
from rlopt.algorithms.arguments import check_counted_from_zero
from rlopt.average_reward.linear_models import check_feature_norms
from rlopt.average_reward.mdp import Array
from rlopt.errors import ConfigError, ModelError, SpaceError

MAX_COUNTS = 200_000_000
"""Entries of the table of counts, S * A * S: 1.6 GB."""
FeatureMap = Callable[[Any], npt.ArrayLike] | npt.ArrayLike
"""An observation to the features [A, d] of its actions; or a table [S, A, d] for Discrete observations."""


class CountedStates(ContinuingAgent):
    """For agents whose observations and actions are Discrete; the learner has a ``policy`` of S actions."""

    def _check_spaces(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        for what, space in (("the observation space", observation_space), ("the action space", action_space)):
            if not isinstance(space, spaces.Discrete):
                name = type(self).__name__
                raise SpaceError(
                    f"{what} is {space}, but {name} counts: use Discrete spaces, or LinearLOOP with features"
                )
            check_counted_from_zero(space, what)
        states, actions = int(observation_space.n), int(action_space.n)  # type: ignore[attr-defined]
        if states * actions * states > MAX_COUNTS:
            raise ConfigError(
                f"{states} states and {actions} actions are too many to count: use LinearLOOP with features"
            )

    @property
    def n_states(self) -> int:
        """S."""
        return int(self.observation_space.n)  # type: ignore[attr-defined]

    @property
    def n_actions(self) -> int:
        """A."""
        return int(self.action_space.n)  # type: ignore[attr-defined]

    def _data_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"transitions": (self.n_states, self.n_actions, self.n_states)}

    def _arrive(self, observation: Any) -> int:
        return int(observation)

    def _greedy(self, state: int) -> int:
        action: int = self.data.policy[state]
        return action

    def _greedy_of(self, observation: Any) -> int:
        if not self.observation_space.contains(np.asarray(observation)):
            raise SpaceError(f"the observation {observation} is not in {self.observation_space}")
        return self._greedy(int(observation))

    @property
    def policy(self) -> np.ndarray:
        """[S] the greedy actions."""
        return np.array([self._greedy(state) for state in range(self.n_states)], np.int64)


class FeatureStates(ContinuingAgent):
    """For agents that know a state by the features of its actions; the learner keeps a row for each state seen."""

    feature_map: FeatureMap | None
    dimension: int
    _rows: dict[int, int]

    def __init__(
        self, env: gymnasium.Env[Any, Any] | VecEnv | str | None, feature_map: FeatureMap | None = None, **settings: Any
    ) -> None:
        self._rows, self.feature_map = {}, feature_map
        super().__init__(env, **settings)
        if self._stepper is not None:
            self.feature_map = self._known_features(feature_map)
            self.dimension = self._features(self._some_observation()).shape[1]

    def _known_features(self, given: FeatureMap | None) -> FeatureMap:
        assert self._stepper is not None
        if given is None:
            given = getattr(getattr(self._stepper.process, "mdp", None), "features", None)
        if given is None:
            raise ConfigError(
                "feature_map is not given and the environment has none: give a function from an observation to the "
                "features [A, d] of its actions, or a table [S, A, d]; or take an environment that has them, such as "
                "rlopt/AggregatedRiverSwim-v0"
            )
        if callable(given):
            return given
        table = np.array(given, np.float64)
        space = self.observation_space
        if not isinstance(space, spaces.Discrete):
            raise ModelError(f"a table of features needs Discrete observations, not {space}: give a function")
        if table.ndim != 3 or table.shape[:2] != (space.n, self.action_space.n):  # type: ignore[attr-defined]
            raise ModelError(
                f"the features have shape {table.shape}: give [{space.n}, {self.action_space.n}, d]"  # type: ignore[attr-defined]
            )
        check_feature_norms(table)
        return table

    def _some_observation(self) -> Any:
        space = self.observation_space
        if isinstance(space, spaces.Box):
            return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
        return 0 if isinstance(space, spaces.Discrete) else space.sample()

    def _features(self, observation: Any) -> Array:
        """[A, d], checked."""
        if not callable(self.feature_map):
            table: Array = self.feature_map[int(observation)]  # type: ignore[index,assignment]
            return table
        features = np.array(self.feature_map(observation), np.float64)
        actions = int(self.action_space.n)  # type: ignore[attr-defined]
        if features.ndim != 2 or features.shape != (actions, getattr(self, "dimension", features.shape[-1])):
            wanted = f"[{actions}, {getattr(self, 'dimension', 'd')}]"
            raise ModelError(
                f"the feature map gives shape {features.shape}: it must give {wanted} for every observation"
            )
        check_feature_norms(features)
        return features

    def _check_spaces(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        if not isinstance(action_space, spaces.Discrete):
            name = type(self).__name__
            raise SpaceError(f"the action space is {action_space}, but {name} compares actions: make it Discrete")
        check_counted_from_zero(action_space, "the action space")
        check_counted_from_zero(observation_space, "the observation space")

    def _arrive(self, observation: Any) -> int:
        if not isinstance(self.observation_space, spaces.Discrete):
            return int(self.data.add_state(self._features(observation)))
        row = self._rows.get(int(observation))
        if row is None:
            row = self._rows[int(observation)] = self.data.add_state(self._features(observation))
        return row

    def _check_observation(self, observation: Any) -> None:
        if not self.observation_space.contains(observation if np.ndim(observation) else np.asarray(observation)):
            raise SpaceError(f"the observation {observation} is not in {self.observation_space}")
