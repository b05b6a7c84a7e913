"""ValueDICE: imitation by the Donsker-Varadhan form of the KL divergence, from replay of any policy."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import GymEnv, ReplayBufferSamples, Schedule
from stable_baselines3.common.utils import FloatSchedule, update_learning_rate
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, SACPolicy
from torch import Tensor, nn

from rlopt.agents.imitation.adversarial_losses import convex_mix, gradient_penalty
from rlopt.agents.imitation.base import FromDemonstrations, check_n_demonstrations
from rlopt.agents.imitation.losses import orthogonal_penalty, value_dice_loss
from rlopt.agents.mdpo.off_policy import OffPolicyMDPO
from rlopt.agents.sac import losses
from rlopt.algorithms.resumable import with_settings_of
from rlopt.errors import ConfigError, SpaceError
from rlopt.optim.optimizers import is_second_order
from rlopt.validation import check_number, check_rate, require

if TYPE_CHECKING:
    from rlopt.data.demonstrations import Demonstrations

STD_FLOOR = 1e-3
"""Added to the deviation of the expert's observations (released code)."""
ABSORBING_ROWS = 10
"""Rows of the absorbing state that a true end stands for (released code)."""
_NOT_TAKEN = (
    "action_noise",
    "actor_q",
    "analytic_kl",
    "compile",
    "critic_log_prob_bound",
    "deterministic_behaviour",
    "ent_coef",
    "kl_coef",
    "kl_unit",
    "log_density_floor",
    "log_std_penalty",
    "mean_penalty",
    "n_steps",
    "old_policy_period",
    "replay_buffer_class",
    "sde_sample_freq",
    "target_entropy",
    "target_update_interval",
    "tau",
    "tsallis_q",
    "use_sde",
    "use_sde_at_warmup",
    "value_network",
)


class ExpertNormalizer(BaseFeaturesExtractor):
    """Flat observations, shifted and scaled by the expert's statistics, which travel with the policy.

    :param absorbing: add a last feature, 0 for every observation; that of the absorbing state is :meth:`absorbing_row`
    """

    mean: Tensor
    std: Tensor

    def __init__(self, observation_space: spaces.Box, absorbing: bool = True) -> None:
        size = int(np.prod(observation_space.shape))
        super().__init__(observation_space, size + int(absorbing))
        self.absorbing = absorbing
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def forward(self, observations: Tensor) -> Tensor:
        """Features (B, I) of observations (B, ...)."""
        features = (observations.to(self.mean.dtype).flatten(1) - self.mean) / self.std
        return nn.functional.pad(features, (0, 1)) if self.absorbing else features

    def absorbing_row(self) -> Tensor:
        """Features (1, I) of the absorbing state: zeros and a last 1."""
        row = self.mean.new_zeros(1, self.features_dim)
        row[:, -1] = 1.0
        return row


class _Rows(NamedTuple):
    """Network inputs of transitions, (B, I + A), and which of them truly ended."""

    here: Tensor
    following: Tensor
    ended: Tensor


class ValueDICE(FromDemonstrations, OffPolicyMDPO):
    """ValueDICE (Kostrikov, Nachum and Tompson, arXiv 1912.05032), online.

    nu, a critic whose Bellman residual is the log-ratio of occupancies, descends
    :func:`rlopt.agents.imitation.losses.value_dice_loss` and the actor climbs it, both from the same batches of
    demonstrations and replay. The environment's rewards are never read. Observations are normalised by the expert's
    mean and deviation, so not by a VecNormalize. Steps are not compiled. The settings that are listed in
    :class:`rlopt.OffPolicyMDPO` and concern critics' targets, entropy and proximity do not exist here.

    :param demonstrations: of this environment, or a path or name of some; see :meth:`set_demonstrations`
    :param n_demonstrations: learn from the first so many episodes; None for all
    :param learning_rate: of nu. Released code: 1e-3
    :param actor_learning_rate: of the actor, >= 0. Released code: 1e-5
    :param batch_size: rows of the expert and as many of the replay. Released code: 256
    :param gradient_steps: updates a step of the environment. Released code: 5
    :param replay_weight: alpha in [0, 1), the share of replay in both occupancies. Released script: 0.1
    :param penalty_coef: weight of the two-sided gradient penalty on nu, >= 0. Released code: 10
    :param orthogonal_coef: weight of the orthogonal penalty on the actor, >= 0. Released code: 1e-4
    :param exploration_noise: deviation of the Gaussian noise on the mean action, in units of half the action range.
        Released code: 0.1
    :param absorbing: a true end is followed by an absorbing state with a feature of its own, of which ten rows belong
        to it. False looks at the last observation as if the episode had gone on
    :raises rlopt.errors.ConfigError: for a setting out of range, or from ``learn`` without demonstrations
    :raises rlopt.errors.DataError: for demonstrations that do not fit, or fewer than asked for
    :raises rlopt.errors.SpaceError: for observations that are no flat or flattened numbers
    """

    actor_learning_rate: float | Schedule
    replay_weight: float
    penalty_coef: float
    orthogonal_coef: float
    exploration_noise: float
    absorbing: bool

    @with_settings_of(OffPolicyMDPO, *_NOT_TAKEN, learning_rate=1e-3, learning_starts=2000, gradient_steps=5)
    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str | None,
        demonstrations: Demonstrations | str | Path | None = None,
        *,
        n_demonstrations: int | None = None,
        actor_learning_rate: float | Schedule = 1e-5,
        replay_weight: float = 0.1,
        penalty_coef: float = 10.0,
        orthogonal_coef: float = 1e-4,
        exploration_noise: float = 0.1,
        absorbing: bool = True,
        policy_kwargs: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        own: dict[str, Any] = {
            "actor_learning_rate": actor_learning_rate,
            "replay_weight": replay_weight,
            "penalty_coef": penalty_coef,
            "orthogonal_coef": orthogonal_coef,
            "exploration_noise": exploration_noise,
            "absorbing": absorbing,
        }
        check_n_demonstrations(n_demonstrations)
        require(type(absorbing) is bool, f"absorbing is {absorbing!r}: give True or False")
        check_number("replay_weight", replay_weight, 0, np.nextafter(1, 0), closed=True, whole=False)
        check_rate("actor_learning_rate", actor_learning_rate)
        for name in ("penalty_coef", "orthogonal_coef", "exploration_noise"):
            check_number(name, own[name], 0, float("inf"), closed=True, whole=False)
        fixed = {"features_extractor_class", "features_extractor_kwargs", "n_critics", "share_features_extractor"}
        refused = sorted(fixed & set(policy_kwargs or {}))
        require(not refused, f"ValueDICE's networks have no {', '.join(refused)}: leave it out of policy_kwargs")
        self.n_demonstrations = n_demonstrations
        for name, value in own.items():
            setattr(self, name, value)
        networks = {
            "features_extractor_class": ExpertNormalizer,
            "features_extractor_kwargs": {"absorbing": absorbing},
            "n_critics": 1,
        }
        super().__init__(
            policy,
            env,
            ent_coef=0.0,
            kl_coef=0.0,
            deterministic_behaviour=True,
            compile="off",
            policy_kwargs={**(policy_kwargs or {}), **networks},
            **settings,
        )
        own |= {"n_demonstrations": n_demonstrations, "policy_kwargs": copy.deepcopy(policy_kwargs)}
        self._begin(demonstrations, own, without=_NOT_TAKEN)

    def _setup_model(self) -> None:
        space = self.observation_space
        if not isinstance(space, spaces.Box) or is_image_space(space):
            raise SpaceError(
                f"ValueDICE normalises observations as arrays of numbers, not {space}: flatten them with "
                "gymnasium.wrappers.FlattenObservation"
            )
        super()._setup_model()
        require(
            not is_second_order(self.actor.optimizer),
            f"ValueDICE cannot use the optimizer {type(self.actor.optimizer).__name__}: the gradients of both networks "
            "come from one graph, which the step of the first would break; take one that needs no second derivatives",
        )
        assert self.action_space.shape is not None
        if self.exploration_noise > 0:
            deviation = np.full(self.action_space.shape, self.exploration_noise)
            self.action_noise = NormalActionNoise(np.zeros_like(deviation), deviation)
        for module in (*self.nu.modules(), *self.actor.modules()):
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight)
                nn.init.zeros_(module.bias)

    @property
    def nu(self) -> nn.Module:
        """The network of nu: (B, 1) from features and actions side by side."""
        network: nn.Module = self.critic.q_networks[0]
        return network

    @property
    def _normalizer(self) -> ExpertNormalizer:
        extractor = self.actor.features_extractor
        assert isinstance(extractor, ExpertNormalizer)
        return extractor

    def set_demonstrations(self, demonstrations: Demonstrations | str | Path) -> None:
        """As :meth:`FromDemonstrations.set_demonstrations`; an untrained model takes the observations' statistics."""
        super().set_demonstrations(demonstrations)
        assert self.expert is not None
        if self._n_updates > 0:
            return
        flat = self.expert.observations.flatten(1).double()
        mean, std = flat.mean(dim=0), flat.std(dim=0, correction=0) + STD_FLOOR
        for extractor in self.policy.modules():
            if isinstance(extractor, ExpertNormalizer):
                extractor.mean.copy_(mean)
                extractor.std.copy_(std)

    def at_boundary(self) -> bool:
        """As :meth:`FromDemonstrations.at_boundary`."""
        if self._vec_normalize_env is not None:
            raise ConfigError(
                "ValueDICE normalises observations by the expert's statistics: give it the environment without "
                "VecNormalize"
            )
        return super().at_boundary()

    def _update_learning_rate(self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer) -> None:
        super()._update_learning_rate(optimizers)
        rate = FloatSchedule(self.actor_learning_rate)(self._current_progress_remaining)
        update_learning_rate(self.actor.optimizer, rate)

    def _draw_noise(self, batch: ReplayBufferSamples) -> tuple[Tensor | None, Tensor | None]:
        return None, None

    def _gradient_step(
        self, batch: ReplayBufferSamples, noise: Tensor | None, next_noise: Tensor | None
    ) -> losses.Info:
        """One update of nu and of the actor, each from the gradient before the other's step."""
        loss, penalty, info = self._objective(batch)
        nu_loss = loss + self.penalty_coef * penalty
        regularity = orthogonal_penalty(self._actor_weights())
        actor_loss = self.orthogonal_coef * regularity - loss
        self._check_loss("nu loss", nu_loss)
        for found, network in ((nu_loss, self.critic), (actor_loss, self.actor)):
            parameters = list(network.parameters())
            gradients = torch.autograd.grad(found, parameters, retain_graph=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
        self.critic.optimizer.step()
        self.actor.optimizer.step()
        info |= {"gradient_penalty": penalty, "orthogonal_penalty": regularity, "actor_loss": actor_loss}
        return {name: value.detach() for name, value in info.items()}

    def _objective(self, batch: ReplayBufferSamples) -> tuple[Tensor, Tensor, losses.Info]:
        """ValueDICE's objective and the gradient penalty on nu, with gradients to both networks."""
        assert self.expert is not None
        shown = self.expert.gather(self.expert.sample_rows(len(batch.actions)))
        expert = self._rows(shown.observations, shown.actions, shown.next_observations, 1 - shown.discounts)
        replay = self._rows(batch.observations, batch.actions, batch.next_observations, batch.dones)
        features = self._normalizer(shown.observations)
        initial = torch.cat([features, self._actions(features)], dim=1)
        inputs = [expert.here, expert.following, replay.here, replay.following, initial]
        sizes = [len(part) for part in inputs]
        here, following, own, own_following, initial_values = self.nu(torch.cat(inputs)).split(sizes)
        residuals = [here - self.gamma * following, own - self.gamma * own_following]
        weights = [torch.ones_like(rows.ended) for rows in (expert, replay)]
        if self.absorbing:
            at_rest = self._absorbing_residual()
            for index, rows in enumerate((expert, replay)):
                count = ABSORBING_ROWS * rows.ended.sum().reshape(1, 1)
                residuals[index] = torch.cat([residuals[index], at_rest])
                weights[index] = torch.cat([weights[index], count])
        scalars = {"gamma": self.gamma, "replay_weight": self.replay_weight}
        loss, info = value_dice_loss(residuals[0], residuals[1], initial_values, weights[0], weights[1], **scalars)
        if not self.penalty_coef:
            return loss, torch.zeros((), device=self.device), info
        mix = torch.rand(len(expert.here), 1, device=self.device)
        between = [convex_mix(expert.here, replay.here, mix), convex_mix(expert.following, replay.following, mix)]
        return loss, gradient_penalty(self.nu, torch.cat(between).detach()), info

    def _rows(self, observations: Tensor, actions: Tensor, next_observations: Tensor, ended: Tensor) -> _Rows:
        features, following = self._normalizer(observations), self._normalizer(next_observations)
        if self.absorbing:
            following = torch.where(ended > 0, self._normalizer.absorbing_row(), following)
        next_inputs = torch.cat([following, self._actions(following)], dim=1)
        return _Rows(torch.cat([features, actions], dim=1), next_inputs, ended)

    def _absorbing_residual(self) -> Tensor:
        """x (1, 1) of the absorbing state with action 0."""
        row = self._normalizer.absorbing_row()
        action = self._actions(row)
        inputs = torch.cat([torch.cat([row, torch.zeros_like(action)], dim=1), torch.cat([row, action], dim=1)])
        here, following = self.nu(inputs).split(1)
        return here - self.gamma * following

    def _actions(self, features: Tensor) -> Tensor:
        """Actions (B, A) in (-1, 1) of the policy, sampled with a gradient."""
        latent = self.actor.latent_pi(features)
        mean, log_std = self.actor.mu(latent), self.actor.log_std(latent).clamp(LOG_STD_MIN, LOG_STD_MAX)  # type: ignore[operator]
        return losses.sample_squashed_gaussian(mean, log_std, torch.randn_like(mean)).actions

    def _actor_weights(self) -> Sequence[Tensor]:
        hidden = [module.weight for module in self.actor.latent_pi.modules() if isinstance(module, nn.Linear)]
        assert isinstance(self.actor.log_std, nn.Linear) and isinstance(self.actor.mu, nn.Linear)
        return [*hidden, torch.cat([self.actor.mu.weight, self.actor.log_std.weight])]

    def _update_targets(self) -> None:
        """There are no slow copies in ValueDICE."""
