"""PPO's loss on rows of a rollout, as Stable-Baselines3 computes it and as a function of tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from rlopt.agents.ppo.heads import action_head, policy_obstacle, uncompiled, value_function
from rlopt.agents.ppo.losses import Info
from rlopt.agents.ppo.update import GOING, Loss, Objective
from rlopt.optim.descent import HOLD, loss_and_further


class PPOObjective(Objective):
    """Equation (1) on rows of a rollout, as a function of the parameters of policy and value network.

    :param target_kl: half as much again of this approximate KL divergence in a minibatch ends the update before its
        gradient step; None for never
    """

    name = "ppo"
    eagerly = "as_stable_baselines3"

    def __init__(
        self, policy: ActorCriticPolicy, loss: Loss, normalize_advantage: bool, target_kl: float | None
    ) -> None:
        super().__init__()
        self.policy = uncompiled(policy)
        self.loss = loss
        self.settings = {"normalize_advantage": normalize_advantage, "target_kl": target_kl}
        self.loss_settings = {}
        self._head = action_head(policy)
        self._values = value_function(policy, train_shared=True)

    def forward(self, batch: Sequence[Any], scalars: Mapping[str, Any]) -> tuple[Tensor, Info]:
        """Observations (b, ...), actions (b, A), old values, log pi_k, advantages, returns (b,) to loss and parts."""
        observations, actions = batch[:2]
        _, log_prob, entropy = self._head.evaluate(observations, actions)
        return self._loss(self._values(observations), log_prob, entropy, batch, scalars)

    def as_stable_baselines3(self, batch: Sequence[Any], scalars: Mapping[str, Any]) -> tuple[Tensor, Info]:
        """As :meth:`forward`, by the policy's own ``evaluate_actions``."""
        observations, actions = batch[:2]
        actions = actions.long().flatten() if isinstance(self.policy.action_space, spaces.Discrete) else actions
        values, log_prob, entropy = self.policy.evaluate_actions(observations, actions)
        return self._loss(values, log_prob, -log_prob if entropy is None else entropy, batch, scalars)

    def _loss(
        self, values: Tensor, log_prob: Tensor, entropy: Tensor, batch: Sequence[Any], scalars: Mapping[str, Any]
    ) -> tuple[Tensor, Info]:
        _, _, old_values, old_log_prob, advantages, returns = batch
        if self.settings["normalize_advantage"] and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        numbers = {name: value for name, value in scalars.items() if name != GOING}
        outcome = self.loss(
            log_prob, old_log_prob, advantages, entropy, values.flatten(), old_values, returns, **numbers
        )
        loss, info = loss_and_further(self.name, outcome)
        target_kl = self.settings["target_kl"]
        if target_kl is not None:
            info = {**info, HOLD: (info["approx_kl"] > 1.5 * target_kl) | (torch.as_tensor(scalars[GOING]) == 0)}
        return loss, info

    def set_training_mode(self, parameters: list[nn.Parameter]) -> None:
        self.policy.set_training_mode(True)

    def example(self, n_rows: int, device: torch.device) -> list[Tensor]:
        return [torch.zeros(n_rows, device=device) for _ in range(7)]

    def obstacle(self) -> str | None:
        if type(self.policy).evaluate_actions is not ActorCriticPolicy.evaluate_actions:
            return "the policy has an evaluate_actions of its own"
        return policy_obstacle(self.policy)
