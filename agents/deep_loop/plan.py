"""The current hypothesis between two switches: frozen networks that act, and their Bellman residual."""

from typing import Any

import torch
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.sac.policies import Actor
from torch import Tensor, nn


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
    def act(self, observations: Any) -> Tensor:
        """Actions (B, A) in [-1, 1]."""
        actions: Tensor = self.actor(observations)
        return actions


class ResetCritic(nn.Module):
    """A differential critic whose reward is 1 at a reset: its gain, by RVI, is the policy's resets per step.

    :param critic: one Q network
    :param critic_target: its target network, of the same shapes
    :param make_optimizer: from parameters
    """

    gain: Tensor

    def __init__(self, critic: ContinuousCritic, critic_target: ContinuousCritic, make_optimizer: Any) -> None:
        super().__init__()
        self.critic, self.critic_target = critic, critic_target
        self.critic_target.load_state_dict(critic.state_dict())
        self.critic_target.requires_grad_(False)
        self.register_buffer("gain", torch.zeros(()))
        self.optimizer: torch.optim.Optimizer = make_optimizer(self.critic.parameters())
