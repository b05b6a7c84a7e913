"""What the peers of LOOP share: a constructor whose settings are those of the config, and episodes."""

from __future__ import annotations

from typing import Any

import gymnasium
from stable_baselines3.common.vec_env import VecEnv

from rlopt.agents.loop.base import ContinuingAgent
from rlopt.agents.loop.contract import Switch


class Peer(ContinuingAgent):
    """An agent whose settings are keyword arguments, checked against its config class.

    :param env: an environment that never ends with Discrete actions, or its id; most want Discrete observations
    :param reward_range: (smallest, largest) reward of a step; None takes it from an environment that knows it
    :param seed: of the environment's first reset and of what the agent draws
    :param settings: see the config class
    :raises ConfigError: a setting that does not exist or is out of range, or a reward range neither given nor known
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any] | VecEnv | str | None,
        *,
        reward_range: tuple[float, float] | None = None,
        seed: int | None = None,
        verbose: int = 0,
        tensorboard_log: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(env, settings, reward_range, seed, verbose, tensorboard_log)


class Episodic(ContinuingAgent):
    """For agents whose policy changes between episodes alone: ``data.add`` says when one is over."""

    def _plan(self) -> None:
        """Puts the policy of the next episode in force."""
        raise NotImplementedError

    def _start(self) -> None:
        if not self.plans:
            self._switch()

    def _take_in(self, state: int, action: int, reward: float, arrived: int) -> None:
        if self.data.add(state, action, reward, arrived):
            self._switch()

    def _switch(self) -> None:
        self._plan()
        self.plans.append(Switch(self.n_transitions, self.data.gain))
