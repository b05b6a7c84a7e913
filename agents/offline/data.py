"""A data set on the training device, and rows of it drawn and read there."""

from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor

from rlopt.agents.offline.policy import OfflinePolicy
from rlopt.data.checks import check_spaces
from rlopt.data.columns import fingerprint, scaled_actions
from rlopt.data.dataset import Dataset
from rlopt.errors import ConfigError
from rlopt.replay.memory import free_memory
from rlopt.replay.rows import chosen_rows


class Batch(NamedTuple):
    """B transitions, observations normalised, actions scaled to [-1, 1]."""

    observations: Any
    """(B, O) float32; where there are images, (B, C, H, W) in [0, 1] or a dict, as the actor's encoder takes them."""
    actions: Tensor
    """(B, A) float32, or (B,) int64."""
    rewards: Tensor
    """(B, 1)."""
    next_observations: Any
    """Like ``observations``."""
    continues: Tensor
    """(B, 1): 0 where the episode truly ended, 1 elsewhere."""
    next_actions: Tensor
    """(B, A): what the data did at the next observation, arbitrary where ``next_known`` is 0."""
    next_known: Tensor
    """(B, 1): 1 where the next action is in the data."""


class ResidentData:
    """The transitions of ``dataset`` as tensors on the device of ``policy``, observations flat.

    :raises rlopt.errors.DataError: they do not fit the policy's spaces
    :raises rlopt.errors.ConfigError: they do not fit into the memory of the device
    """

    storage_version = 0

    def __init__(self, dataset: Dataset, policy: OfflinePolicy) -> None:
        check_spaces(dataset, policy.observation_space, policy.action_space, "the model's environment")
        self.policy = policy
        device = policy.device
        # Observations twice, and nine numbers a transition at most beside its action.
        kept = _flat(dataset.take(slice(1)).observations, policy)
        sizes = [part.nbytes for part in (kept.values() if isinstance(kept, dict) else [kept])]
        needed = len(dataset) * (2 * sum(sizes) + 4 * (dataset.actions[0].size + 9))
        free = free_memory(device)
        if free is not None and needed > free:
            raise ConfigError(
                f"the data set needs {needed / 1e9:.2f} GB and {device} has {free / 1e9:.2f} GB free: use a part of it "
                "(Dataset.take) or a device with more memory"
            )
        self.observations = _flat(dataset.observations, policy)
        self.next_observations = _flat(dataset.next_observations, policy)
        self.actions = torch.from_numpy(scaled_actions(dataset.actions, policy.action_space)).to(device)
        self.rewards = torch.from_numpy(dataset.rewards).to(device).unsqueeze(1)
        self.continues = torch.from_numpy(dataset.discounts).to(device).unsqueeze(1)
        self.next_known = torch.from_numpy(~dataset.episode_ends).to(device, torch.float32).unsqueeze(1)
        self.fingerprint = fingerprint(dataset)

    def __len__(self) -> int:
        return len(self.rewards)

    def sample_rows(self, steps: int, batch_size: int) -> Tensor:
        """Rows (steps, B) int64, uniform with replacement, from torch's generator of the device."""
        return torch.randint(len(self), (steps, batch_size), device=self.rewards.device)

    def gather(self, rows: Tensor, newest: Tensor) -> Batch:
        """The transitions at ``rows`` (B,): tensor operations only. ``newest`` is for replay and not used here."""
        following = (rows + 1).clamp(max=len(self.rewards) - 1)
        return Batch(
            self.policy.normalized(chosen_rows(self.observations, rows)),
            self.actions.index_select(0, rows),
            self.rewards.index_select(0, rows),
            self.policy.normalized(chosen_rows(self.next_observations, rows)),
            self.continues.index_select(0, rows),
            self.actions.index_select(0, following),
            self.next_known.index_select(0, rows),
        )

    def newest(self) -> int:
        """0: data that are given before training have no newest row."""
        return 0


class ReplayRows:
    """The same reading of a replay buffer that holds data and what was collected since."""

    def __init__(self, buffer: Any, policy: OfflinePolicy) -> None:
        self.buffer, self.policy = buffer, policy
        self.discrete = isinstance(policy.action_space, spaces.Discrete)

    @property
    def storage_version(self) -> int:
        """Changes when rows move in memory."""
        return int(self.buffer.storage_version)

    def sample_rows(self, steps: int, batch_size: int) -> Tensor:
        """Rows (steps, B) int64, uniform with replacement."""
        return self.buffer.sample_rows(steps * batch_size).view(steps, batch_size)

    def newest(self) -> int:
        """The position written last, the one whose next action is not known yet."""
        return (self.buffer.pos - 1) % self.buffer.buffer_size

    def gather(self, rows: Tensor, newest: Tensor) -> Batch:
        """As :meth:`ResidentData.gather`; ``newest`` is a scalar tensor of :meth:`newest`."""
        buffer, policy = self.buffer, self.policy
        found = buffer.gather(rows)
        following = (rows + buffer.n_envs) % (buffer.buffer_size * buffer.n_envs)
        ended = buffer.stored("dones").flatten().index_select(0, rows)
        known = (1 - ended) * (rows // buffer.n_envs != newest)
        actions, next_actions = found.actions, buffer.stored("actions").flatten(0, 1).index_select(0, following)
        if self.discrete:
            actions, next_actions = actions.flatten(), next_actions.flatten()
        return Batch(
            policy.normalized(policy.flat(found.observations)),
            actions,
            found.rewards,
            policy.normalized(policy.flat(found.next_observations)),
            1 - found.dones,
            next_actions,
            known.unsqueeze(1),
        )


def statistics(dataset: Dataset, policy: OfflinePolicy) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation + 1e-3 of the flat observations, each (O,) (TD3+BC, arXiv 2106.06860, section 5)."""
    if not policy.observation_mean.numel():  # images alone
        return policy.observation_mean, policy.observation_std
    flat = policy.numbers(_on_device(dataset.observations, policy)).double()
    return flat.mean(dim=0).float(), (flat.std(dim=0, correction=0) + 1e-3).float()


def return_range_scale(dataset: Dataset) -> float:
    """1000 / (best - worst episode return), as IQL's released code scales MuJoCo rewards; 1 where all are equal."""
    returns = dataset.episode_returns()
    spread = float(returns.max() - returns.min())
    return 1000.0 / spread if spread > 0 else 1.0


def _flat(observations: Any, policy: OfflinePolicy) -> Any:
    """(N, O) on the policy's device, or observations with images as they are."""
    return policy.flat(_on_device(observations, policy))


def _on_device(observations: Any, policy: OfflinePolicy) -> Any:
    if isinstance(observations, dict):
        return {key: torch.from_numpy(part).to(policy.device) for key, part in observations.items()}
    return torch.from_numpy(observations).to(policy.device)
