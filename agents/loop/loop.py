"""LOOP on finitely many states and actions."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from rlopt.agents.loop.algorithm import LazyOptimist
from rlopt.agents.loop.config import LOOPConfig
from rlopt.agents.loop.planner import Problem
from rlopt.agents.loop.tabular import TabularSet
from rlopt.errors import ConfigError, SpaceError
from rlopt.space_checks import check_counted_from_zero

MAX_COUNTS = 200_000_000
"""Entries of the table of counts, S * A * S: 1.6 GB."""


class LOOP(LazyOptimist):
    """Value-based LOOP (He, Zhong and Yang, ICLR 2024, algorithm 1) for finitely many states and actions.

    Acts greedily on an optimistic plan of a confidence set and makes a new plan only when the squared Bellman error of
    the present one has grown to four times the radius of the set. A step costs constant time.

    :param env: an environment that never ends with Discrete observations and actions, or its id
    :param reward_range: (smallest, largest) reward of a step; None takes it from an environment that knows it
    :param seed: of the environment's first reset; LOOP itself draws no random numbers
    :param tensorboard_log: folder of TensorBoard events

    The other arguments are those of :class:`rlopt.agents.loop.config.LOOPConfig`.

    :raises SpaceError: observations or actions are not Discrete, counted from 0
    :raises ConfigError: a setting out of range, or a span or reward range that neither is given nor known
    """

    config_class: ClassVar[type[LOOPConfig]] = LOOPConfig
    data: TabularSet

    def __init__(
        self,
        env: gymnasium.Env[Any, Any] | VecEnv | str | None,
        *,
        planner: Literal["bonus", "ellipsoid"] = "bonus",
        beta_scale: float = 1e-3,
        span: float | None = None,
        horizon: int | None = None,
        delta: float = 0.05,
        switch_multiplier: float = 4.0,
        tolerance: float = 1e-6,
        max_sweeps: int = 10_000,
        reward_range: tuple[float, float] | None = None,
        seed: int | None = None,
        verbose: int = 0,
        tensorboard_log: str | None = None,
    ) -> None:
        given = locals()
        settings = {field.name: given[field.name] for field in fields(LOOPConfig)}
        super().__init__(env, settings, reward_range, seed, verbose, tensorboard_log)

    def _check_spaces(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        for what, space in (("the observation space", observation_space), ("the action space", action_space)):
            if not isinstance(space, spaces.Discrete):
                raise SpaceError(
                    f"{what} is {space}, but LOOP counts: use Discrete spaces, or LinearLOOP with features"
                )
            check_counted_from_zero(space, what)
        states, actions = int(observation_space.n), int(action_space.n)  # type: ignore[attr-defined]
        if states * actions * states > MAX_COUNTS:
            raise ConfigError(
                f"{states} states and {actions} actions are too many to count: use LinearLOOP with features"
            )

    def _complexity(self) -> tuple[int, int]:
        pairs = int(self.observation_space.n) * int(self.action_space.n)  # type: ignore[attr-defined]
        return pairs, pairs

    def _make_set(self, problem: Problem, local_beta: float) -> TabularSet:
        return TabularSet(self.observation_space.n, self.action_space.n, problem)  # type: ignore[attr-defined]

    def _arrive(self, observation: Any) -> int:
        return int(observation)

    def _greedy(self, state: int) -> int:
        return self.data.policy[state]

    def _greedy_of(self, observation: Any) -> int:
        if not self.observation_space.contains(np.asarray(observation)):
            raise SpaceError(f"the observation {observation} is not in {self.observation_space}")
        return self.data.policy[int(observation)]

    @property
    def policy(self) -> np.ndarray:
        """[S] the greedy actions of the plan in force."""
        return np.array(self.data.policy, np.int64)
