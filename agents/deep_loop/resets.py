"""The critic of the resets, beside those that the actor climbs."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.policies import ContinuousCritic
from torch import Tensor, nn

from rlopt.agents.deep_loop import losses
from rlopt.agents.sac.losses import critic_loss
from rlopt.optimizers import descend


class ResetCritic(nn.Module):
    """A differential critic whose reward is 1 at a reset: its gain, by RVI, is the policy's resets per step.

    :param critic: one Q network; the module keeps a slow copy of it
    :param critic_target: of the same shapes
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

    def update(
        self,
        pairs: tuple[Any, Tensor],
        resets: Tensor,
        next_pairs: tuple[Any, Tensor],
        rate: float,
    ) -> Tensor:
        """One gradient step, then one of the gain; the loss, detached.

        :param pairs: observations and actions (B, A) of the batch; ``next_pairs`` those of the policy at s'
        :param resets: (B, 1), 1 where the step led to a reset
        :param rate: of the gain
        """
        with torch.no_grad():
            next_values = self.critic_target.q1_forward(*next_pairs)
            targets = losses.differential_target(resets, self.gain, next_values)
        loss, _ = critic_loss(self.critic(*pairs), targets)
        descend(self.optimizer, loss)
        self.gain.copy_(losses.moved_gain(self.gain, losses.rvi_estimate(next_values), rate))
        return loss.detach()

    @torch.no_grad()
    def move_target(self, tau: float) -> None:
        """Moves the slow copy by ``tau``."""
        targets: list[Tensor] = list(self.critic_target.parameters())
        torch._foreach_mul_(targets, 1 - tau)
        torch._foreach_add_(targets, list[Tensor](self.critic.parameters()), alpha=tau)
