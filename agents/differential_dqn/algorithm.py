"""Differential DQN as a Stable-Baselines3 algorithm."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.dqn.policies import DQNPolicy
from torch import Tensor

from rlopt.agents.differential_dqn import losses
from rlopt.agents.differential_dqn.config import DifferentialDQNConfig
from rlopt.agents.sac.average_reward import AverageReward
from rlopt.agents.sac.batch import Batch
from rlopt.agents.sac.losses import Info
from rlopt.agents.sac.q_learning import QLearning
from rlopt.algorithms.resumable import with_settings_of
from rlopt.errors import ConfigError
from rlopt.optim.descent import Network, Networks, Part, Scalar


class DifferentialDQN(AverageReward, QLearning):
    """Deep Q-learning for the average reward: Q(s, a) = r - J + max Q(s', .), with a learned gain J.

    It combines tabular differential Q-learning (Wan, Naik and Sutton, arXiv 2006.16318) or relative value iteration
    with the networks, the replay buffer and the epsilon-greedy exploration of DQN (Mnih et al., 2015). It is for
    continuing processes; learning bootstraps beyond time limits.
    :class:`rlopt.agents.differential_dqn.config.DifferentialDQNConfig` declares and explains the settings. Everything
    that works with :class:`stable_baselines3.DQN` works here, except ``gamma``, ``n_steps`` and copies of the whole
    network.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a :class:`DQNPolicy` class
    :param env: an environment, a VecEnv or an id, with a Discrete action space
    :raises rlopt.errors.ConfigError: for a setting out of range, for VecNormalize with ``norm_reward``, and from
        ``learn`` for an episode that terminates with ``on_termination="refuse"``
    :raises rlopt.errors.SpaceError: for spaces that cannot be used
    :raises rlopt.errors.NonFiniteError: from ``learn``, for a NaN or infinite observation, reward or loss
    """

    for_real_actions: ClassVar[str] = "rlopt.DeepLOOP or rlopt.APO"
    state_attributes: ClassVar[tuple[str, ...]] = ("exploration_rate",)
    elsewhere: ClassVar[Mapping[str, str]] = {
        "gamma": "nothing is discounted: stable_baselines3.DQN learns discounted values",
        "n_steps": "targets are of one step",
        "ent_coef": "it explores with exploration_final_eps; ent_coef is rlopt.SAC's",
    }
    gain_estimator: Literal["rvi", "td"]
    double_q: bool
    reset_cost: float

    @with_settings_of(QLearning, config=DifferentialDQNConfig)
    def __init__(self, policy: str | type[DQNPolicy], env: GymEnv | str | None, **settings: Any) -> None:
        super().__init__(policy, env, gamma=DifferentialDQNConfig.gamma, **settings)
        del self.constructor_settings["gamma"]

    # ---- the gradient step

    def networks(self) -> dict[str, Part]:
        """The Q network, its target network, and the gain."""
        return super().networks() | {"numbers": Part(tensors={"gain": self.gain})}

    def gradient_step(
        self,
        networks: Networks,
        batch: Batch,
        drawn: Mapping[str, Tensor],
        scalars: Mapping[str, Scalar],
        move_targets: bool,
    ) -> Info:
        return self.move_gain(networks, super().gradient_step(networks, batch, drawn, scalars, move_targets))

    def q_objective(self, q_net: Network, networks: Networks, batch: Batch) -> tuple[Tensor, Info]:
        """The loss of the Q network, a scalar, and statistics with ``gain_estimate`` among them."""
        with torch.no_grad():
            next_target_q = networks["q_net_target"](batch.next_observations)
            next_online_q = q_net(batch.next_observations) if self.double_q else None
        return losses.differential_q_loss(
            q_net(batch.observations),
            batch.actions,
            batch.rewards - self.reset_cost * (1 - batch.discounts),  # a discount of 0 says that a reset was on the way
            next_target_q,
            next_online_q,
            networks["numbers"]["gain"],
            rvi=self.gain_estimator == "rvi",
        )

    # ---- acting and storing

    def _on_step(self) -> None:
        self.exploration_rate = self.exploration_schedule(self._current_progress_remaining)
        self.logger.record("rollout/exploration_rate", self.exploration_rate)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.num_timesteps < learning_starts:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        assert self._last_obs is not None
        actions, _ = self.policy.predict(self._last_obs, deterministic=True)
        for index in np.flatnonzero(np.random.rand(n_envs) < self.exploration_rate):
            actions[index] = self.action_space.sample()
        return actions, actions

    def check_normalization(self, wrapper: VecNormalize) -> None:
        if wrapper.norm_reward:
            raise ConfigError(
                "DifferentialDQN takes no VecNormalize with norm_reward: the gain is in units of the environment's "
                "reward; leave out normalize_rewards"
            )
