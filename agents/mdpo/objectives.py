"""The losses of MDPO's two phases, on rows of a rollout. Shapes: B rows of the rollout, b rows of a gradient step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from rlopt.agents.mdpo.divergences import divergence
from rlopt.agents.mdpo.phases import set_critic_training_mode
from rlopt.agents.ppo.distributions import Factors
from rlopt.agents.ppo.heads import action_head, policy_obstacle, uncompiled, value_function
from rlopt.agents.ppo.losses import Info
from rlopt.agents.ppo.update import Loss, Objective


class PolicyObjective(Objective):
    """Equation (1) on rows of a rollout, as a function of the policy's parameters."""

    name = "policy"

    def __init__(self, policy: ActorCriticPolicy, loss: Loss, tsallis_q: float) -> None:
        super().__init__()
        self.policy = uncompiled(policy)
        self.loss = loss
        self.settings = {"q": tsallis_q}
        self.loss_settings = {}
        self._head = action_head(policy)

    def old(self, observations: Any, actions: Tensor) -> tuple[Tensor, Any]:
        """log pi_k [B] and the distributions of pi_k, from which the divergence is measured."""
        with torch.no_grad():
            factors, log_prob, _ = self._head.evaluate(observations, actions)
        return log_prob, factors

    @torch.no_grad()
    def divergence(self, batch: Sequence[Any]) -> Tensor:
        """E[B_q(pi || pi_k)] of the policy as it is now, from the arguments of :meth:`forward`."""
        observations, actions, *_, old = batch
        return self._from(old, self._head.evaluate(observations, actions).factors).mean()

    def forward(self, batch: Sequence[Any], scalars: Mapping[str, Any]) -> tuple[Tensor, Info]:
        """Observations (b, ...), actions (b, A), advantages (b,), log pi_k (b,) and pi_k to the loss and its parts."""
        observations, actions, advantages, old_log_prob, old = batch
        new, log_prob, entropy = self._head.evaluate(observations, actions)
        return self.loss(log_prob, old_log_prob, advantages, self._from(old, new), entropy, **scalars)

    def _from(self, old: Factors, new: Factors) -> Tensor:
        """B_q(pi || pi_k) at each state, (b,)."""
        return divergence(new, old, q=self.settings["q"])

    def set_training_mode(self, parameters: list[nn.Parameter]) -> None:
        self.policy.set_training_mode(True)

    def example(self, n_rows: int, device: torch.device) -> list[Tensor]:
        return [torch.zeros(n_rows, device=device) for _ in range(5)]

    def obstacle(self) -> str | None:
        return policy_obstacle(self.policy)


class ValueObjective(Objective):
    """Equation (2) on rows of a rollout, as a function of the value network's parameters."""

    name = "value"

    def __init__(self, policy: ActorCriticPolicy, loss: Loss, clip_range_vf: float | None) -> None:
        super().__init__()
        self.policy = uncompiled(policy)
        self.settings = self.loss_settings = {"clip_range_vf": clip_range_vf}
        self.loss = loss
        self._predict = value_function(policy, train_shared=False)

    def forward(self, batch: Sequence[Any], scalars: Mapping[str, Any]) -> tuple[Tensor, Info]:
        """Observations (b, ...), returns (b,) and values (b,) before the update to the loss and its parts."""
        observations, returns, old_values = batch
        return self.loss(self._predict(observations).flatten(), returns, old_values, **self.loss_settings, **scalars)

    def set_training_mode(self, parameters: list[nn.Parameter]) -> None:
        """Training mode for the critic alone, so that the policy stays as it is."""
        set_critic_training_mode(self.policy, parameters)

    def example(self, n_rows: int, device: torch.device) -> list[Tensor]:
        return [torch.zeros(n_rows, device=device) for _ in range(3)]

    def obstacle(self) -> str | None:
        return policy_obstacle(self.policy)
