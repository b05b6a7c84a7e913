"""LOOP with values linear in features of state and action."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from rlopt.agents.loop.algorithm import LazyOptimist
from rlopt.agents.loop.config import LinearLOOPConfig, LOOPConfig
from rlopt.agents.loop.linear import LinearSet
from rlopt.agents.loop.planner import Problem
from rlopt.average_reward.linear_models import check_feature_norms
from rlopt.average_reward.mdp import Array
from rlopt.errors import ConfigError, ModelError, SpaceError
from rlopt.space_checks import check_counted_from_zero

FeatureMap = Callable[[Any], npt.ArrayLike] | npt.ArrayLike
"""An observation to the features [A, d] of its actions; or a table [S, A, d] for Discrete observations."""


class LinearLOOP(LazyOptimist):
    """Value-based LOOP with values linear in features phi(s, a), for finitely many actions.

    The confidence set is that of FOPO (Wei, Jafarnia-Jahromi, Luo and Jain 2021), the rule for replanning LOOP's. A
    step costs O(d^2); a plan some hundred sweeps over the states visited so far, so that with observations that do not
    come again its cost grows with the steps.

    :param env: an environment that never ends with Discrete actions, or its id; any observations
    :param feature_map: None takes the features of an environment that knows them (``mdp.features``)
    :param reward_range: (smallest, largest) reward of a step; None takes it from an environment that knows it
    :param seed: of the environment's first reset; LOOP itself draws no random numbers

    The other arguments are those of :class:`rlopt.agents.loop.config.LinearLOOPConfig`.

    :raises ModelError: features of the wrong shape, not finite, or of norm above sqrt 2
    :raises SpaceError: actions are not Discrete, counted from 0
    :raises ConfigError: a setting out of range, or a span, reward range or features neither given nor known
    """

    config_class: ClassVar[type[LOOPConfig]] = LinearLOOPConfig
    data: LinearSet
    config: LinearLOOPConfig

    def __init__(
        self,
        env: gymnasium.Env[Any, Any] | VecEnv | str | None,
        feature_map: FeatureMap | None = None,
        *,
        planner: Literal["bonus", "ellipsoid"] = "bonus",
        beta_scale: float = 1e-3,
        span: float | None = None,
        horizon: int | None = None,
        delta: float = 0.05,
        switch_multiplier: float = 4.0,
        tolerance: float = 1e-6,
        max_sweeps: int = 10_000,
        ridge: float | None = None,
        reward_range: tuple[float, float] | None = None,
        seed: int | None = None,
        verbose: int = 0,
        tensorboard_log: str | None = None,
    ) -> None:
        given = locals()
        settings = {field.name: given[field.name] for field in fields(LinearLOOPConfig)}
        self._rows: dict[int, int] = {}
        self.feature_map: FeatureMap | None = feature_map
        super().__init__(env, settings, reward_range, seed, verbose, tensorboard_log)
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
                "features [A, d] of its actions, or a table [S, A, d]"
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
            raise SpaceError(f"the action space is {action_space}, but LinearLOOP compares actions: make it Discrete")
        check_counted_from_zero(action_space, "the action space")
        check_counted_from_zero(observation_space, "the observation space")

    def _complexity(self) -> tuple[int, int]:
        return self.dimension, self.dimension

    def _make_set(self, problem: Problem, local_beta: float) -> LinearSet:
        # The regularisation that lets weights reach what a residual can be, for features of norm 1, and no more.
        ridge = self.config.ridge or local_beta / problem.largest_residual**2
        return LinearSet(self.dimension, int(self.action_space.n), problem, ridge)  # type: ignore[attr-defined]

    def _arrive(self, observation: Any) -> int:
        if not isinstance(self.observation_space, spaces.Discrete):
            return self.data.add_state(self._features(observation))
        row = self._rows.get(int(observation))
        if row is None:
            row = self._rows[int(observation)] = self.data.add_state(self._features(observation))
        return row

    def _left(self, state: int) -> None:
        if not isinstance(self.observation_space, spaces.Discrete):
            self.data.forget(state)

    def _greedy(self, state: int) -> int:
        return self.data.evaluate(state).action

    def _greedy_of(self, observation: Any) -> int:
        if not self.observation_space.contains(observation if np.ndim(observation) else np.asarray(observation)):
            raise SpaceError(f"the observation {observation} is not in {self.observation_space}")
        return self.data.evaluate_features(self._features(observation)).action
