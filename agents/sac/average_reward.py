"""Learners of the average reward from replay: the gain that they learn, and resets that are transitions."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_normalize
from torch import Tensor

from rlopt.agents.sac.differential import moved_gain
from rlopt.agents.sac.losses import Info
from rlopt.agents.sac.off_policy import OffPolicy
from rlopt.errors import ConfigError
from rlopt.optim.descent import Networks

OnTermination = Literal["refuse", "reset"]


class AverageReward(OffPolicy):
    """Base of such learners, before the class of their critics.

    :meth:`networks` has a part "numbers" with the tensor "gain", which :meth:`move_gain` moves.
    """

    saved_tensors: ClassVar[tuple[str, ...]] = ("gain",)
    gain: Tensor
    """J, (1,), in units of reward; entropy and bonus count where there are any."""
    gain_rate: float
    on_termination: OnTermination

    def check_normalization(self, wrapper: VecNormalize) -> None:
        """Raises :class:`rlopt.errors.ConfigError` if it normalises something that must keep its scale."""
        raise NotImplementedError

    def _check_scale(self, env: Any) -> None:
        wrapper = None if env is None else unwrap_vec_normalize(env)
        if wrapper is not None:
            self.check_normalization(wrapper)

    def _setup_model(self) -> None:
        self._check_scale(self.env)
        super()._setup_model()
        self.gain = torch.zeros(1, device=self.device)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """As Stable-Baselines3's ``set_env``; what changes the scale of rewards is refused."""
        self._check_scale(env)
        super().set_env(env, force_reset)

    def move_gain(self, networks: Networks, info: Info) -> Info:
        """Moves the gain towards ``gain_estimate``; the other statistics, with ``gain`` among them."""
        gain = moved_gain(networks["numbers"]["gain"], info["gain_estimate"], self.gain_rate)
        networks.put("numbers", gain=gain)
        return {name: value for name, value in info.items() if name != "gain_estimate"} | {"gain": gain.mean()}

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        resets, infos = mark_resets(dones, infos, self.on_termination, self.num_timesteps)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, resets, infos)
        self.logger.record_mean("rollout/average_reward", float(np.mean(reward)))


def mark_resets(
    dones: np.ndarray, infos: Sequence[dict[str, Any]], on_termination: OnTermination, step: int
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Ends and infos of a step as a replay buffer is to have them: where the process was reset, the observation after
    it follows.

    A time limit is not a reset: learning bootstraps beyond it.

    :param dones: (n_envs,)
    :param infos: of each environment; an info ``reset`` of ``ContinuingWrapper`` says that one was reset
    :param step: for the message
    :raises rlopt.errors.ConfigError: for an episode that terminated, with "refuse"
    """
    resets, infos = np.array(dones, bool), list(infos)
    for index, info in enumerate(infos):
        terminated = bool(resets[index]) and not info.get("TimeLimit.truncated", False)
        if terminated and on_termination == "refuse":
            raise ConfigError(
                f"an episode terminated at step {step}, but an average reward needs a process that continues: set "
                'on_termination="reset" to make the reset a transition with a cost, or wrap the environment in '
                "rlopt.envs.average_reward.ContinuingWrapper"
            )
        restarted = on_termination == "reset" and info.get("reset") is True and "reset_cost" in info
        if terminated or restarted:
            resets[index] = True
            infos[index] = {key: value for key, value in info.items() if key != "terminal_observation"}
    return resets, infos
