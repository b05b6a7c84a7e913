"""What DeepLOOP's networks minimise: the same code whichever way a step is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from rlopt.agents.mdpo.off_policy_objectives import Objective
from torch import Tensor

from rlopt.agents.deep_loop import losses
from rlopt.agents.sac.losses import Info

GainEstimator = Literal["rvi", "td", "centring"]


@dataclass(frozen=True)
class DifferentialObjective(Objective):
    """The choices of :class:`rlopt.DeepLOOP` that shape its losses; see there."""

    gain_estimator: GainEstimator = "rvi"
    gain_rate: float = 5e-3
    centring_coef: float = 0.1
    beta: float = 10.0
    max_bonus: float = 1.0
    ridge: float = 1.0

    @staticmethod
    def reduced(q_values: Tensor) -> Tensor:
        """What several critics (B, n) say together, (B, 1): with the mean, undiscounted values grow without bound."""
        return torch.min(q_values, dim=1, keepdim=True)[0]

    def differential_loss(
        self, q_values: Sequence[Tensor], rewards: Tensor, next_q: Tensor, next_values: Tensor, gain: Tensor
    ) -> tuple[Tensor, Info]:
        """The critics' loss and statistics, among them ``gain_estimate``, which the gain is moved to.

        :param q_values: n of (B, 1) at the batch's pairs; ``next_q`` (B, n), ``next_values`` (B, 1) of the slow critics
        :param rewards: (B, 1) with bonus and reset cost
        """
        targets = losses.differential_target(rewards, gain, next_values)
        loss, info = self.critic_loss(q_values, targets)
        if self.gain_estimator != "rvi" and self.centring_coef:
            loss = loss + losses.centring_penalty(torch.cat(list(q_values), dim=1), self.centring_coef)
            info["critic_loss"] = loss.detach()
        with torch.no_grad():
            if self.gain_estimator == "rvi":
                estimate = losses.rvi_estimate(next_values)
            elif self.gain_estimator == "td":
                estimate = losses.td_estimate(gain, targets - torch.cat(list(q_values), dim=1).detach())
            else:
                estimate = losses.centred_estimate(rewards + next_values - self.reduced(next_q))
        return loss, info | {"gain_estimate": estimate}
