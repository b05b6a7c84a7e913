"""The losses of MDPO's two phases, on rows of a rollout. Shapes: B rows of the rollout, b rows of a gradient step."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn
from torch.nn import functional

from rlopt.agents.mdpo.phases import set_critic_training_mode
from rlopt.agents.ppo.distributions import Bernoulli, Categorical, Factors, Gaussian, two_categories
from rlopt.agents.ppo.heads import action_head, policy_obstacle, uncompiled, value_function
from rlopt.agents.ppo.losses import Info
from rlopt.agents.ppo.update import Loss, Objective


def gaussian_divergence(mean: Tensor, std: Tensor, old_mean: Tensor, old_std: Tensor, *, q: float) -> Tensor:
    """Divergence between diagonal Gaussians: means [B, A], standard deviations [B, A] or [A], positive."""
    p = q - 1.0
    ratio = (std / old_std).square()
    if p == 0.0:
        spread = (ratio - 1.0 - ratio.log()).sum(dim=-1)
        return 0.5 * (((mean - old_mean) / old_std).square().sum(dim=-1) + spread)
    # With A = int new^q, B = int new old^p, C = int old^q: B_q = (A - q B + p C) / p. Written with expm1 of log-ratios
    # it loses no digits as p -> 0, where it becomes the KL.
    cross = 0.5 * (torch.log1p(p * ratio) - math.log1p(p))
    cross = cross + 0.5 * p * (mean - old_mean).square() / (old_std.square() + p * std.square())
    log_b = -0.5 * p * (math.log(2.0 * math.pi) + 2.0 * old_std.log()) - 0.5 * math.log1p(p) - cross
    log_a_over_b = -0.5 * p * ratio.log() + cross
    return (log_b.exp() * (torch.expm1(log_a_over_b) / p + torch.expm1(cross))).sum(dim=-1)


def _log_q(log_prob: Tensor, p: float) -> Tensor:
    return torch.expm1(p * log_prob) / p


def categorical_divergence(logits: Tensor, old_logits: Tensor, *, q: float) -> Tensor:
    """Divergence between categorical distributions; logits [B, K], not necessarily normalised, -inf where masked."""
    p = q - 1.0
    log_new, log_old = functional.log_softmax(logits, dim=-1), functional.log_softmax(old_logits, dim=-1)
    new, old = log_new.exp(), log_old.exp()
    if p == 0.0:
        masked = log_new.isneginf()  # 0 ln 0 is 0, also where the old policy has it at 0
        return (new * (log_new.masked_fill(masked, 0.0) - log_old.masked_fill(masked, 0.0))).sum(dim=-1)
    terms = new * (_log_q(log_new, p) - q * _log_q(log_old, p)) + p * old * _log_q(log_old, p)
    return terms.sum(dim=-1)


def bernoulli_divergence(logits: Tensor, old_logits: Tensor, *, q: float) -> Tensor:
    """Divergence between independent Bernoulli variables; logits [B, A], -inf or inf where one value is masked.

    Each dimension is a two-category distribution.
    """
    return categorical_divergence(two_categories(logits), two_categories(old_logits), q=q).sum(dim=-1)


def divergence(new: Factors, old: Factors, *, q: float) -> Tensor:
    """B_q(new || old), [B], summed over the factors of two distributions of one kind."""
    if isinstance(new, Gaussian) and isinstance(old, Gaussian):
        return gaussian_divergence(new.mean, new.std, old.mean, old.std, q=q)
    if isinstance(new, Bernoulli) and isinstance(old, Bernoulli):
        return bernoulli_divergence(new.logits, old.logits, q=q)
    assert isinstance(new, Categorical) and isinstance(old, Categorical)
    pairs = zip(new.logits, old.logits, strict=True)
    return torch.stack([categorical_divergence(after, before, q=q) for after, before in pairs]).sum(dim=0)


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
