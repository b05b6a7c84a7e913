"""Advantage-weighted actor-critic (Nair et al., arXiv 2006.09359)."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from rlopt.agents.offline import losses
from rlopt.agents.offline.base import OfflineAlgorithm
from rlopt.agents.offline.config import AWACConfig, OfflineConfig
from rlopt.agents.offline.data import Batch
from rlopt.agents.offline.losses import Info
from rlopt.agents.offline.policy import Needs
from rlopt.agents.offline.update import Parameters


class AWAC(OfflineAlgorithm):
    """Advantage-weighted actor-critic: the actor is fitted to the data's actions, weighted by their advantages.

    :class:`~rlopt.agents.offline.base.OfflineAlgorithm` explains the settings of every offline learner; here
    ``normalize_observations`` is on. ``learn`` counts gradient steps until ``set_env`` gives the model an environment
    for fine-tuning. With Discrete actions, the values of states are exact means over actions instead of one sample.
    """

    config_class: ClassVar[type[OfflineConfig]] = AWACConfig
    coefficients: ClassVar[tuple[str, ...]] = (
        *OfflineAlgorithm.coefficients,
        "critic_learning_rate",
        "gamma",
        "tau",
        "awac_lambda",
        "largest_weight",
    )
    discrete_actions: ClassVar[bool] = True

    def needs(self) -> Needs:
        return Needs(self.actor_kind("gaussian"), n_critics=2)

    def draw_noise(self, steps: int, batch_size: int) -> list[Tensor]:
        if self.discrete:
            return []
        assert self.action_space.shape is not None
        shape = (steps, batch_size, *self.action_space.shape)
        return [torch.randn(shape, device=self.device) for _ in range(2)]

    def update(self, batch: Batch, noise: Sequence[Tensor], c: Mapping[str, Tensor], with_actor: bool) -> Info:
        nets = self.networks
        at_state, at_next = noise if noise else (None, None)
        targets = self.targets(batch, at_next, c)

        def critic_objective(critics: Parameters) -> tuple[Tensor, Info]:
            return losses.critic_loss(nets.q_values(critics, batch.observations, batch.actions), targets)

        info = nets.descend(nets.critics, "critics", critic_objective, c["critic_learning_rate"])
        advantages = self.advantages(batch, at_state)

        def actor_objective(actor: Parameters) -> tuple[Tensor, Info]:
            return self.actor_objective(actor, advantages, batch, c)

        actor_info = nets.descend(nets.actor, "actor", actor_objective, c["learning_rate"])
        nets.follow(nets.critics_target, nets.critics, c["tau"])
        return info | actor_info

    def state_values(self, critics: Parameters, observations: Tensor, noise: Tensor | None) -> Tensor:
        """E_pi[min_i Q_i(s, a)], (B, 1): from one action made of ``noise`` (B, A), or exact for Discrete actions."""
        nets = self.networks
        if noise is None:
            weights = nets.actor_function.probabilities(nets.actor.tensors, observations)
            return (weights * nets.every_q_value(critics, observations).min(dim=0)[0]).sum(dim=1, keepdim=True)
        actions = nets.actor_function.sample(nets.actor.tensors, observations, noise).actions
        return losses.smallest(nets.q_values(critics, observations, actions))

    @torch.no_grad()
    def targets(self, batch: Batch, noise: Tensor | None, c: Mapping[str, Tensor]) -> Tensor:
        """r + gamma E_pi[min Q'(s', a')], (B, 1)."""
        assert self.networks.critics_target is not None
        next_values = self.state_values(self.networks.critics_target.tensors, batch.next_observations, noise)
        return losses.td_target(batch.rewards, c["gamma"] * batch.continues, next_values)

    @torch.no_grad()
    def advantages(self, batch: Batch, noise: Tensor | None) -> Tensor:
        """min_i Q_i(s, a) - V(s) of the data's actions, (B, 1)."""
        nets = self.networks
        assert nets.critics is not None
        taken = losses.smallest(nets.q_values(nets.critics.tensors, batch.observations, batch.actions))
        return taken - self.state_values(nets.critics.tensors, batch.observations, noise)

    def actor_objective(
        self, actor: Parameters, advantages: Tensor, batch: Batch, c: Mapping[str, Tensor]
    ) -> tuple[Tensor, Info]:
        """The loss that the actor's parameters descend, with ``advantages`` (B, 1) of the data's actions."""
        weights = losses.advantage_weights(
            advantages, inverse_temperature=1 / c["awac_lambda"], largest=c["largest_weight"]
        )
        errors = -self.networks.actor_function.log_prob(actor, batch.observations, batch.actions)
        return losses.weighted_cloning_loss(weights, errors)

    def validate(self, batch: Batch, c: Mapping[str, Tensor]) -> Info:
        nets = self.networks
        assert nets.critics is not None
        noise = None if self.discrete else torch.zeros_like(batch.actions)
        q_values = nets.q_values(nets.critics.tensors, batch.observations, batch.actions)
        critic_info = losses.critic_loss(q_values, self.targets(batch, noise, c))[1]
        return critic_info | self.actor_objective(nets.actor.tensors, self.advantages(batch, noise), batch, c)[1]
