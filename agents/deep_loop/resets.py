"""The critic of the resets, which the actor does not maximise."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.policies import ContinuousCritic
from torch import Tensor, nn


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
