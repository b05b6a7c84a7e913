"""Average-reward policy optimisation as a Stable-Baselines3 algorithm."""

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from rlopt.agents.apo import losses
from rlopt.agents.apo.config import APOConfig
from rlopt.agents.ppo.algorithm import PPO
from rlopt.algorithms.resumable import with_settings_of
from rlopt.errors import ConfigError

_NOT_TAKEN = ("gamma", "reward_centring", "centring_rate")


class APO(PPO):
    """Average-reward policy optimisation (Ma, Tang, Xia, Yang and Zhao, arXiv 2106.03442).

    APO is PPO on advantages of differential values: nothing is discounted, a running average J is subtracted from
    rewards, and the value function is held at an average of zero. It is for continuing processes; a time limit only
    cuts the data. :class:`rlopt.agents.apo.config.APOConfig` declares and explains the settings; the rest is as in
    :class:`rlopt.PPO`.

    :raises ConfigError: for a value outside its range, and from ``learn`` for an episode that terminates with
        ``on_termination="refuse"``
    """

    gain_rate: float
    value_constraint: float
    on_termination: Literal["refuse", "reset"]
    reset_cost: float

    state_attributes: ClassVar[tuple[str, ...]] = (*PPO.state_attributes, "gain", "mean_value")
    gain: float = 0.0
    """J, the running average of the reward a step that the agent sees (normalised with VecNormalize), resets paid."""
    mean_value: float = 0.0
    """The running average of the value function, in units of reward."""

    @with_settings_of(PPO, *_NOT_TAKEN, config=APOConfig)
    def __init__(self, policy: str | type[ActorCriticPolicy], env: GymEnv | str | None, **settings: Any) -> None:
        super().__init__(policy, env, gamma=APOConfig.gamma, **settings)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        going_on = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        if going_on:
            self._count_from_gain(rollout_buffer)
        return going_on

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        super()._update_info_buffer(infos, dones)
        if self._ends[-1].any() and self.on_termination == "refuse":
            raise ConfigError(
                f"an episode terminated at step {self.num_timesteps}, but an average reward needs a process that goes "
                'on: set on_termination="reset" to make the reset a transition with a price (reset_cost)'
            )

    def _count_from_gain(self, buffer: Any) -> None:
        """Puts differential advantages and the value function's targets into the buffer."""
        over, ended = self._ends_of(buffer)
        cut = over * (1 - ended)
        buffer.rewards = buffer.rewards - self.reset_cost * ended
        # The reward of a step at which a time limit cut holds the value behind it.
        average = float(buffer.rewards[cut == 0].mean()) if (cut == 0).any() else self.gain
        rate = max(self.gain_rate, 1 / self._n_rollouts)  # the first estimates are plain means
        self.gain = losses.moved(self.gain, average, rate)
        self.mean_value = losses.moved(self.mean_value, float(buffer.values.mean()), rate)
        with torch.no_grad():
            last_values = self.policy.predict_values(obs_as_tensor(self._last_obs, self.device))  # type: ignore[arg-type]
        buffer.advantages = losses.differential_advantages(
            buffer.rewards,
            buffer.values,
            last_values.flatten().cpu().numpy(),
            cut,
            self.gain,
            gae_lambda=buffer.gae_lambda,
        )
        buffer.returns = buffer.advantages + buffer.values - self.value_constraint * self.mean_value
        self.logger.record("rollout/average_reward", average)
        self.logger.record("train/gain", self.gain)
        self.logger.record("train/mean_value", self.mean_value)
