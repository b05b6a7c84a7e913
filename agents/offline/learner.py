"""The parts of an offline learner: its networks, its gradient step, and its data."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlopt.agents.offline import data as resident
from rlopt.agents.offline.actors import Kind
from rlopt.agents.offline.data import Batch, ResidentData
from rlopt.agents.offline.fine_tuning import FineTuning
from rlopt.agents.offline.losses import Info
from rlopt.agents.offline.policy import Needs
from rlopt.agents.offline.update import Networks, OfflineStep
from rlopt.data.columns import with_images_of
from rlopt.data.dataset import Dataset
from rlopt.data.filtering import filter_episodes
from rlopt.data.returns import discounted_returns
from rlopt.errors import ConfigError

JUDGED_FROM = 10_000
"""Gradient steps after which Q should have reached what the data return."""
VALIDATION_ROWS = 4096
"""Held-out transitions that a validation loss is taken over, at most."""


class Learner(FineTuning):
    """A learner defines :meth:`needs`, :meth:`update` and :meth:`validate`; the rest is shared."""

    discrete_actions: ClassVar[bool] = False
    """Whether it can learn Discrete actions."""
    pessimistic: ClassVar[bool] = False
    """Whether its Q is below the true value on purpose."""
    several_choices: ClassVar[bool] = False
    """Whether it can learn MultiDiscrete actions too."""
    sees_images: ClassVar[bool] = False
    """Whether it can learn from images, alone or as parts of a Dict."""
    coefficients: ClassVar[tuple[str, ...]] = ("learning_rate", "reward_scale", "reward_shift")
    """Attributes that every gradient step reads anew, so that changing one takes effect at once."""

    normalize_observations: bool
    normalize_rewards: bool
    validation_fraction: float
    best_fraction: float = 1.0
    policy_delay: int = 1
    _last_q: float | None
    _warned: bool
    data_return: tuple[float, float, float] | None
    """Mean, least and largest discounted return of the data, rewards scaled as in training; None without critics."""
    data_fingerprint: str
    """Fingerprint of the data that the model was trained on; part of its training state."""
    reward_range_scale: float
    _data: ResidentData | None
    _held_out: ResidentData | None
    _networks: Networks | None
    _step: OfflineStep | None

    def needs(self) -> Needs:
        """The networks of this learner for its action space and settings."""
        raise NotImplementedError

    def draw_noise(self, steps: int, batch_size: int) -> list[Tensor]:
        """The random numbers of ``steps`` gradient steps, each (steps, ...), from torch's generator of the device."""
        return []

    def update(self, batch: Batch, noise: Sequence[Tensor], c: Mapping[str, Tensor], with_actor: bool) -> Info:
        """One gradient step, in place, on :attr:`networks`: tensor operations only, no branch on a tensor's value.

        :param noise: what :meth:`draw_noise` drew, of one step
        :param c: the :attr:`coefficients`, scalar tensors
        :param with_actor: whether the actor and what follows it moves in this step
        """
        raise NotImplementedError

    def validate(self, batch: Batch, c: Mapping[str, Tensor]) -> Info:
        """Losses on held-out transitions that need no random numbers."""
        raise NotImplementedError

    @property
    def discrete(self) -> bool:
        """Whether the actions are Discrete or MultiDiscrete."""
        return isinstance(self.action_space, spaces.Discrete | spaces.MultiDiscrete)

    def actor_kind(self, continuous: Kind) -> Kind:
        """``continuous``, or a softmax for Discrete actions."""
        return "categorical" if self.discrete else continuous

    @property
    def networks(self) -> Networks:
        """The policy's networks in stacked form."""
        if self._networks is None:
            self._networks = Networks(self.policy)
        return self._networks

    def moves_actor(self, update: int) -> bool:
        """Whether gradient step number ``update``, from 1, moves the actor."""
        return update % self.policy_delay == 0

    def coefficient(self, name: str) -> float:
        """The present value of one of :attr:`coefficients`."""
        if name == "learning_rate" or (name == "critic_learning_rate" and getattr(self, name) is None):
            return float(self.lr_schedule(self._current_progress_remaining))
        value = getattr(self, name)
        if callable(value):
            return float(value(self._current_progress_remaining))
        return float(value) * (self.reward_range_scale if name == "reward_scale" else 1.0)

    def _forget(self) -> None:
        """Drops what is made from data and networks; nothing of it is saved."""
        self.dataset = None
        self._data = self._held_out = None
        self._rows = None
        self._networks = self._step = None
        self.data_return, self._last_q, self._warned = None, None, False

    def set_dataset(self, dataset: Dataset | str | Path) -> None:
        """Trains from ``dataset`` from now on.

        A model that was not trained yet takes the statistics of its observations; a trained one keeps its own.

        :raises rlopt.errors.DataError: it does not fit the model's spaces, or cannot be split for validation
        """
        fitted = with_images_of(loaded_dataset(dataset), self.observation_space)
        whole = filter_episodes(fitted, best=self.best_fraction)
        held_out: Dataset | None = None
        training = whole
        if self.validation_fraction > 0:
            training, held_out = whole.split(self.validation_fraction, seed=self.seed or 0)
        self._data = ResidentData(training, self.policy)
        self._held_out = None if held_out is None else ResidentData(held_out, self.policy)
        self.dataset, self.online = training, False
        self.data_fingerprint = self._data.fingerprint
        if self._n_updates == 0:
            self.reward_range_scale = resident.return_range_scale(training) if self.normalize_rewards else 1.0
            if self.normalize_observations:
                mean, std = resident.statistics(training, self.policy)
                self.policy.observation_mean.copy_(mean)
                self.policy.observation_std.copy_(std)
        self._measure_returns(training)

    def _measure_returns(self, dataset: Dataset) -> None:
        """What Q is held against while training (:meth:`_compare_q`)."""
        gamma = getattr(self, "gamma", 1.0)
        if self.needs().n_critics == 0 or not 0 <= gamma < 1:
            return
        scale, shift = self.coefficient("reward_scale"), self.coefficient("reward_shift")
        scaled = dataclasses.replace(dataset, rewards=dataset.rewards * np.float32(scale) + np.float32(shift))
        returns, whole = discounted_returns(scaled, gamma)
        known = returns[whole] if whole.any() else returns
        self.data_return = float(known.mean()), float(known.min()), float(known.max())

    def _compare_q(self, q_value: float) -> None:
        """Warns once where the critics' mean is far beyond what the data ever returned and 0, where it begins."""
        assert self.data_return is not None
        mean, least, largest = self.data_return
        margin = max(largest - least, 0.1 * abs(mean), 1e-3)
        self._last_q = q_value
        if not self._warned and not min(least, 0.0) - margin <= q_value <= max(largest, 0.0) + margin:
            self._warned = True
            warnings.warn(
                f"Q has left the data: it is {q_value:.4g} on average, and the discounted returns of the data are "
                f"{least:.4g} to {largest:.4g} ({mean:.4g} on average); lower the learning rate, stay nearer to the "
                "data (alpha, beta, the penalties), or give critic_layer_norm=True",
                stacklevel=2,
            )

    def _judge_q(self) -> None:
        """Warns at the end of training where Q is still below what the data return, as it is when it has not converged.

        Learners whose Q is meant to be low are left alone.
        """
        if self.data_return is None or self._last_q is None or self.pessimistic or self._n_updates < JUDGED_FROM:
            return
        mean = self.data_return[0]
        if not self._warned and self._last_q < mean - 0.25 * abs(mean):
            warnings.warn(
                f"Q has not converged after {self._n_updates:,} gradient steps: it is {self._last_q:.4g} on average, "
                f"and the data themselves return {mean:.4g}; train longer, or raise the learning rate or tau",
                stacklevel=3,
            )

    def _check_fingerprint(self) -> None:
        """A resumed run has the fingerprint of its data from the checkpoint."""
        assert self._data is not None
        if self.data_fingerprint != self._data.fingerprint:
            raise ConfigError("the run was trained on other data: give the data set that it started with")

    def dump_logs(self) -> None:
        """Writes a row of the log, with the validation losses."""
        if self._held_out is not None:
            for name, value in self.validation_losses().items():
                self.logger.record(f"validation/{name}", value)
        super().dump_logs()

    @torch.no_grad()
    def validation_losses(self) -> dict[str, float]:
        """The losses on held-out episodes, always the same transitions; learning's random numbers are not touched."""
        if self._held_out is None:
            return {}
        generator = torch.Generator().manual_seed(0)
        rows = torch.randperm(len(self._held_out), generator=generator)[:VALIDATION_ROWS].to(self.device)
        batch = self._held_out.gather(rows, torch.zeros((), device=self.device))
        numbers = {name: torch.tensor(self.coefficient(name), device=self.device) for name in self.coefficients}
        batch = batch._replace(rewards=batch.rewards * numbers["reward_scale"] + numbers["reward_shift"])
        return {name: float(value) for name, value in self.validate(batch, numbers).items()}


def loaded_dataset(dataset: Dataset | str | Path) -> Dataset:
    """The data set itself, or the one at a path or of a name, see :func:`rlopt.data.load_dataset`."""
    if isinstance(dataset, Dataset):
        return dataset
    from rlopt.data import load_dataset

    return load_dataset(str(dataset))
