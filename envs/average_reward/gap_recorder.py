"""The cost of a run's actions, without the randomness of the process."""

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from rlopt.envs.average_reward.finite import FiniteEnv
from rlopt.errors import ConfigError


class GapRecorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps the action gaps Delta(s, a) = max_b q(s, b) - q(s, a) of the steps of a finite process, q the optimal ones.

    With gain g and bias h of the optimal policy, T g - sum r = sum Delta + h(s_T) - h(s_0) + a martingale (by the
    optimality equation, Puterman 1994, section 8.4): the expected regret is the expectation of this sum up to the span
    of h, and the sum has none of the martingale's variance.

    :param env: a :class:`FiniteEnv`, maybe in wrappers
    :raises rlopt.errors.ConfigError: another one
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        if not isinstance(env.unwrapped, FiniteEnv):
            raise ConfigError(f"{env} knows no exact process: give one of rlopt's finite environments")
        self._process = env.unwrapped
        self._gaps = self._process.mdp.solution.action_gaps
        self._losses: list[float] = []

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        """[n] the gap of each step's action, in units of reward, at least 0."""
        return np.array(self._losses, np.float64)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._losses.append(float(self._gaps[self._process.state, action]))
        return super().step(action)
