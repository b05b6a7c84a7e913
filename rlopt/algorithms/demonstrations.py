"""Demonstrations on the training device, and a model that learns from them."""

from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_obs_shape
from torch import Tensor

from rlopt.data.checks import check_spaces
from rlopt.data.columns import fingerprint, scaled_actions, with_images_of
from rlopt.data.demonstrations import Demonstrations
from rlopt.envs.settings import EnvSettings
from rlopt.errors import ConfigError, DataError
from rlopt.replay.rows import chosen_rows
from rlopt.settings.demonstrations import OptionalDemonstrations
from rlopt.settings.fields import check_setting, field_types

NOT_CENTRED = ("reward_centring", "centring_rate")
"""Settings that agents whose rewards are learned do not take."""


class ExpertBatch(NamedTuple):
    """B transitions of the expert, as a replay buffer would give them."""

    observations: Any
    """(B, ...) in the dtype of the observation space, or a dict of such tensors."""
    actions: Tensor
    """(B, A) float32 in [-1, 1], or (B,) int64 for Discrete actions."""
    next_observations: Any
    """Like ``observations``."""
    discounts: Tensor
    """(B, 1) float32: 0 at a true terminal, 1 elsewhere."""


class ExpertRows:
    """Demonstrations as tensors on ``device``; drawing rows is apart from reading them, as in the replay buffers.

    :param demonstrations: checked against the spaces before
    """

    def __init__(
        self,
        demonstrations: Demonstrations,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: torch.device,
    ) -> None:
        self.device = device
        self.observations = _on_device(demonstrations.observations, observation_space, device)
        self.next_observations = _on_device(demonstrations.next_observations, observation_space, device)
        self.actions = torch.from_numpy(scaled_actions(demonstrations.actions, action_space)).to(device)
        self.discounts = torch.from_numpy(demonstrations.discounts).to(device).unsqueeze(1)
        self.fingerprint = fingerprint(demonstrations)

    def __len__(self) -> int:
        return len(self.discounts)

    def sample_rows(self, batch_size: int) -> Tensor:
        """Rows (B,) int64, see :func:`uniform_rows`."""
        return uniform_rows(len(self), batch_size, self.device)

    def gather(self, rows: Tensor) -> ExpertBatch:
        """The transitions at ``rows`` (B,): tensor operations only, to be compiled or captured."""
        return ExpertBatch(
            chosen_rows(self.observations, rows),
            self.actions.index_select(0, rows),
            chosen_rows(self.next_observations, rows),
            self.discounts.index_select(0, rows),
        )


class WithDemonstrations:
    """A model that can learn from demonstrations: mixin before :class:`rlopt.algorithms.resumable.Resumable`.

    A checkpoint knows the demonstrations by a fingerprint only: a model
    that was loaded predicts without them, and asks for them before it trains on (:meth:`set_demonstrations`); a run
    that is resumed with others is refused.
    """

    state_attributes: ClassVar[tuple[str, ...]] = ("data_fingerprint",)
    unsaved: ClassVar[tuple[str, ...]] = ("demonstrations", "expert")
    needs_demonstrations: bool = False
    """Whether it cannot be trained without."""

    demonstrations: Demonstrations | None = None
    """Those that are learned from."""
    expert: ExpertRows | None = None
    """The same on the device."""
    n_demonstrations: int | None = None
    """How many episodes, the first ones, are learned from; None for all."""
    data_fingerprint: str = ""
    """Of the demonstrations that the model was trained on; part of its training state."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Python takes the first class's tuple alone; a model's state is that of all its bases.
        inherited = [vars(base).get("state_attributes", ()) for base in cls.__mro__]
        cls.state_attributes = tuple(dict.fromkeys(name for names in inherited for name in names))

    def set_demonstrations(self, demonstrations: Demonstrations | str | Path) -> None:
        """Learns from ``demonstrations`` from now on: of them the first ``n_demonstrations`` episodes, if that is set.

        :param demonstrations: those, or what :func:`rlopt.data.load_demonstrations` reads
        :raises rlopt.errors.DataError: they do not fit the environment, or are fewer than asked for
        """
        model: Any = self
        chosen = with_images_of(loaded_demonstrations(demonstrations), model.observation_space)
        if self.n_demonstrations is not None:
            chosen = chosen.trajectories(self.n_demonstrations)
        check_fits(chosen, model.env, model.observation_space, model.action_space)
        self.demonstrations = chosen
        self.expert = ExpertRows(chosen, model.observation_space, model.action_space, model.device)
        self.data_fingerprint = self.expert.fingerprint

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """As Stable-Baselines3's ``set_env``; an environment that the demonstrations are not of is refused."""
        super().set_env(env, force_reset)  # type: ignore[misc]
        model: Any = self
        if self.demonstrations is not None:
            check_fits(self.demonstrations, model.env, model.observation_space, model.action_space)

    def at_boundary(self) -> bool:
        """As :meth:`Resumable.at_boundary`, once it is sure which demonstrations are learned from."""
        if self.expert is None and (self.needs_demonstrations or self.data_fingerprint):
            raise ConfigError(
                f"{type(self).__name__} learns from demonstrations and has none: give demonstrations=..., or call "
                "set_demonstrations"
            )
        if self.expert is not None and self.data_fingerprint != self.expert.fingerprint:
            raise ConfigError(
                "the run was trained on other demonstrations: give the ones it started with, as many and with the "
                "same subsampling"
            )
        return super().at_boundary()  # type: ignore[misc]


class FromDemonstrations(WithDemonstrations):
    """A model that learns from nothing else."""

    needs_demonstrations = True
    for_discrete_actions: ClassVar[str] = "rlopt.GAIL or rlopt.BC, which learn them from demonstrations too"


def uniform_rows(count: int, batch_size: int, device: torch.device) -> Tensor:
    """Rows (B,) int64 below ``count``, uniform with replacement, on ``device``.

    On the CPU they come from numpy's global generator, as those of the replay buffers do; on an accelerator from
    torch's.
    """
    if device.type == "cpu":
        return torch.from_numpy(np.random.randint(0, count, size=batch_size))
    return torch.randint(count, (batch_size,), device=device)


def loaded_demonstrations(demonstrations: Demonstrations | str | Path) -> Demonstrations:
    """``demonstrations``, or those of that name or path.

    :raises rlopt.errors.DataError: they cannot be read, or are a data set that nobody calls an expert's
    """
    from rlopt.data.demonstrations import Demonstrations

    if isinstance(demonstrations, str | Path):
        from rlopt.data import load_demonstrations

        return load_demonstrations(str(demonstrations))
    if not isinstance(demonstrations, Demonstrations):
        raise DataError(
            f"demonstrations are a {type(demonstrations).__name__}: give rlopt.data.Demonstrations, a path or a name; "
            "Demonstrations.from_dataset makes them of a data set"
        )
    return demonstrations


def check_fits(
    demonstrations: Demonstrations, env: Any, observation_space: spaces.Space, action_space: spaces.Space
) -> None:
    """Raises :class:`rlopt.errors.DataError` unless a model with these spaces can learn from ``demonstrations``.

    Where ``env`` was made by :func:`rlopt.make_env`, the environment, its action repeat and the order of observations
    are compared too; elsewhere only what the spaces tell.
    """
    settings = getattr(env, "settings", None)
    if isinstance(settings, EnvSettings):
        demonstrations.check_fits(settings, observation_space, action_space)
    else:
        check_spaces(demonstrations, observation_space, action_space, "the model's environment")


def check_n_demonstrations(n_demonstrations: int | None) -> None:
    """Raises :class:`rlopt.errors.ConfigError` unless it is None or a whole number from 1."""
    check_setting("n_demonstrations", n_demonstrations, field_types(OptionalDemonstrations)["n_demos"])


def _on_device(observations: Any, space: spaces.Space, device: torch.device) -> Any:
    """Observations as a replay buffer of ``space`` keeps them: (N, ...) tensors, or a dict of those."""
    if isinstance(space, spaces.Dict):
        return {key: _on_device(observations[key], part, device) for key, part in space.spaces.items()}
    shape: Any = get_obs_shape(space)
    return torch.from_numpy(observations.astype(space.dtype).reshape(-1, *shape)).to(device)
