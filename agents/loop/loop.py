"""LOOP on finitely many states and actions."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar, Literal

import gymnasium
from stable_baselines3.common.vec_env import VecEnv

from rlopt.agents.loop.confidence_sets.planner import Problem
from rlopt.agents.loop.confidence_sets.tabular import TabularSet
from rlopt.agents.loop.config import LOOPConfig
from rlopt.agents.loop.optimism import LazyOptimist
from rlopt.agents.loop.states import CountedStates


class LOOP(CountedStates, LazyOptimist):
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

    def _complexity(self) -> tuple[int, int]:
        return self.n_states * self.n_actions, self.n_states * self.n_actions

    def _data_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"transitions": (self.n_states, self.n_actions, self.n_states)}

    def _make_set(self, problem: Problem, local_beta: float) -> TabularSet:
        return TabularSet(self.n_states, self.n_actions, problem)
