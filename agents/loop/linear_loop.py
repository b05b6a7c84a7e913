"""LOOP with values linear in features of state and action."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar, Literal

import gymnasium
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from rlopt.agents.loop.confidence_sets.linear import LinearSet
from rlopt.agents.loop.confidence_sets.planner import Problem
from rlopt.agents.loop.config import LinearLOOPConfig, LOOPConfig
from rlopt.agents.loop.optimism import LazyOptimist
from rlopt.agents.loop.states import FeatureMap, FeatureStates


class LinearLOOP(FeatureStates, LazyOptimist):
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
        self._begin_features(feature_map)

    def _complexity(self) -> tuple[int, int]:
        return self.dimension, self.dimension

    def _data_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"inverse": (self.dimension, self.dimension)}

    def _make_set(self, problem: Problem, local_beta: float) -> LinearSet:
        # The regularisation that lets weights reach what a residual can be, for features of norm 1, and no more.
        ridge = self.config.ridge or local_beta / problem.largest_residual**2
        return LinearSet(self.dimension, int(self.action_space.n), problem, ridge)  # type: ignore[attr-defined]

    def _left(self, state: int) -> None:
        if not isinstance(self.observation_space, spaces.Discrete):
            self.data.forget(state)

    def _greedy(self, state: int) -> int:
        return self.data.evaluate(state).action

    def _greedy_of(self, observation: Any) -> int:
        self._check_observation(observation)
        return self.data.evaluate_features(self._features(observation)).action
