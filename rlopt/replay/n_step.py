"""n-step returns from replay on the training device."""

import functools
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from rlopt.errors import ConfigError
from rlopt.replay.buffers import DeviceReplayBuffer
from rlopt.replay.normalization import normalize_rewards


class DeviceNStepReplayBuffer(DeviceReplayBuffer, NStepReplayBuffer):
    """As :class:`stable_baselines3.common.buffers.NStepReplayBuffer`, on the device: see :class:`DeviceReplayBuffer`.

    A sample's reward is the discounted sum of up to ``n_steps`` rewards, to the end of the episode or to the newest
    transition; ``next_observations`` and ``dones`` are those after the last of them, and ``discounts`` (B, 1) is
    ``gamma`` to the power of their number.

    :param n_steps: >= 1
    :param gamma: discount factor, 0 to 1
    """

    def __init__(self, *args: Any, n_steps: int = 3, gamma: float = 0.99, **kwargs: Any) -> None:
        if n_steps < 1:
            raise ConfigError(f"n_steps is {n_steps}: give a whole number >= 1")
        self.n_steps = n_steps
        self.gamma = gamma
        DeviceReplayBuffer.__init__(self, *args, **kwargs)
        if self.optimize_memory_usage:
            raise ConfigError("n-step returns do not work with optimize_memory_usage: switch one of them off")

    @property
    def pos(self) -> int:
        """Where the next transition goes. A tensor follows it, so that compiled and captured code sees it move."""
        return self._pos

    @pos.setter
    def pos(self, position: int) -> None:
        self._pos = int(position)
        if "_newest" in self.__dict__:
            self._newest.fill_((self._pos - 1) % self.buffer_size)

    def _allocate(self) -> None:
        super()._allocate()
        self._newest = torch.tensor((self.pos - 1) % self.buffer_size, device=self.device)
        # Both in float32 and from numpy, to be Stable-Baselines3's bit for bit.
        powers = self.gamma ** np.arange(self.n_steps + 1, dtype=np.float32)
        self._powers = torch.from_numpy(powers).to(self.device)
        self._offsets = torch.arange(self.n_steps, device=self.device) * self.n_envs

    def gather(self, rows: Tensor, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """As :meth:`DeviceReplayBuffer.gather`, with n-step returns and ``discounts``."""
        n_envs, total = self.n_envs, self.buffer_size * self.n_envs
        sequence = (rows[:, None] + self._offsets) % total
        dones, timeouts = (
            self._at(part, sequence.flatten()).reshape(sequence.shape)
            for part in (self._stored["dones"], self._stored["timeouts"])
        )
        rewards = self._single_rewards(sequence.flatten(), env).reshape(sequence.shape)
        # The newest transition ends every return: what follows it in memory is the oldest, of another episode.
        ends = dones + timeouts + (sequence // n_envs == self._newest)
        within = ends.cumsum(1) == ends  # nothing has ended before
        count = within.sum(1)
        terms = torch.where(within, rewards * self._powers[:-1], 0.0)
        last = (rows + (count - 1) * n_envs) % total
        batch = self._samples(rows, last, numpy_sum(terms), env)
        return batch._replace(discounts=self._powers[count].reshape(-1, 1))

    def _single_rewards(self, rows: Tensor, env: VecNormalize | None) -> Tensor:
        if self.relabel is not None:
            return self.relabel(self.transitions(rows))
        return normalize_rewards(self._at(self._stored["rewards"], rows), env)


def numpy_sum(terms: Tensor) -> Tensor:
    """The sums (B,) of terms (B, n), n <= 128, added in numpy's order."""
    columns = list(terms.unbind(1))
    whole = len(columns) // 8 * 8
    total: Tensor | None = None
    if whole:
        lanes = terms[:, :whole].unflatten(1, (-1, 8)).unbind(1)
        eight = functools.reduce(torch.add, lanes)
        two = eight[:, 0::2] + eight[:, 1::2]
        four = two[:, 0::2] + two[:, 1::2]
        total = four[:, 0] + four[:, 1]
    for column in columns[whole:]:
        total = column if total is None else total + column
    assert total is not None
    return total
