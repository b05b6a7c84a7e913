"""What off-policy MDPO minimises, from the outputs of its networks: the same code whichever way a step is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rlopt.agents.mdpo import off_policy_losses as losses
from rlopt.agents.mdpo.off_policy_losses import Info, PolicySample

OldPolicy = tuple[Tensor, Tensor]
"""Mean and standard deviation of pi_k before tanh, each (B, A)."""


@dataclass(frozen=True)
class Objective:
    """The choices of :class:`rlopt.OffPolicyMDPO` that shape its losses; see there."""

    tsallis_q: float = 1.0
    kl_unit: Literal["reward", "ent_coef"] = "reward"
    actor_q: Literal["min", "first"] = "min"
    critic_log_prob_bound: float | None = None
    log_density_floor: float | None = None
    mean_penalty: float = 0.0
    log_std_penalty: float = 0.0
    analytic_kl: bool = False

    def log_prob(self, policy: PolicySample) -> Tensor:
        """The entropy term's log pi, (B, 1)."""
        return losses.regularised_log_prob(
            policy.log_density,
            policy.log_jacobian,
            tsallis_q=self.tsallis_q,
            log_density_floor=self.log_density_floor,
        )

    def divergence(self, policy: PolicySample, old: OldPolicy | None) -> tuple[Tensor | None, Info]:
        """The term that ``kl_coef`` weighs, (B, 1), and the KL divergence in closed form as a statistic."""
        if old is None:
            return None, {}
        old_mean, old_std = old
        with torch.set_grad_enabled(self.analytic_kl):
            kl = losses.gaussian_kl(policy.mean, policy.std, old_mean, old_std)
        info = {"kl": kl.detach().mean()}
        if self.analytic_kl:
            return kl, info
        divergence = losses.proximity(
            policy.log_density,
            losses.gaussian_log_density(policy.pre_tanh, old_mean, old_std),
            policy.log_jacobian,
            tsallis_q=self.tsallis_q,
            log_density_floor=self.log_density_floor,
        )
        return divergence, info

    def soft_value(self, q_values: Tensor, policy: PolicySample, ent_coef: Tensor) -> Tensor:
        """V(s), (B, 1), from Q at the action of ``policy``, (B, n)."""
        bound = self.critic_log_prob_bound
        return losses.soft_value(q_values, self.log_prob(policy), ent_coef=ent_coef, log_prob_bound=bound)

    def critic_loss(self, q_values: Sequence[Tensor], targets: Tensor) -> tuple[Tensor, Info]:
        """The critics' loss; ``q_values`` and ``targets`` each (B, 1)."""
        return losses.critic_loss(q_values, targets)

    def actor_loss(
        self,
        policy: PolicySample,
        q_values: Tensor,
        old: OldPolicy | None,
        *,
        ent_coef: Tensor,
        kl_coef: Tensor | float,
    ) -> tuple[Tensor, Info]:
        """The actor's loss; ``q_values`` (B, n) at the action of ``policy``, n being 1 with ``actor_q="first"``."""
        smallest = torch.min(q_values, dim=1, keepdim=True)[0]
        divergence, kl_info = self.divergence(policy, old)
        if self.kl_unit == "ent_coef":
            kl_coef = kl_coef * ent_coef
        loss, info = losses.actor_loss(self.log_prob(policy), smallest, divergence, ent_coef=ent_coef, kl_coef=kl_coef)
        if self.mean_penalty or self.log_std_penalty:
            loss = loss + losses.output_penalty(
                policy.mean, policy.std, mean_penalty=self.mean_penalty, log_std_penalty=self.log_std_penalty
            )
        return loss, info | kl_info
