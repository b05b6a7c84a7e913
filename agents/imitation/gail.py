"""GAIL: on-policy MDPO that is rewarded by a discriminator of its own rollouts and demonstrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.nn import functional as F

from rlopt.agents.imitation.adversarial_losses import RewardForm
from rlopt.agents.imitation.adversary import SAVED, Adversary, AdversarySettings, with_own_adversary
from rlopt.agents.imitation.config import GAILConfig
from rlopt.agents.imitation.discriminator import InputKind
from rlopt.agents.imitation.rollout_record import RolloutRecord, flat_observations
from rlopt.agents.mdpo.on_policy import MDPO
from rlopt.algorithms.demonstrations import NOT_CENTRED, FromDemonstrations, check_n_demonstrations, uniform_rows
from rlopt.algorithms.resumable import with_settings_of
from rlopt.data.columns import scaled_actions
from rlopt.data.demonstrations import Demonstrations
from rlopt.envs.flat import flat_size
from rlopt.errors import SpaceError
from rlopt.optim.compiled_step import choose_mode
from rlopt.storage.tree import Tree


class Rows(NamedTuple):
    """Transitions as the discriminator sees them, flat."""

    observations: Tensor
    """(N, O) float32."""
    actions: Tensor
    """(N, A) float32, in [-1, 1] or one-hot."""
    next_observations: Tensor
    """(N, O) float32."""
    dones: Tensor
    """(N, 1) float32, 1 at a true end."""

    def gather(self, rows: Tensor) -> Rows:
        """Those at ``rows`` (B,)."""
        return Rows(*(column.index_select(0, rows) for column in self))


_NOT_TAKEN = ("rollout_buffer_class", "rollout_buffer_kwargs")
"""Settings of MDPO that GAIL does not take."""


class GAIL(FromDemonstrations, MDPO):
    """Generative adversarial imitation learning (Ho and Ermon, arXiv 1606.03476), with MDPO in place of TRPO.

    After each rollout the discriminator takes ``discriminator_steps`` steps on that rollout and the demonstrations.
    Then it rewards the rollout, and the policy is updated as in MDPO. The environment's rewards are never used.
    :class:`rlopt.agents.imitation.config.GAILConfig` declares and explains the settings, including those of
    :class:`rlopt.MDPO`. Actions are Box or Discrete; observations may be anything but images.

    :param demonstrations: demonstrations of this environment, or their path or name; see :meth:`set_demonstrations`
    :param n_demonstrations: number of episodes to learn from, the first ones; None for all
    :raises rlopt.errors.ConfigError: for a setting out of range, or from ``learn`` without demonstrations
    :raises rlopt.errors.DataError: for demonstrations that do not fit, or fewer than asked for
    :raises rlopt.errors.NonFiniteError: from ``learn``, also if the discriminator diverges; the last good one is
        kept
    """

    adversary: Adversary
    discriminator_input: InputKind
    reward_form: RewardForm
    discriminator_net_arch: tuple[int, ...]
    discriminator_activation: str
    discriminator_learning_rate: float
    discriminator_batch_size: int
    discriminator_steps: int
    gradient_penalty: float
    absorbing: bool
    profiled_sections: ClassVar[dict[str, str]] = {**MDPO.profiled_sections, "_train_discriminator": "discriminator"}

    saved_modules: ClassVar[tuple[str, ...]] = SAVED
    unsaved: ClassVar[tuple[str, ...]] = ("_shown",)
    made_with: ClassVar[tuple[str, ...]] = (
        "discriminator_input", "discriminator_net_arch", "discriminator_activation", "discriminator_learning_rate",
        "gradient_penalty", "absorbing",
    )  # fmt: skip

    @with_settings_of(MDPO, *_NOT_TAKEN, *NOT_CENTRED, config=GAILConfig)
    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        demonstrations: Demonstrations | str | Path | None = None,
        **settings: Any,
    ) -> None:
        check_n_demonstrations(self.n_demonstrations)
        super().__init__(policy, env, **settings)
        if demonstrations is not None:
            self.set_demonstrations(demonstrations)

    def _setup_model(self) -> None:
        _check_spaces(self.observation_space, self.action_space)
        super()._setup_model()
        settings = AdversarySettings(
            divergence="js",
            reward_form=self.reward_form,
            discriminator_input=self.discriminator_input,
            discriminator_net_arch=tuple(self.discriminator_net_arch),
            discriminator_activation=self.discriminator_activation,
            discriminator_output="none",
            output_bound=1.0,
            discriminator_learning_rate=self.discriminator_learning_rate,
            gradient_penalty=self.gradient_penalty,
            normalize_inputs=True,
            absorbing=self.absorbing,
        )
        size = flat_size(self.observation_space)
        self.adversary = self._make_adversary(settings, size, spaces.flatdim(self.action_space))

    def _make_adversary(self, settings: AdversarySettings, observation_size: int, action_size: int) -> Adversary:
        return Adversary(settings, observation_size, action_size, self.device)

    def set_demonstrations(self, demonstrations: Demonstrations | str | Path) -> None:
        """As :meth:`FromDemonstrations.set_demonstrations`; the discriminator takes the expert's statistics."""
        super().set_demonstrations(demonstrations)
        shown = self.demonstrations
        assert shown is not None
        self._shown = self._rows(shown.observations, shown.actions, shown.next_observations, shown.discounts == 0)
        self.adversary.compare_with(self._shown.observations)
        if bool(self._shown.dones.any()):
            self.adversary.see_ends()

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        record = RolloutRecord(env, lambda: self._last_obs)
        if not super().collect_rollouts(record, callback, rollout_buffer, n_rollout_steps):
            return False
        seen = self._seen(rollout_buffer, self._rows(*record.transitions()))
        self._train_discriminator(seen)
        rewards = self.adversary.reward(seen)
        self.logger.record("rollout/imitation_reward_mean", rewards.mean().item())
        # The record gave rewards of 0, so that what is there is the value behind the ends by a time limit.
        rollout_buffer.rewards += rewards.cpu().numpy().reshape(rollout_buffer.rewards.shape)
        with torch.no_grad():
            last_values = self.policy.predict_values(obs_as_tensor(self._last_obs, self.device))  # type: ignore[arg-type]
        assert self._last_episode_starts is not None
        rollout_buffer.compute_returns_and_advantage(last_values, self._last_episode_starts)
        return True

    def _seen(self, rollout_buffer: RolloutBuffer, rows: Rows) -> Any:
        """The rollout's transitions as the discriminator takes them."""
        return rows

    def _rows(self, observations: Any, actions: np.ndarray, next_observations: Any, ended: np.ndarray) -> Rows:
        """Transitions as the discriminator sees them, from actions in the environment's units and ends (N,)."""
        if isinstance(self.action_space, spaces.Discrete):
            chosen = torch.from_numpy(actions.reshape(-1) - int(self.action_space.start)).to(self.device, torch.int64)
            encoded = F.one_hot(chosen, int(self.action_space.n)).float()
        else:
            flat = actions.reshape(len(actions), -1)
            encoded = torch.from_numpy(scaled_actions(flat, self.action_space)).to(self.device)
        here, following = (
            flat_observations(part, self.observation_space).to(self.device)
            for part in (observations, next_observations)
        )
        return Rows(here, encoded, following, torch.from_numpy(ended).to(self.device, torch.float32).unsqueeze(1))

    def _train_discriminator(self, seen: Rows) -> None:
        assert self.demonstrations is not None
        adversary, shown, size = self.adversary, self._shown, self.discriminator_batch_size
        adversary.see_learner(seen.observations)
        if self.absorbing and not adversary.knows_ends and bool(seen.dones.any()):
            adversary.see_ends()
        # Subsampling keeps every true end, so that each counts for fewer transitions (DAC, arXiv 1809.02925).
        weight = 1 / self.demonstrations.metadata.subsample_rate

        def draw() -> tuple[Rows, Tensor, Rows]:
            expert = shown.gather(uniform_rows(len(shown.dones), size, self.device))
            return expert, weight * expert.dones, seen.gather(uniform_rows(len(seen.dones), size, self.device))

        rollouts = self._total_timesteps / (self.n_steps * self.n_envs)
        mode = choose_mode(self.compile, self.device, int(rollouts * self.discriminator_steps))
        steps, count = self.discriminator_steps, len(shown.dones)
        for name, value in adversary.train(steps, mode, draw, count, self.num_timesteps).items():
            self.logger.record(f"train/{name}", float(value))

    def fitted_networks(self, networks: Tree) -> Tree:
        """As :meth:`rlopt.algorithms.resumable.Resumable.fitted_networks`."""
        return with_own_adversary(self, super().fitted_networks(networks))


def _check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    parts = observation_space.spaces.values() if isinstance(observation_space, spaces.Dict) else [observation_space]
    if any(is_image_space(part) for part in parts):
        raise SpaceError(
            "observations are images, which GAIL's discriminator does not encode: give it features instead"
        )
    if not isinstance(action_space, spaces.Box | spaces.Discrete):
        raise SpaceError(
            f"GAIL needs Box or Discrete actions, not {action_space}: use an environment with such actions"
        )
