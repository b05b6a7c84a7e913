"""Model-based LOOP: likelihood sets of processes, optimistic plans, and lazy switching by total variation."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv

from rlopt.agents.loop.confidence_sets.likelihood import TabularLikelihood
from rlopt.agents.loop.confidence_sets.mixture import MixtureLikelihood
from rlopt.agents.loop.confidence_sets.planner import PlanRecord, Problem
from rlopt.agents.loop.config import MLELOOPConfig
from rlopt.agents.loop.optimism import LazyOptimist
from rlopt.agents.loop.states import CountedStates
from rlopt.average_reward.linear_models import LinearMixtureMDP
from rlopt.average_reward.mdp import Array
from rlopt.errors import ConfigError, ModelError


class MLELOOP(CountedStates, LazyOptimist):
    """MLE-LOOP (He, Zhong and Yang, ICLR 2024, algorithm 2) for finitely many states and actions.

    Acts optimally for the process of the likelihood set with the largest gain that is found, and makes a new plan once
    the total variation between that process and the maximum-likelihood one, summed over the data, has grown to
    3 sqrt(beta t). With ``kernels`` the process is a linear mixture of them; without, any process.

    :param env: an environment that never ends with Discrete observations and actions, or its id
    :param kernels: [d, S, A, S] known kernels whose mixture is to be learnt; None takes those of an environment whose
        ``mdp`` is a :class:`rlopt.average_reward.LinearMixtureMDP`, and is tabular otherwise
    :param rewards: [S, A] known mean rewards, needed with ``kernels``
    :param reward_range: (smallest, largest) reward of a step; None takes it from an environment that knows it
    :param seed: of the environment's first reset; MLE-LOOP itself draws no random numbers

    The other arguments are those of :class:`rlopt.agents.loop.config.MLELOOPConfig`.

    :raises SpaceError: observations or actions are not Discrete, counted from 0
    :raises ModelError: kernels or rewards of the wrong shape, or that are no process
    :raises ConfigError: a setting out of range, or a span or reward range that neither is given nor known
    """

    config_class: ClassVar[type[Any]] = MLELOOPConfig
    data: TabularLikelihood | MixtureLikelihood

    def __init__(
        self,
        env: gymnasium.Env[Any, Any] | VecEnv | str | None,
        kernels: npt.ArrayLike | None = None,
        rewards: npt.ArrayLike | None = None,
        *,
        model: Literal["auto", "tabular", "mixture"] = "auto",
        beta_scale: float = 2e-2,
        span: float | None = None,
        horizon: int | None = None,
        delta: float = 0.05,
        switch_multiplier: float = 3.0,
        tolerance: float = 1e-6,
        max_sweeps: int = 10_000,
        reward_range: tuple[float, float] | None = None,
        seed: int | None = None,
        verbose: int = 0,
        tensorboard_log: str | None = None,
    ) -> None:
        given = locals()
        settings = {field.name: given[field.name] for field in fields(MLELOOPConfig)}
        self.kernels: Array | None = None
        """[d, S, A, S] of a mixture; None for any process."""
        self.rewards: Array | None = None
        super().__init__(env, settings, reward_range, seed, verbose, tensorboard_log)
        if self._stepper is not None and model != "tabular":
            self._set_kernels(kernels, rewards)

    def _set_kernels(self, kernels: npt.ArrayLike | None, rewards: npt.ArrayLike | None) -> None:
        known: Any = getattr(self.process, "mdp", None)
        if kernels is None and hasattr(known, "kernels"):
            kernels, rewards = known.kernels, known.r if rewards is None else rewards
        if kernels is None:
            if self.config.model == "mixture":
                raise ConfigError(
                    "kernels are not given and the environment has none: give [d, S, A, S] and the rewards [S, A], or "
                    "model='tabular'"
                )
            return
        if rewards is None:
            raise ConfigError("rewards are not given: a mixture needs the known mean rewards [S, A] beside its kernels")
        shape = np.shape(kernels)
        wanted = (self.n_states, self.n_actions, self.n_states)
        if len(shape) != 4 or shape[1:] != wanted:
            raise ModelError(f"kernels have shape {shape}: give [d, {', '.join(map(str, wanted))}]")
        weights = np.full(shape[0], 1 / shape[0])
        checked = LinearMixtureMDP.of(kernels, weights, rewards, self.reward_range)
        self.kernels, self.rewards = checked.kernels, np.array(checked.r)

    def _begin(self) -> None:
        """Makes the likelihood set: beta = beta_scale N log(T M / delta), N = M = S A, or d of a mixture."""
        assert self.horizon is not None
        parts = self.n_states * self.n_actions if self.kernels is None else len(self.kernels)
        self.beta = self.config.beta_scale * parts * max(math.log(self.horizon * parts / self.config.delta), 1.0)
        problem: Problem = self._problem()
        if self.kernels is None:
            self.data = TabularLikelihood(self.n_states, self.n_actions, problem)
        else:
            assert self.rewards is not None
            self.data = MixtureLikelihood(self.kernels, self.rewards, problem)

    def _switch(self) -> None:
        certificate = self.data.plan(self.beta)
        self.plans.append(PlanRecord(self.n_transitions, self.data.gain, certificate))

    def _threshold(self) -> float:
        """The total variation at which the plan in force is given up: 3 sqrt(beta t)."""
        multiple: float = self.config.switch_multiplier
        return multiple * math.sqrt(self.beta * max(self.n_transitions, 1))

    def _data_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"transitions": (self.n_states, self.n_actions, self.n_states)}

    def _known_model(self) -> Any:
        return None if self.kernels is None else {"kernels": self.kernels, "rewards": self.rewards}

    def _set_known_model(self, known: Any) -> None:
        if known is not None:
            self.kernels = self.rewards = None
            weights = np.full(len(known["kernels"]), 1 / len(known["kernels"]))
            checked = LinearMixtureMDP.of(known["kernels"], weights, known["rewards"], self.reward_range)
            if checked.P.shape != (self.n_states, self.n_actions, self.n_states):
                raise ValueError("the kernels do not fit the spaces")
            self.kernels, self.rewards = checked.kernels, np.array(checked.r)
