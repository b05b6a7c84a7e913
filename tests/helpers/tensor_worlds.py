"""Worlds of tensors as the warp backend has them, without a simulator."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from rlopt.envs.backends.warp_vec import DeviceStep, WarpVecEnv


class TensorWorlds(WarpVecEnv):
    """Points that actions move, with episodes of 4, 5, ... steps, one length a world.

    :param broken_at: the step whose rewards are NaN
    """

    def __init__(self, count: int, broken_at: int | None = None) -> None:
        VecEnv.__init__(
            self,
            count,
            spaces.Box(-np.inf, np.inf, (3,), np.float32),
            spaces.Box(np.float32([-2, 0]), np.float32([2, 1]), dtype=np.float32),
        )
        self.device, self.settings = torch.device("cpu"), None
        self._places = torch.zeros(count, 3)
        self._elapsed, self._limits = np.zeros(count, int), np.arange(4, 4 + count)
        self._taken, self._broken_at = 0, broken_at

    def seed(self, seed: int | None = None) -> list[int | None]:
        return [seed] * self.num_envs

    def reset_tensors(self) -> Tensor:
        self._places = torch.arange(self.num_envs * 3).reshape(-1, 3) / 10.0
        self._elapsed[:] = 0
        return self._places.clone()

    def step_tensors(self, actions: Tensor) -> DeviceStep:
        assert (actions >= torch.tensor([-2.0, 0.0])).all() and (actions <= torch.tensor([2.0, 1.0])).all()
        self._taken += 1
        self._elapsed += 1
        self._places = 0.9 * self._places + torch.cat([actions, actions.sum(1, keepdim=True)], 1) / 5
        rewards = -self._places.square().sum(1)
        if self._taken == self._broken_at:
            rewards = rewards * torch.nan
        last, ended = self._places, self._elapsed >= self._limits
        self._places = torch.where(torch.from_numpy(ended)[:, None], torch.full((3,), 0.5), last)
        self._elapsed[ended] = 0
        return DeviceStep(self._places.clone(), rewards, ended, last.clone())

    def get_state(self) -> dict[str, Any]:
        return {}
