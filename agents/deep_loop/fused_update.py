"""DeepLOOP's gradient step as one function of tensors, with a reset cost that is fixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from rlopt.agents.mdpo.fused_update import Batch, FusedUpdate, Parameters
from rlopt.agents.mdpo.off_policy_objectives import Objective
from torch import Tensor

from rlopt.agents.deep_loop import losses
from rlopt.agents.deep_loop.objective import DifferentialObjective
from rlopt.agents.sac import losses as sac_losses
from rlopt.networks import StackedParameters


class FusedDifferentialUpdate(FusedUpdate):
    """With differential critics, their gain and the bonus."""

    objective_class = DifferentialObjective
    replaced = (*FusedUpdate.replaced, "_update_reset_critic", "bonus_of", "_inputs")

    def __init__(self, models: Sequence[Any]) -> None:
        super().__init__(models)
        self.gain, self.reset_price = (
            StackedParameters([[getattr(model, name) for model in models]], self._shape, [])
            for name in ("gain", "reset_price")
        )
        self._owners = [_owners(model) for model in models]
        self.bonus: StackedParameters | None = None
        if models[0].bonus:
            tensors = [[*model.features.tensors(), model.evidence.inverse] for model in models]
            self.bonus = StackedParameters(list(zip(*tensors, strict=True)), self._shape, [])

    @property
    def parts(self) -> list[StackedParameters]:
        """Those of the base class, the gain, the reset price, and what belongs to the bonus."""
        return [*super().parts, self.gain, self.reset_price, *([] if self.bonus is None else [self.bonus])]

    def belongs_to(self, models: Sequence[Any]) -> bool:
        """As in the base class; and none of their further parts was exchanged for another."""
        return super().belongs_to(models) and all(
            all(own is other for own, other in zip(owners, _owners(model), strict=True))
            for owners, model in zip(self._owners, models, strict=True)
        )

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
        moved = self._move_gain(info.pop("gain_estimate"), info["critic_loss"].isfinite(), objective)
        return info | {"gain": moved}

    def _move_gain(self, estimate: Tensor, keep: Tensor, objective: DifferentialObjective) -> Tensor:
        """Moves the gain in place, but where ``keep`` is False; returns it."""
        gain = self.gain.tensors[0]
        moved = losses.moved_gain(gain, estimate.reshape(gain.shape), objective.gain_rate)
        gain.copy_(torch.where(keep.reshape(gain.shape), moved, gain))
        return gain.reshape(self._shape).clone()

    def _priced(self, batch: Batch) -> Tensor:
        """The rewards less the price of the resets, (B, 1); a discount of 0 says that a reset was on the way."""

        def priced(rewards: Tensor, discounts: Tensor, price: Tensor) -> Tensor:
            return rewards - price * (1 - discounts)

        found: Tensor = self._each(priced)(batch[3], batch[4], self.reset_price.tensors[0])
        return found

    def _bonus(self, batch: Batch, objective: DifferentialObjective) -> Tensor:
        assert self.bonus is not None

        def bonus(inputs: Tensor, weight: Tensor, phase: Tensor, shift: Tensor, scale: Tensor, inverse: Tensor) -> Any:
            features = losses.fourier_features(inputs, weight, phase, shift, scale)
            return losses.bonus(features, inverse, objective.ridge, objective.beta, objective.max_bonus)

        found: Tensor = self._each(bonus)(torch.cat(batch[:2], dim=-1), *self.bonus.tensors)
        return found

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
        observations, actions, next_observations = batch[:3]
        further: sac_losses.Info = {}
        with torch.no_grad():
            slow = self.critic_target.tensors
            next_q, next_values = self._soft_values(slow, next_observations, next_noise, ent_coef, objective)
            rewards = self._priced(batch)
            if self.bonus is not None:
                bonus = self._bonus(batch, objective)
                rewards, further = rewards + bonus, {"bonus": bonus.mean(dim=(-2, -1))}
        q_values = self._q_values(critic, observations, actions).split(1, dim=-1)
        gain = self.gain.tensors[0]
        found, info = self._each(objective.differential_loss)(q_values, rewards, next_q, next_values, gain)
        return found.sum(), info | further


def _owners(model: Any) -> list[Any]:
    """What holds the tensors that the step shares with ``model`` beside the networks of the base class."""
    return [getattr(model, name) for name in ("gain", "reset_price", "features", "evidence")]
