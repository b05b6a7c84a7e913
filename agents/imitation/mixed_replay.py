"""Batches that are half demonstrations, from which SQIL and IQ-Learn learn."""

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from rlopt.agents.sac.off_policy import OffPolicy
from rlopt.algorithms.demonstrations import ExpertRows, FromDemonstrations
from rlopt.errors import ConfigError
from rlopt.replay.buffers import DeviceDictReplayBuffer, DeviceReplayBuffer
from rlopt.replay.normalization import normalize_observations
from rlopt.replay.rows import joined_columns

NOT_TAKEN = ("replay_buffer_class", "n_steps", "demo_fraction")
"""Settings of off-policy agents that a learner from mixed batches does not take."""


class MixedReplayBuffer(DeviceReplayBuffer):
    """A replay buffer whose batches are half its own transitions and half an expert's.

    In a batch of B its own come first, ``B - B // 2`` of them. Their rewards are 0 and the expert's ``expert_reward``;
    what was stored is not read. At a true end ``end_value`` is added: what the absorbing state behind it is worth.
    """

    _expert: ExpertRows | None = None
    _expert_reward = 0.0
    _end_value: Tensor | None = None
    _mixes = 0

    @property
    def storage_version(self) -> int:
        """Changes when rows move in memory, or when other demonstrations are mixed in."""
        return super().storage_version + self._mixes

    def mix_in(self, expert: ExpertRows, expert_reward: float, end_value: float = 0.0) -> None:
        """Half of every batch comes from ``expert`` from now on.

        :param expert_reward: of every transition of the expert
        :param end_value: added to the reward at a true end, the expert's or one's own
        """
        if expert is not self._expert or expert_reward != self._expert_reward:
            self._expert, self._expert_reward = expert, expert_reward
            self._end_value = torch.zeros((), device=expert.device)
            self._mixes += 1
        assert self._end_value is not None
        self._end_value.fill_(end_value)  # in place: a compiled step reads this tensor

    def sample_rows(self, batch_size: int) -> Tensor:
        """Rows (B,) int64: first those of this buffer, then those of the demonstrations; each drawn uniformly."""
        expert, _ = self._mixed()
        n_expert = batch_size // 2
        return torch.cat([super().sample_rows(batch_size - n_expert), expert.sample_rows(n_expert)])

    def gather(self, rows: Tensor, env: VecNormalize | None = None) -> Any:
        """The mixed batch at ``rows`` of :meth:`sample_rows`; its rewards are never normalised."""
        expert, end_value = self._mixed()
        n_expert = len(rows) // 2
        n_own = len(rows) - n_expert
        own, shown = super().gather(rows[:n_own], env), expert.gather(rows[n_own:])
        ended = 1 - shown.discounts
        following = normalize_observations(shown.next_observations, env)
        return own._replace(
            observations=joined_columns(own.observations, normalize_observations(shown.observations, env)),
            actions=torch.cat([own.actions, shown.actions.reshape(n_expert, -1)]),
            next_observations=joined_columns(own.next_observations, following),
            dones=torch.cat([own.dones, ended]),
            rewards=torch.cat([own.dones * end_value, self._expert_reward + ended * end_value]),
        )

    def _mixed(self) -> tuple[ExpertRows, Tensor]:
        if self._expert is None or self._end_value is None:
            raise ConfigError("the replay buffer has no demonstrations to mix in: call the model's set_demonstrations")
        return self._expert, self._end_value

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        for name in ("_expert", "_expert_reward"):
            state.pop(name, None)
        return state


class MixedDictReplayBuffer(MixedReplayBuffer, DeviceDictReplayBuffer):
    """The same for Dict observations."""


class FromMixedBatches(FromDemonstrations, OffPolicy):
    """An off-policy learner with such a buffer, before the class of its networks.

    With ``absorbing`` a true end leads to a state that is never left, the same for the expert and the learner, whose
    reward is :meth:`absorbing_reward`. Its value is learned as a table learns it from target networks: each time these
    move, by tau towards r + gamma V. So it grows as that of any other state does, to r / (1 - gamma). If it were paid
    at once, it would be more than all of life as long as the critics do not know what follows.
    """

    state_attributes: ClassVar[tuple[str, ...]] = ("n_collected", "n_true_ends", "absorbing_value")
    expert_reward: float = 0.0
    absorbing: bool
    reads_no_rewards: ClassVar[bool] = True
    n_collected = 0
    """Transitions collected in training."""
    n_true_ends = 0
    """How many of those ended their episode, by a terminal and not by a time limit."""
    absorbing_value = 0.0
    """V of the absorbing state."""

    def absorbing_reward(self, expert_ends: float, policy_ends: float) -> float:
        """The reward of the absorbing state.

        :param expert_ends: share of true ends among the expert's transitions, ``policy_ends`` among those collected
        """
        raise NotImplementedError

    def _setup_model(self) -> None:
        is_dict = isinstance(self.observation_space, spaces.Dict)
        self.replay_buffer_class = MixedDictReplayBuffer if is_dict else MixedReplayBuffer
        super()._setup_model()

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Takes ``gradient_steps`` gradient steps on batches of which half are demonstrations."""
        # Here, because load_replay_buffer brings a buffer that knows none.
        if self.expert is not None:
            assert isinstance(self.replay_buffer, MixedReplayBuffer)
            self.replay_buffer.mix_in(self.expert, self.expert_reward, self.gamma * self.absorbing_value)
        super().train(gradient_steps, batch_size)
        if self.absorbing:
            self._move_absorbing_value(gradient_steps)

    def _move_absorbing_value(self, gradient_steps: int) -> None:
        assert self.demonstrations is not None
        expert_ends = float(np.mean(self.demonstrations.discounts == 0))
        limit = self.absorbing_reward(expert_ends, self.n_true_ends / max(self.n_collected, 1)) / (1 - self.gamma)
        left = (1 - self.tau * (1 - self.gamma)) ** (gradient_steps / self.target_update_interval)
        self.absorbing_value = limit + left * (self.absorbing_value - limit)
        self.logger.record("train/absorbing_value", self.absorbing_value)

    def after_storing(self, position: int, was_full: bool, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """Counts the transitions and the true ends among them."""
        cut = [bool(info.get("TimeLimit.truncated", False)) for info in infos]
        self.n_collected += len(dones)
        self.n_true_ends += int(np.sum(np.asarray(dones, bool) & ~np.array(cut)))
