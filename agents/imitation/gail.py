"""GAIL: on-policy MDPO that is rewarded by a discriminator of its own rollouts and demonstrations."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

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

from rlopt.agents.imitation.adversarial_losses import RewardForm, reward
from rlopt.agents.imitation.base import FromDemonstrations, check_n_demonstrations, uniform_rows
from rlopt.agents.imitation.config import GAILConfig
from rlopt.agents.imitation.discriminator import (
    Discriminator,
    InputKind,
    absorbing_input,
    discriminator_inputs,
    input_size,
)
from rlopt.agents.imitation.discriminator_update import DiscriminatorUpdate
from rlopt.agents.imitation.rollout_record import RolloutRecord, flat_observations, observation_size
from rlopt.agents.mdpo.on_policy import MDPO
from rlopt.algorithms.resumable import with_settings_of
from rlopt.data.columns import scaled_actions
from rlopt.errors import NonFiniteError, SpaceError
from rlopt.optim.compiled_step import choose_mode

if TYPE_CHECKING:
    from rlopt.data.demonstrations import Demonstrations

_NOT_TAKEN = ("rollout_buffer_class", "rollout_buffer_kwargs")
"""Settings of MDPO that GAIL does not take."""


class GAIL(FromDemonstrations, MDPO):
    """Generative adversarial imitation learning (Ho and Ermon, arXiv 1606.03476), with MDPO in place of TRPO.

    After each rollout the discriminator takes ``discriminator_steps`` steps on that rollout and the demonstrations;
    then the rollout is rewarded by it, and the policy is updated as MDPO updates it. The environment's rewards are
    never read. The settings, also those of :class:`rlopt.MDPO`, are declared and explained in
    :class:`rlopt.agents.imitation.config.GAILConfig`. Actions are Box or Discrete, observations anything that is no
    image.

    :param demonstrations: of this environment, or a path or name of some; see :meth:`set_demonstrations`
    :param n_demonstrations: learn from the first so many episodes; None for all
    :raises rlopt.errors.ConfigError: for a setting out of range, or from ``learn`` without demonstrations
    :raises rlopt.errors.DataError: for demonstrations that do not fit, or fewer than asked for
    :raises rlopt.errors.NonFiniteError: from ``learn``, also where the discriminator diverges; the last
        good one is kept
    """

    discriminator: Discriminator
    discriminator_optimizer: torch.optim.Adam
    discriminator_input: InputKind
    reward_form: RewardForm
    discriminator_net_arch: tuple[int, ...]
    discriminator_activation: str
    discriminator_learning_rate: float
    discriminator_batch_size: int
    discriminator_steps: int
    penalty_coef: float
    absorbing: bool
    profiled_sections: ClassVar[dict[str, str]] = {**MDPO.profiled_sections, "_train_discriminator": "discriminator"}

    made_with: ClassVar[tuple[str, ...]] = (
        "discriminator_input", "discriminator_net_arch", "discriminator_activation", "discriminator_learning_rate",
        "penalty_coef", "absorbing",
    )  # fmt: skip

    @with_settings_of(MDPO, *_NOT_TAKEN, config=GAILConfig)
    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        demonstrations: Demonstrations | str | Path | None = None,
        *,
        n_demonstrations: int | None = None,
        reward_form: RewardForm = GAILConfig.reward_form,
        discriminator_input: InputKind = GAILConfig.discriminator_input,
        discriminator_net_arch: tuple[int, ...] | list[int] = GAILConfig.discriminator_net_arch,
        discriminator_activation: str = GAILConfig.discriminator_activation,
        discriminator_learning_rate: float = GAILConfig.discriminator_learning_rate,
        discriminator_batch_size: int = GAILConfig.discriminator_batch_size,
        discriminator_steps: int = GAILConfig.discriminator_steps,
        penalty_coef: float = GAILConfig.penalty_coef,
        absorbing: bool = GAILConfig.absorbing,
        **settings: Any,
    ) -> None:
        check_n_demonstrations(n_demonstrations)
        own = {name: value for name, value in locals().items() if name in GAILConfig.__annotations__}
        own |= {"n_demonstrations": n_demonstrations, "discriminator_net_arch": tuple(discriminator_net_arch)}
        for name, value in own.items():
            setattr(self, name, value)
        super().__init__(policy, env, **settings)
        self._begin(demonstrations, own, without=_NOT_TAKEN)

    def _setup_model(self) -> None:
        _check_spaces(self.observation_space, self.action_space)
        super()._setup_model()
        size = input_size(
            observation_size(self.observation_space),
            spaces.flatdim(self.action_space),
            self.discriminator_input,
            self.absorbing,
        )
        self.discriminator = Discriminator(
            size, self.discriminator_net_arch, self.discriminator_activation, output="none"
        ).to(self.device)
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=self.discriminator_learning_rate
        )
        self._discriminator_update: DiscriminatorUpdate | None = None
        self._expert_inputs: tuple[Tensor, Tensor] | None = None

    def set_demonstrations(self, demonstrations: Demonstrations | str | Path) -> None:
        """As :meth:`FromDemonstrations.set_demonstrations`."""
        super().set_demonstrations(demonstrations)
        self._expert_inputs = None

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        record = RolloutRecord(env, lambda: self._last_obs)
        if not super().collect_rollouts(record, callback, rollout_buffer, n_rollout_steps):
            return False
        seen = record.transitions()
        policy_inputs = self._inputs(seen.observations, seen.actions, seen.next_observations)
        self._train_discriminator(policy_inputs, seen.ended)
        # The record gave rewards of 0, so that what is there is the value behind the ends by a time limit.
        rollout_buffer.rewards += self._rewards(policy_inputs, seen.ended).reshape(rollout_buffer.rewards.shape)
        with torch.no_grad():
            last_values = self.policy.predict_values(obs_as_tensor(self._last_obs, self.device))  # type: ignore[arg-type]
        assert self._last_episode_starts is not None
        rollout_buffer.compute_returns_and_advantage(last_values, self._last_episode_starts)
        return True

    def _inputs(self, observations: Any, actions: np.ndarray, next_observations: Any) -> Tensor:
        """What the discriminator sees of transitions, (N, I), from actions in the environment's units."""
        if isinstance(self.action_space, spaces.Discrete):
            chosen = torch.from_numpy(actions.reshape(-1)).to(self.device, torch.int64)
            encoded = F.one_hot(chosen, int(self.action_space.n))
        else:
            flat = actions.reshape(len(actions), -1)
            encoded = torch.from_numpy(scaled_actions(flat, self.action_space)).to(self.device)
        here, following = (
            flat_observations(part, self.observation_space).to(self.device)
            for part in (observations, next_observations)
        )
        indicator = torch.zeros(len(here), 1, device=self.device) if self.absorbing else None
        return discriminator_inputs(here, encoded, following, self.discriminator_input, indicator)

    def _with_absorbing(self, inputs: Tensor, n_ends: int, weight: float) -> tuple[Tensor, Tensor]:
        """Rows and weights for the discriminator: an absorbing row for each true end besides ``inputs``."""
        weights = torch.ones(len(inputs), 1, device=self.device)
        if not self.absorbing or n_ends == 0:
            return inputs, weights
        rows = absorbing_input(inputs.shape[1], self.device).expand(n_ends, -1)
        extra = torch.full((n_ends, 1), weight, device=self.device)
        return torch.cat([inputs, rows]), torch.cat([weights, extra])

    def _expert_rows(self) -> tuple[Tensor, Tensor]:
        if self._expert_inputs is None:
            shown = self.demonstrations
            assert shown is not None
            inputs = self._inputs(shown.observations, shown.actions, shown.next_observations)
            # Subsampling keeps every true end, so that each counts for fewer transitions (DAC, arXiv 1809.02925).
            weight = 1 / shown.metadata.subsample_rate
            self._expert_inputs = self._with_absorbing(inputs, int((shown.discounts == 0).sum()), weight)
        return self._expert_inputs

    def _train_discriminator(self, policy_inputs: Tensor, ended: np.ndarray) -> None:
        policy_rows, policy_weights = self._with_absorbing(policy_inputs, int(ended.sum()), 1.0)
        expert_rows, expert_weights = self._expert_rows()
        rollouts = self._total_timesteps / (self.n_steps * self.n_envs)
        mode = choose_mode(self.compile, self.device, int(rollouts * self.discriminator_steps))
        update = self._discriminator_update
        if update is None:
            update = self._discriminator_update = DiscriminatorUpdate(
                self.discriminator, self.discriminator_optimizer, divergence="js", penalty_coef=self.penalty_coef
            )
        update.mode = mode
        history: dict[str, list[Tensor]] = defaultdict(list)
        for _ in range(self.discriminator_steps):
            expert = uniform_rows(len(expert_rows), self.discriminator_batch_size, self.device)
            policy = uniform_rows(len(policy_rows), self.discriminator_batch_size, self.device)
            mix = torch.rand(self.discriminator_batch_size, 1, device=self.device)
            info = update(expert_rows[expert], expert_weights[expert], policy_rows[policy], policy_weights[policy], mix)
            for name, value in info.items():
                history[name].append(value.clone())
        means = {name: torch.stack(values).mean().item() for name, values in history.items()}
        if means.pop("discriminator_finite") < 1:
            raise NonFiniteError(
                f"the discriminator's loss is NaN or infinite at step {self.num_timesteps}: lower "
                "discriminator_learning_rate or raise penalty_coef, and continue from the last good checkpoint"
            )
        for name, mean in means.items():
            self.logger.record(f"train/{name}", mean)

    @torch.no_grad()
    def _rewards(self, inputs: Tensor, ended: np.ndarray) -> np.ndarray:
        """The discriminator's rewards (N,) float32, with what follows a true end."""
        rewards = reward(self.discriminator(inputs), divergence="js", form=self.reward_form).flatten()
        self.logger.record("rollout/imitation_reward_mean", rewards.mean().item())
        if self.absorbing and ended.any():
            at_rest = self.discriminator(absorbing_input(inputs.shape[1], self.device))
            value = reward(at_rest, divergence="js", form=self.reward_form).squeeze() / (1 - self.gamma)
            rewards = rewards + torch.from_numpy(ended).to(self.device, torch.float32) * self.gamma * value
        found: np.ndarray = rewards.cpu().numpy()
        return found

    def _excluded_save_params(self) -> list[str]:
        ours = ["discriminator", "discriminator_optimizer", "_discriminator_update", "_expert_inputs"]
        return [*super()._excluded_save_params(), *ours]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        return [*state_dicts, "discriminator", "discriminator_optimizer"], tensors


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
