"""TD3+BC (Fujimoto and Gu, arXiv 2106.06860), and the deterministic actor-critic that it shares with ReBRAC."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor

from rlopt.agents.offline import losses
from rlopt.agents.offline.base import OfflineAlgorithm
from rlopt.agents.offline.config import OfflineConfig, TD3BCConfig
from rlopt.agents.offline.data import Batch
from rlopt.agents.offline.losses import Info
from rlopt.agents.offline.policy import Needs
from rlopt.agents.offline.update import Parameters


class DeterministicActorCritic(OfflineAlgorithm):
    """TD3 (arXiv 1802.09477) on data: two critics, smoothed target actions, an actor that moves less often."""

    coefficients: ClassVar[tuple[str, ...]] = (
        *OfflineAlgorithm.coefficients,
        "critic_learning_rate",
        "gamma",
        "tau",
        "target_policy_noise",
        "target_noise_clip",
    )
    critic_learning_rate: float | Schedule | None
    target_policy_noise: float
    target_noise_clip: float

    def needs(self) -> Needs:
        return Needs("deterministic", actor_target=True, n_critics=2)

    def draw_noise(self, steps: int, batch_size: int) -> list[Tensor]:
        assert self.action_space.shape is not None
        return [torch.randn(steps, batch_size, *self.action_space.shape, device=self.device)]

    def update(self, batch: Batch, noise: Sequence[Tensor], c: Mapping[str, Tensor], with_actor: bool) -> Info:
        nets = self.networks
        targets = self.targets(batch, noise[0], c)

        def critic_objective(critics: Parameters) -> tuple[Tensor, Info]:
            return losses.critic_loss(nets.q_values(critics, batch.observations, batch.actions), targets)

        info = nets.descend(nets.critics, "critics", critic_objective, c["critic_learning_rate"])
        if not with_actor:
            return info
        actor_info = nets.descend(
            nets.actor, "actor", lambda actor: self.actor_objective(actor, batch, c), c["learning_rate"]
        )
        nets.follow(nets.critics_target, nets.critics, c["tau"])
        nets.follow(nets.actor_target, nets.actor, c["tau"])
        return info | actor_info

    @torch.no_grad()
    def targets(self, batch: Batch, noise: Tensor, c: Mapping[str, Tensor]) -> Tensor:
        """y = r + gamma V'(s'), (B, 1)."""
        nets = self.networks
        assert nets.actor_target is not None and nets.critics_target is not None
        smoothing = {"std": c["target_policy_noise"], "clip": c["target_noise_clip"]}
        actions = nets.actor_function.mean_action(nets.actor_target.tensors, batch.next_observations)
        actions = losses.smoothed_actions(actions, noise, **smoothing)
        q_values = nets.q_values(nets.critics_target.tensors, batch.next_observations, actions)
        next_values = self.next_values(q_values, actions, batch, c)
        return losses.td_target(batch.rewards, c["gamma"] * batch.continues, next_values)

    def next_values(self, q_values: Tensor, actions: Tensor, batch: Batch, c: Mapping[str, Tensor]) -> Tensor:
        """V'(s'), (B, 1), from the target critics' values (B, n) at the smoothed ``actions`` (B, A)."""
        return losses.smallest(q_values)

    def actor_objective(self, actor: Parameters, batch: Batch, c: Mapping[str, Tensor]) -> tuple[Tensor, Info]:
        """The loss that the actor's parameters descend."""
        raise NotImplementedError

    def validate(self, batch: Batch, c: Mapping[str, Tensor]) -> Info:
        nets = self.networks
        assert nets.critics is not None
        targets = self.targets(batch, torch.zeros_like(batch.actions), c)
        q_values = nets.q_values(nets.critics.tensors, batch.observations, batch.actions)
        return losses.critic_loss(q_values, targets)[1] | self.actor_objective(nets.actor.tensors, batch, c)[1]


class TD3BC(DeterministicActorCritic):
    """TD3 with behaviour cloning: the actor maximises Q and stays near the data's actions.

    :class:`~rlopt.agents.offline.base.OfflineAlgorithm` explains the settings of every offline learner; here
    ``normalize_observations`` is on. ``learn`` counts gradient steps until ``set_env`` gives the model an environment
    for fine-tuning.
    """

    config_class: ClassVar[type[OfflineConfig]] = TD3BCConfig
    coefficients: ClassVar[tuple[str, ...]] = (*DeterministicActorCritic.coefficients, "alpha")
    alpha: float

    def actor_objective(self, actor: Parameters, batch: Batch, c: Mapping[str, Tensor]) -> tuple[Tensor, Info]:
        nets = self.networks
        assert nets.critics is not None
        actions = nets.actor_function.mean_action(actor, batch.observations)
        q_values = nets.first_q_value(nets.critics.tensors, batch.observations, actions)
        return losses.td3_bc_loss(q_values, actions, batch.actions, alpha=c["alpha"])
