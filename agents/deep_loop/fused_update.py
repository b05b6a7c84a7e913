"""DeepLOOP's gradient step as one function of tensors: without bonus, and with a reset cost that is fixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlopt.agents.deep_loop import losses
from rlopt.agents.deep_loop.objective import DifferentialObjective
from rlopt.agents.mdpo import off_policy_losses as sac_losses
from rlopt.agents.mdpo.fused_update import Batch, FusedUpdate, Parameters
from rlopt.agents.mdpo.off_policy_objectives import Objective
from rlopt.networks import StackedParameters


class FusedDifferentialUpdate(FusedUpdate):
    """With differential critics, and the gain moved after them."""

    objective_class = DifferentialObjective

    def __init__(self, models: Sequence[Any]) -> None:
        super().__init__(models)
        self.gain, self.reset_price = (
            StackedParameters([[getattr(model, name) for model in models]], self._shape, [])
            for name in ("gain", "reset_price")
        )

    @property
    def parts(self) -> list[StackedParameters]:
        """Those of the base class, the gain and the reset price."""
        return [*super().parts, self.gain, self.reset_price]

    def step(
        self,
        batch: Batch,
        noise: Tensor,
        next_noise: Tensor,
        scalars: Tensor,
        *,
        objective: Objective,
        move_targets: bool,
    ) -> sac_losses.Info:
        assert isinstance(objective, DifferentialObjective)
        info = super().step(batch, noise, next_noise, scalars, objective=objective, move_targets=move_targets)
        gain = self.gain.tensors[0]
        moved = losses.moved_gain(gain, info.pop("gain_estimate").reshape(gain.shape), objective.gain_rate)
        gain.copy_(torch.where(info["critic_loss"].isfinite().reshape(gain.shape), moved, gain))
        return info | {"gain": gain.reshape(self._shape).clone()}

    def critic_objective(
        self,
        critic: Parameters,
        batch: Batch,
        noise: Tensor,
        next_noise: Tensor,
        ent_coef: Tensor,
        objective: Objective,
    ) -> tuple[Tensor, sac_losses.Info]:
        assert isinstance(objective, DifferentialObjective)
        observations, actions, next_observations, rewards, discounts = batch
        gain, price = self.gain.tensors[0], self.reset_price.tensors[0]

        def priced(rewards: Tensor, discounts: Tensor, price: Tensor) -> Tensor:
            return rewards - price * (1 - discounts)

        with torch.no_grad():
            slow = self.critic_target.tensors
            next_q, next_values = self._soft_values(slow, next_observations, next_noise, ent_coef, objective)
            rewards = self._each(priced)(rewards, discounts, price)
        q_values = self._q_values(critic, observations, actions).split(1, dim=-1)
        found, info = self._each(objective.differential_loss)(q_values, rewards, next_q, next_values, gain)
        return found.sum(), info
