"""Model-based LOOP: likelihood sets of processes, optimistic plans, and lazy switching by total variation."""

import math
from typing import Any, ClassVar

import gymnasium
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv

from rlopt.agents.loop.confidence_sets.likelihood import TabularLikelihood
from rlopt.agents.loop.confidence_sets.mixture import MixtureLikelihood
from rlopt.agents.loop.confidence_sets.planner import Certificate, Problem
from rlopt.agents.loop.config import MLELOOPConfig
from rlopt.agents.loop.optimism import OptimisticAgent
from rlopt.agents.loop.states import CountedStates
from rlopt.average_reward.linear_models import LinearMixtureMDP
from rlopt.average_reward.mdp import Array
from rlopt.errors import ConfigError, ModelError


class MLELOOP(CountedStates, OptimisticAgent):
    """MLE-LOOP (He, Zhong and Yang, ICLR 2024, algorithm 2) for finitely many states and actions.

    The agent acts optimally for the process with the largest gain that it finds in the likelihood set. It replans once
    the total variation between that process and the maximum-likelihood process, summed over the data, reaches 3
    sqrt(beta t). With ``kernels``, the process is a linear mixture of them; otherwise it may be any process.

    Further arguments and errors are those of :class:`rlopt.agents.loop.base.ContinuingAgent`, the settings those of
    :class:`rlopt.agents.loop.config.MLELOOPConfig`. MLE-LOOP itself draws no random numbers.

    :param kernels: [d, S, A, S] known kernels whose mixture is to be learnt; None takes those of an environment whose
        ``mdp`` is a :class:`rlopt.average_reward.LinearMixtureMDP`, and is tabular otherwise
    :param rewards: [S, A] known mean rewards, needed with ``kernels``
    :raises ModelError: kernels or rewards have the wrong shape or do not form a process
    """

    config_class: ClassVar[type[Any]] = MLELOOPConfig
    data: TabularLikelihood | MixtureLikelihood

    def __init__(
        self,
        env: gymnasium.Env[Any, Any] | VecEnv | str | None,
        kernels: npt.ArrayLike | None = None,
        rewards: npt.ArrayLike | None = None,
        **settings: Any,
    ) -> None:
        self.kernels: Array | None = None
        """[d, S, A, S] of a mixture; None for any process."""
        self.rewards: Array | None = None
        super().__init__(env, **settings)
        if self._stepper is not None and self.config.model != "tabular":
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
            raise ConfigError("rewards are not given: a mixture needs the known mean rewards [S, A] and its kernels")
        shape = np.shape(kernels)
        wanted = (self.n_states, self.n_actions, self.n_states)
        if len(shape) != 4 or shape[1:] != wanted:
            raise ModelError(f"kernels have shape {shape}: give [d, {', '.join(map(str, wanted))}]")
        weights = np.full(shape[0], 1 / shape[0])
        checked = LinearMixtureMDP.of(kernels, weights, rewards, self.reward_range)
        self.kernels, self.rewards = checked.kernels, np.array(checked.r)

    def _complexity(self) -> tuple[int, int]:
        parts = self.n_states * self.n_actions if self.kernels is None else len(self.kernels)
        return parts, parts

    def _radius(self) -> float:
        """beta = beta_scale N log(T N / delta), N = S A, or d of a mixture."""
        return self._scale() * self._complexity()[0] * self._logarithm()

    def _make_set(self, problem: Problem) -> TabularLikelihood | MixtureLikelihood:
        if self.kernels is None:
            return TabularLikelihood(self.n_states, self.n_actions, problem)
        assert self.rewards is not None
        return MixtureLikelihood(self.kernels, self.rewards, problem)

    def _plan(self) -> Certificate:
        return self.data.plan(self.beta)

    def _threshold(self) -> float:
        """The total variation at which the plan in force is given up: 3 sqrt(beta t)."""
        multiple: float = self.config.switch_multiplier
        return multiple * math.sqrt(self.beta * max(self.n_transitions, 1))

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
