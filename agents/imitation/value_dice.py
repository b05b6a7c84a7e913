"""ValueDICE: imitation by the Donsker-Varadhan form of the KL divergence, from replay of any policy."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.preprocessing import get_action_dim, is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule, update_learning_rate
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, SACPolicy
from torch import Tensor, nn

from rlopt.agents.imitation.adversarial_losses import convex_mix, gradient_penalty
from rlopt.agents.imitation.config import ValueDICEConfig
from rlopt.agents.imitation.losses import orthogonal_penalty, value_dice_loss
from rlopt.agents.sac.algorithm import SAC
from rlopt.agents.sac.batch import Batch, Drawn
from rlopt.agents.sac.losses import Info, sample_squashed_gaussian
from rlopt.algorithms.demonstrations import NOT_CENTRED, FromDemonstrations
from rlopt.algorithms.resumable import with_settings_of
from rlopt.data.demonstrations import Demonstrations
from rlopt.errors import ConfigError, SpaceError, require
from rlopt.optim.descent import Network, Networks, Part, Scalar
from rlopt.optim.optimizers import is_second_order

STD_FLOOR = 1e-3
"""Added to the deviation of the expert's observations (released code)."""
ABSORBING_ROWS = 10
"""Rows of the absorbing state that a true end stands for (released code)."""
_NOT_TAKEN = (
    "action_noise",
    "actor_starts",
    "cloning_coef",
    "cloning_steps",
    "demo_fraction",
    "ent_coef",
    "n_steps",
    "policy_delay",
    "random_shift",
    "replay_buffer_class",
    "sde_sample_freq",
    "target_entropy",
    "target_update_interval",
    "tau",
    "use_sde",
    "use_sde_at_warmup",
)
"""Settings of SAC that concern critics' targets, entropy and exploration."""


class ExpertNormalizer(BaseFeaturesExtractor):
    """Flat observations, shifted and scaled by the expert's statistics, which are saved with the policy.

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


class ValueDICE(FromDemonstrations, SAC):
    """ValueDICE (Kostrikov, Nachum and Tompson, arXiv 1912.05032), online.

    nu is a critic whose Bellman residual is the log-ratio of occupancies. It minimises
    :func:`rlopt.agents.imitation.losses.value_dice_loss` and the actor maximises it, both from the same batches of
        demonstrations and replay. The environment's rewards are never used. Observations are normalised by the expert's
        mean and deviation, so VecNormalize is refused. :class:`rlopt.agents.imitation.config.ValueDICEConfig` declares
        and explains the settings; it has no settings for target networks and entropy.

    :param demonstrations: demonstrations of this environment, or their path or name; see :meth:`set_demonstrations`
    :param n_demonstrations: number of episodes to learn from, the first ones; None for all
    :raises rlopt.errors.ConfigError: for a setting out of range, or from ``learn`` without demonstrations
    :raises rlopt.errors.DataError: for demonstrations that do not fit, or fewer than asked for
    :raises rlopt.errors.SpaceError: for observations that are not flat or flattened numbers
    """

    acts_on_mean = True
    made_with: ClassVar[tuple[str, ...]] = ("exploration_noise", "absorbing")
    actor_learning_rate: float | Schedule
    replay_weight: float
    gradient_penalty: float
    orthogonal_coef: float
    exploration_noise: float
    absorbing: bool

    @with_settings_of(SAC, *_NOT_TAKEN, *NOT_CENTRED, config=ValueDICEConfig)
    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str | None,
        demonstrations: Demonstrations | str | Path | None = None,
        *,
        policy_kwargs: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        fixed = {"features_extractor_class", "features_extractor_kwargs", "n_critics", "share_features_extractor"}
        refused = sorted(fixed & set(policy_kwargs or {}))
        require(not refused, f"ValueDICE's networks have no {', '.join(refused)}: leave it out of policy_kwargs")
        networks = {
            "features_extractor_class": ExpertNormalizer,
            "features_extractor_kwargs": {"absorbing": self.absorbing},
            "n_critics": 1,
        }
        settings |= {"demonstrations": demonstrations, "ent_coef": 0.0, "demo_fraction": 0.0, "cloning_coef": 0.0}
        super().__init__(policy, env, policy_kwargs={**(policy_kwargs or {}), **networks}, **settings)
        self.constructor_settings["policy_kwargs"] = copy.deepcopy(policy_kwargs)

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
        for module in (*self.critic.modules(), *self.actor.modules()):
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight)
                nn.init.zeros_(module.bias)

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

    # ---- the gradient step

    def networks(self) -> dict[str, Part]:
        """nu and the actor."""
        return {"nu": Part(self.critic, self.critic.optimizer), "actor": Part(self.actor, self.actor.optimizer)}

    def scalars(self) -> dict[str, float]:
        return {}

    def draw(self, batch_size: int) -> Drawn:
        """A batch of the replay buffer and one of the expert, noise for all actions, and the points of the gradient
        penalty."""
        assert self.expert is not None
        drawn = self._draw_batch(batch_size)
        shown = self.expert.gather(self.expert.sample_rows(batch_size))
        drawn |= {f"expert_{name}": value for name, value in shown._asdict().items()}
        # For the actions at the expert's states, at its next ones, at those of the replay, and in the absorbing state.
        shape = (3 * batch_size + 1, get_action_dim(self.action_space))
        drawn["noise"] = torch.randn(shape, device=self.device)
        drawn["mix"] = torch.rand(batch_size, 1, device=self.device)
        return drawn

    def gradient_step(
        self,
        networks: Networks,
        batch: Batch,
        drawn: Mapping[str, Tensor],
        scalars: Mapping[str, Scalar],
        move_targets: bool,
    ) -> Info:
        """One step of nu and of the actor, each along the gradient at the parameters before the step."""
        info: Info = networks.descend_together(("nu", "actor"), self.objective, batch, drawn)
        return info

    def objective(
        self, networks: Mapping[str, Network], batch: Batch, drawn: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Info]:
        """The losses of nu and actor, scalars, and statistics."""
        nu, actor = networks["nu"], networks["actor"]
        size = len(batch.actions)
        initial_noise, expert_noise, replay_noise, rest_noise = drawn["noise"].split([size, size, size, 1])
        shown, ended = drawn["expert_observations"], 1 - drawn["expert_discounts"]
        expert = self._rows(
            actor, shown, drawn["expert_actions"], drawn["expert_next_observations"], ended, expert_noise
        )
        ended = (batch.discounts == 0).to(ended.dtype)
        replay = self._rows(actor, batch.observations, batch.actions, batch.next_observations, ended, replay_noise)
        features = self._features(actor, shown)
        initial = torch.cat([features, self._actions(actor, features, initial_noise)], dim=1)
        inputs = [expert.here, expert.following, replay.here, replay.following, initial]
        values = self._nu(nu, torch.cat(inputs)).split([len(part) for part in inputs])
        here, following, own, own_following, initial_values = values
        residuals = [here - self.gamma * following, own - self.gamma * own_following]
        weights = [torch.ones_like(rows.ended) for rows in (expert, replay)]
        if self.absorbing:
            at_rest = self._absorbing_residual(nu, actor, rest_noise)
            for index, rows in enumerate((expert, replay)):
                count = ABSORBING_ROWS * rows.ended.sum().reshape(1, 1)
                residuals[index] = torch.cat([residuals[index], at_rest])
                weights[index] = torch.cat([weights[index], count])
        loss, info = value_dice_loss(
            residuals[0],
            residuals[1],
            initial_values,
            weights[0],
            weights[1],
            gamma=self.gamma,
            replay_weight=self.replay_weight,
        )
        penalty = loss.new_zeros(())
        if self.gradient_penalty:
            pairs = ((expert.here, replay.here), (expert.following, replay.following))
            between = torch.cat([convex_mix(*pair, drawn["mix"]) for pair in pairs]).detach()
            penalty = gradient_penalty(lambda x: self._nu(nu, x), between)
        regularity = orthogonal_penalty(self._actor_weights(actor))
        found = {"nu": loss + self.gradient_penalty * penalty, "actor": self.orthogonal_coef * regularity - loss}
        info |= {"gradient_penalty": penalty, "orthogonal_penalty": regularity, "actor_loss": found["actor"]}
        return found, {name: value.detach() for name, value in info.items()}

    def _rows(
        self, actor: Network, observations: Tensor, actions: Tensor, following: Tensor, ended: Tensor, noise: Tensor
    ) -> _Rows:
        features, following = self._features(actor, observations), self._features(actor, following)
        if self.absorbing:
            following = torch.where(ended > 0, self._normalizer.absorbing_row(), following)
        next_inputs = torch.cat([following, self._actions(actor, following, noise)], dim=1)
        return _Rows(torch.cat([features, actions], dim=1), next_inputs, ended)

    def _absorbing_residual(self, nu: Network, actor: Network, noise: Tensor) -> Tensor:
        """x (1, 1) of the absorbing state with action 0."""
        row = self._normalizer.absorbing_row()
        action = self._actions(actor, row, noise)
        inputs = torch.cat([torch.cat([row, torch.zeros_like(action)], dim=1), torch.cat([row, action], dim=1)])
        here, following = self._nu(nu, inputs).split(1)
        return here - self.gamma * following

    @staticmethod
    def _nu(nu: Network, inputs: Tensor) -> Tensor:
        """(B, 1) from features and actions side by side."""
        found: Tensor = nu(inputs, method="qf0")
        return found

    @staticmethod
    def _features(actor: Network, observations: Tensor) -> Tensor:
        """Normalised observations (B, I)."""
        found: Tensor = actor(observations, method="features_extractor")
        return found

    @staticmethod
    def _actions(actor: Network, features: Tensor, noise: Tensor) -> Tensor:
        """Actions (B, A) in (-1, 1) of the policy, sampled with a gradient."""
        latent = actor(features, method="latent_pi")
        mean, log_std = actor(latent, method="mu"), actor(latent, method="log_std").clamp(LOG_STD_MIN, LOG_STD_MAX)
        return sample_squashed_gaussian(mean, log_std, noise).actions

    def _actor_weights(self, actor: Network) -> Sequence[Tensor]:
        hidden = [
            f"latent_pi.{name}.weight"
            for name, module in self.actor.latent_pi.named_modules()
            if isinstance(module, nn.Linear)
        ]
        return [*(actor[name] for name in hidden), torch.cat([actor["mu.weight"], actor["log_std.weight"]])]
