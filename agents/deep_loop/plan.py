"""The hypothesis in force between two switches: frozen networks that act and whose Bellman residual is watched."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.sac.policies import Actor
from torch import Tensor, nn

from rlopt.agents.deep_loop import losses
from rlopt.agents.deep_loop.objective import DifferentialObjective
from rlopt.agents.sac import losses as sac_losses


class Plan(nn.Module):
    """f = (Q_f, J_f, pi_f), with the price of a reset and the temperature at the time of the switch."""

    gain: Tensor
    reset_price: Tensor
    ent_coef: Tensor

    def __init__(self, actor: Actor, critic: ContinuousCritic) -> None:
        super().__init__()
        self.actor, self.critic = actor, critic
        for name in ("gain", "reset_price", "ent_coef"):
            self.register_buffer(name, torch.zeros(()))
        self.requires_grad_(False)
        self.train(False)

    def freeze(self, actor: Actor, critic: ContinuousCritic, **scalars: Tensor) -> None:
        """Takes over what the learner has now."""
        self.actor.load_state_dict(actor.state_dict())
        self.critic.load_state_dict(critic.state_dict())
        for name, value in scalars.items():
            getattr(self, name).copy_(value.detach().reshape(()))

    @torch.no_grad()
    def act(self, observations: Any, deterministic: bool) -> Tensor:
        """Actions (B, A) in [-1, 1]."""
        actions: Tensor = self.actor(observations, deterministic)
        return actions

    @torch.no_grad()
    def residuals(self, batch: Any, objective: DifferentialObjective) -> Tensor:
        """r + V_f(s') - J_f - Q_f(s, a), (B, 1), with one action of pi_f for each s'.

        :param batch: of a replay buffer, its ``dones`` saying where the process was reset
        """
        mean, log_std, _ = self.actor.get_action_dist_params(batch.next_observations)
        policy = sac_losses.sample_squashed_gaussian(mean, log_std, torch.randn_like(mean))
        next_q = torch.cat(self.critic(batch.next_observations, policy.actions), dim=1)
        next_values = objective.soft_value(next_q, policy, self.ent_coef)
        targets = losses.differential_target(batch.rewards - self.reset_price * batch.dones, self.gain, next_values)
        q_values = torch.cat(self.critic(batch.observations, batch.actions), dim=1)
        return targets - objective.reduced(q_values)
