"""Implicit Q-learning (Kostrikov, Nair and Levine, arXiv 2110.06169)."""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from rlopt.agents.offline import losses
from rlopt.agents.offline.base import OfflineAlgorithm
from rlopt.agents.offline.config import IQLConfig, OfflineConfig
from rlopt.agents.offline.data import Batch
from rlopt.agents.offline.losses import Info
from rlopt.agents.offline.policy import Needs
from rlopt.agents.offline.update import Parameters


class IQL(OfflineAlgorithm):
    """Implicit Q-learning: no action outside the data is ever evaluated.

    :class:`~rlopt.agents.offline.base.OfflineAlgorithm` explains the settings of every offline learner; here
    ``normalize_observations`` is on. ``learn`` counts gradient steps until ``set_env`` gives the model an environment
    for fine-tuning. Discrete actions work too.
    """

    config_class: ClassVar[type[OfflineConfig]] = IQLConfig
    coefficients: ClassVar[tuple[str, ...]] = (
        *OfflineAlgorithm.coefficients,
        "critic_learning_rate",
        "gamma",
        "tau",
        "beta",
        "expectile",
        "largest_weight",
    )
    discrete_actions: ClassVar[bool] = True
    deterministic_actor: bool
    cosine_decay: bool

    def needs(self) -> Needs:
        kind = self.actor_kind("deterministic" if self.deterministic_actor else "gaussian")
        return Needs(kind, n_critics=2, value=True)

    def coefficient(self, name: str) -> float:
        value = super().coefficient(name)
        if name == "learning_rate" and self.cosine_decay and not self.online:
            # Fine-tuning begins at the full rate again, which stays.
            value *= 0.5 * (1 + math.cos(math.pi * (1 - self._current_progress_remaining)))
        return value

    def update(self, batch: Batch, noise: Sequence[Tensor], c: Mapping[str, Tensor], with_actor: bool) -> Info:
        nets = self.networks
        assert nets.critics_target is not None and nets.value is not None
        with torch.no_grad():
            slow = losses.smallest(nets.q_values(nets.critics_target.tensors, batch.observations, batch.actions))
            advantages = slow - nets.state_values(nets.value.tensors, batch.observations)

        def value_objective(value: Parameters) -> tuple[Tensor, Info]:
            differences = slow - nets.state_values(value, batch.observations)
            return losses.expectile_loss(differences, expectile=c["expectile"])

        info = nets.descend(nets.value, "value", value_objective, c["critic_learning_rate"])
        targets = self.targets(batch, c)

        def critic_objective(critics: Parameters) -> tuple[Tensor, Info]:
            return losses.critic_loss(nets.q_values(critics, batch.observations, batch.actions), targets)

        critic_info = nets.descend(nets.critics, "critics", critic_objective, c["critic_learning_rate"])

        def actor_objective(actor: Parameters) -> tuple[Tensor, Info]:
            return self.actor_objective(actor, advantages, batch, c)

        actor_info = nets.descend(nets.actor, "actor", actor_objective, c["learning_rate"])
        nets.follow(nets.critics_target, nets.critics, c["tau"])
        return info | critic_info | actor_info

    @torch.no_grad()
    def targets(self, batch: Batch, c: Mapping[str, Tensor]) -> Tensor:
        """r + gamma V(s'), (B, 1) (eq. 6)."""
        nets = self.networks
        assert nets.value is not None
        next_values = nets.state_values(nets.value.tensors, batch.next_observations)
        return losses.td_target(batch.rewards, c["gamma"] * batch.continues, next_values)

    def actor_objective(
        self, actor: Parameters, advantages: Tensor, batch: Batch, c: Mapping[str, Tensor]
    ) -> tuple[Tensor, Info]:
        """The loss that the actor's parameters descend, with advantages (B, 1) of the data's actions."""
        function = self.networks.actor_function
        weights = losses.advantage_weights(advantages, inverse_temperature=c["beta"], largest=c["largest_weight"])
        if function.kind == "deterministic":
            errors = losses.squared_distance(function.mean_action(actor, batch.observations), batch.actions)
        else:
            errors = -function.log_prob(actor, batch.observations, batch.actions)
        return losses.weighted_cloning_loss(weights, errors)

    def validate(self, batch: Batch, c: Mapping[str, Tensor]) -> Info:
        nets = self.networks
        assert nets.critics is not None and nets.critics_target is not None and nets.value is not None
        slow = losses.smallest(nets.q_values(nets.critics_target.tensors, batch.observations, batch.actions))
        advantages = slow - nets.state_values(nets.value.tensors, batch.observations)
        q_values = nets.q_values(nets.critics.tensors, batch.observations, batch.actions)
        return (
            losses.expectile_loss(advantages, expectile=c["expectile"])[1]
            | losses.critic_loss(q_values, self.targets(batch, c))[1]
            | self.actor_objective(nets.actor.tensors, advantages, batch, c)[1]
        )
