"""The offline learners written again as loops of plain torch: separate modules, autograd, ``torch.optim.Adam``.

Each class takes one gradient step from a batch and noise. They share nothing with the learners but the order in which
random numbers are used.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal
from torch.nn import functional as F


class Reference:
    """Copies of a model's networks as they are now, with optimisers of their own."""

    def __init__(self, model: Any) -> None:
        policy = copy.deepcopy(model.policy)
        self.s = model
        self.actor: nn.Module = policy.actor.network
        self.log_std: nn.Parameter | None = policy.actor.log_std
        self.critics, self.slow_critics = list(policy.critics), list(policy.critics_target)
        self.value = policy.value
        actor_parameters = [*self.actor.parameters(), *([] if self.log_std is None else [self.log_std])]
        if policy.actor_target is not None:
            self.slow_actor = policy.actor_target.network
        lr = model.learning_rate
        critic_lr = getattr(model, "critic_learning_rate", None) or lr
        self.actor_adam = torch.optim.Adam(actor_parameters, lr=lr)
        self.critic_adams = [torch.optim.Adam(critic.parameters(), lr=critic_lr) for critic in self.critics]
        self.value_adam = None if self.value is None else torch.optim.Adam(self.value.parameters(), lr=critic_lr)
        self.actor_parameters = actor_parameters

    def descend(self, adam: torch.optim.Optimizer, loss: Tensor) -> None:
        parameters = [p for group in adam.param_groups for p in group["params"]]
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        adam.step()

    def q(self, critics: list[nn.Module], observations: Tensor, actions: Tensor) -> list[Tensor]:
        if actions.dim() == 1:
            return [critic(observations)[torch.arange(len(actions)), actions][:, None] for critic in critics]
        return [critic(torch.cat([observations, actions], 1)) for critic in critics]

    def smallest(self, critics: list[nn.Module], observations: Tensor, actions: Tensor) -> Tensor:
        return torch.minimum(*self.q(critics, observations, actions))

    def fit_critics(self, batch: Any, targets: Tensor) -> None:
        for critic, adam in zip(self.critics, self.critic_adams, strict=True):
            (values,) = self.q([critic], batch.observations, batch.actions)
            assert values.shape == targets.shape
            self.descend(adam, ((values - targets) ** 2).mean())

    def move(self, slow: nn.Module, fast: nn.Module) -> None:
        for target, source in zip(slow.parameters(), fast.parameters(), strict=True):
            target.data = (1 - self.s.tau) * target.data + self.s.tau * source.data

    def move_critics(self) -> None:
        for slow, fast in zip(self.slow_critics, self.critics, strict=True):
            self.move(slow, fast)

    def gaussian(self, observations: Tensor) -> Normal:
        assert self.log_std is not None
        return Normal(self.actor(observations).tanh(), self.log_std.clamp(-5, 2).exp())

    def log_likelihood(self, batch: Any) -> Tensor:
        if batch.actions.dim() == 1:
            return Categorical(logits=self.actor(batch.observations)).log_prob(batch.actions)[:, None]
        return self.gaussian(batch.observations).log_prob(batch.actions).sum(1, keepdim=True)


class ReferenceBC(Reference):
    def step(self, batch: Any, noise: list[Tensor], number: int) -> None:
        if self.log_std is None and batch.actions.dim() == 2:
            loss = F.mse_loss(self.actor(batch.observations).tanh(), batch.actions)
        else:
            loss = -self.log_likelihood(batch).mean()
        self.descend(self.actor_adam, loss)


class ReferenceTD3BC(Reference):
    def step(self, batch: Any, noise: list[Tensor], number: int) -> None:
        s = self.s
        with torch.no_grad():
            spread = (noise[0] * s.target_policy_noise).clamp(-s.target_noise_clip, s.target_noise_clip)
            actions = (self.slow_actor(batch.next_observations).tanh() + spread).clamp(-1, 1)
            values = self.next_values(
                self.smallest(self.slow_critics, batch.next_observations, actions), actions, batch
            )
            targets = batch.rewards + batch.continues * s.gamma * values
        self.fit_critics(batch, targets)
        if number % s.policy_delay:
            return
        self.descend(self.actor_adam, self.actor_loss(batch))
        self.move_critics()
        self.move(self.slow_actor, self.actor)

    def next_values(self, values: Tensor, actions: Tensor, batch: Any) -> Tensor:
        return values

    def actor_loss(self, batch: Any) -> Tensor:
        actions = self.actor(batch.observations).tanh()
        values = self.q(self.critics, batch.observations, actions)[0]
        scale = self.s.alpha / values.abs().mean().detach()
        return -scale * values.mean() + F.mse_loss(actions, batch.actions)


class ReferenceReBRAC(ReferenceTD3BC):
    def next_values(self, values: Tensor, actions: Tensor, batch: Any) -> Tensor:
        distance = ((actions - batch.next_actions) ** 2).sum(1)[:, None]
        return values - self.s.critic_bc_coef * torch.where(batch.next_known > 0, distance, torch.zeros(()))

    def actor_loss(self, batch: Any) -> Tensor:
        actions = self.actor(batch.observations).tanh()
        values = self.smallest(self.critics, batch.observations, actions)
        scale = 1 / values.abs().mean().detach() if self.s.normalize_q else 1.0
        distance = ((actions - batch.actions) ** 2).sum(1)
        return (self.s.actor_bc_coef * distance - scale * values.squeeze(1)).mean()


class ReferenceIQL(Reference):
    def step(self, batch: Any, noise: list[Tensor], number: int) -> None:
        s, decay = self.s, 1.0
        assert self.value is not None and self.value_adam is not None
        with torch.no_grad():
            slow = self.smallest(self.slow_critics, batch.observations, batch.actions)
            advantages = slow - self.value(batch.observations)
        differences = slow - self.value(batch.observations)
        weights = torch.where(differences > 0, s.expectile, 1 - s.expectile)
        self.descend(self.value_adam, (weights * differences**2).mean())
        with torch.no_grad():
            targets = batch.rewards + s.gamma * batch.continues * self.value(batch.next_observations)
        self.fit_critics(batch, targets)
        weights = torch.exp(s.beta * advantages).clamp(max=s.largest_weight)
        if self.log_std is None and batch.actions.dim() == 2:
            errors = ((self.actor(batch.observations).tanh() - batch.actions) ** 2).sum(1, keepdim=True)
        else:
            errors = -self.log_likelihood(batch)
        self.actor_adam.param_groups[0]["lr"] = s.learning_rate * decay
        self.descend(self.actor_adam, (weights * errors).mean())
        self.move_critics()


class ReferenceAWAC(Reference):
    def values(self, critics: list[nn.Module], observations: Tensor, noise: Tensor | None) -> Tensor:
        if noise is None:
            chances = self.actor(observations).softmax(1)
            return (chances * torch.minimum(*(critic(observations) for critic in critics))).sum(1, keepdim=True)
        policy = self.gaussian(observations)
        return self.smallest(critics, observations, (policy.mean + policy.stddev * noise).clamp(-1, 1))

    def step(self, batch: Any, noise: list[Tensor], number: int) -> None:
        s = self.s
        at_state, at_next = noise or (None, None)
        with torch.no_grad():
            next_values = self.values(self.slow_critics, batch.next_observations, at_next)
            targets = batch.rewards + s.gamma * batch.continues * next_values
        self.fit_critics(batch, targets)
        with torch.no_grad():
            taken = self.smallest(self.critics, batch.observations, batch.actions)
            advantages = taken - self.values(self.critics, batch.observations, at_state)
            weights = torch.exp(advantages / s.awac_lambda).clamp(max=s.largest_weight)
        self.descend(self.actor_adam, -(weights * self.log_likelihood(batch)).mean())
        self.move_critics()


class ReferenceCQL(Reference):
    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.log_ent_coef, self.log_multiplier = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
        self.scalar_adam = torch.optim.Adam([self.log_ent_coef], lr=model.learning_rate)
        self.multiplier_adam = torch.optim.Adam([self.log_multiplier], lr=model.learning_rate)

    def sample(self, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(observations).chunk(2, dim=-1)
        normal = Normal(mean, log_std.clamp(-20, 2).exp())
        u = normal.mean + normal.stddev * noise
        log_prob = normal.log_prob(u) - torch.log(1 - torch.tanh(u) ** 2 + 1e-6)
        return torch.tanh(u), log_prob.sum(-1)

    def step(self, batch: Any, noise: list[Tensor], number: int) -> None:
        s, (at_state, at_next, many, many_next, uniform) = self.s, noise
        count, dims = s.n_actions, batch.actions.shape[1]
        ent_coef = self.log_ent_coef.exp().detach()
        with torch.no_grad():
            actions, log_prob = self.sample(batch.next_observations, at_next)
            values = self.smallest(self.slow_critics, batch.next_observations, actions)
            values = values - ent_coef * log_prob[:, None] if s.entropy_in_target else values
            targets = batch.rewards + s.gamma * batch.continues * values
            here = batch.observations[:, None].repeat(1, count, 1)
            own, own_density = self.sample(here, many)
            following, next_density = self.sample(batch.next_observations[:, None].repeat(1, count, 1), many_next)
        multiplier = self.log_multiplier.exp().detach() if s.lagrange_gap is not None else 1.0
        gaps = []
        for critic, adam in zip(self.critics, self.critic_adams, strict=True):
            data_q = critic(torch.cat([batch.observations, batch.actions], 1))
            exponents = []
            for sampled, density in (
                (2 * uniform - 1, math.log(0.5**dims)),
                (own, own_density),
                (following, next_density),
            ):
                exponents.append(critic(torch.cat([here, sampled], 2)).squeeze(2) / s.cql_temperature - density)
            mean_exponent = torch.logsumexp(torch.cat(exponents, 1), 1) - math.log(3 * count)
            gap = (s.cql_temperature * mean_exponent - data_q.squeeze(1)).mean()
            gaps.append(gap.detach())
            loss = ((data_q - targets) ** 2).mean() + multiplier * s.cql_alpha * (gap - (s.lagrange_gap or 0.0))
            self.descend(adam, loss.sum())
        actions, log_prob = self.sample(batch.observations, at_state)
        values = self.smallest(self.critics, batch.observations, actions)
        self.descend(self.actor_adam, (ent_coef * log_prob[:, None] - values).mean())
        self.descend(self.scalar_adam, -(self.log_ent_coef * (log_prob.detach() - dims).mean()).sum())
        if s.lagrange_gap is not None:
            excess = torch.stack(gaps).mean() - s.lagrange_gap
            self.descend(self.multiplier_adam, -(self.log_multiplier.exp() * excess).sum())
        self.move_critics()


REFERENCES: dict[str, type[Reference]] = {
    "BC": ReferenceBC,
    "TD3BC": ReferenceTD3BC,
    "ReBRAC": ReferenceReBRAC,
    "IQL": ReferenceIQL,
    "AWAC": ReferenceAWAC,
    "CQL": ReferenceCQL,
}
