"""The mathematics of soft actor-critic (Haarnoja et al., arXiv 1812.05905): pure functions of tensors.

Letters: B batch, A action dimensions. Actions are a = tanh(u) with u ~ N(mean, std). Every per-state quantity is a
column (B, 1); other shapes raise ``ValueError``, because a (B,) and a (B, 1) broadcast to (B, B) without an error.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Info = dict[str, Tensor]

SQUASH_EPSILON = 1e-6
"""Added under the logarithm of the tanh Jacobian, as in Stable-Baselines3 and the original SAC code."""
LOG_SQRT_2_PI = math.log(math.sqrt(2 * math.pi))


class PolicySample(NamedTuple):
    """One reparametrised action per state."""

    actions: Tensor
    """(B, A), in (-1, 1): tanh of ``pre_tanh``."""
    pre_tanh: Tensor
    """(B, A): u."""
    mean: Tensor
    """(B, A): mean of u."""
    std: Tensor
    """(B, A): standard deviation of u, > 0."""
    log_density: Tensor
    """(B, A): ln N(u; mean, std) of each dimension."""
    log_jacobian: Tensor
    """(B, A): ln |da/du| of each dimension."""


def check_columns(**tensors: Tensor) -> None:
    """Raises ``ValueError`` unless every tensor has the shape (B, 1) with one and the same B."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 2 or shape[1] != 1 for shape in shapes.values()):
        raise ValueError(f"expected columns of shape (B, 1) with one B, got {shapes}")


def gaussian_log_density(u: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """ln N(u; mean, std^2) of each dimension; all (B, A). Operation by operation as ``torch.distributions.Normal``."""
    variance = std**2
    log_std = std.log()
    return -((u - mean) ** 2) / (2 * variance) - log_std - LOG_SQRT_2_PI


def sample_squashed_gaussian(mean: Tensor, log_std: Tensor, noise: Tensor) -> PolicySample:
    """The action tanh(mean + std noise) with its densities; all arguments (B, A), ``noise`` standard normal."""
    std = log_std.exp()
    pre_tanh = mean + noise * std
    actions = torch.tanh(pre_tanh)
    log_density = gaussian_log_density(pre_tanh, mean, std)
    return PolicySample(actions, pre_tanh, mean, std, log_density, log_jacobian(actions))


def sample_gsde(mean: Tensor, latent: Tensor, std: Tensor, exploration: Tensor, epsilon: float) -> PolicySample:
    """The action tanh(mean + latent exploration) of gSDE (arXiv 2005.05719) with its densities.

    :param mean: (B, A)
    :param latent: (B, L), the features that the noise depends on
    :param std: (L, A), standard deviations of the matrix; ``exploration`` (L, A) is one that was drawn
    :param epsilon: added to the variance of the action
    """
    actions = torch.tanh(mean + torch.mm(latent, exploration))
    action_std = gsde_std(latent, std, epsilon)
    limit = 1 - torch.finfo(actions.dtype).eps
    inside = actions.clamp(-limit, limit)
    pre_tanh = 0.5 * (inside.log1p() - (-inside).log1p())  # atanh, operation by operation as Stable-Baselines3 has it
    log_density = gaussian_log_density(pre_tanh, mean, action_std)
    return PolicySample(actions, pre_tanh, mean, action_std, log_density, log_jacobian(torch.tanh(pre_tanh)))


def gsde_std(latent: Tensor, std: Tensor, epsilon: float) -> Tensor:
    """Standard deviation (B, A) of the action before tanh, as in :func:`sample_gsde`."""
    return torch.sqrt(torch.mm(latent**2, std**2) + epsilon)


def log_jacobian(actions: Tensor) -> Tensor:
    """ln |d tanh(u) / du| = ln(1 - a^2) of each dimension (B, A), kept finite at |a| = 1."""
    return torch.log(1 - actions**2 + SQUASH_EPSILON)


def joint_log_prob(log_density: Tensor, log_jacobian: Tensor) -> Tensor:
    """ln pi(a|s) of the squashed action, (B, 1), from two (B, A)."""
    return (log_density.sum(dim=1) - log_jacobian.sum(dim=1)).unsqueeze(1)


def actor_loss(log_prob: Tensor, q_values: Tensor, *, ent_coef: Tensor | float) -> tuple[Tensor, Info]:
    """Mean of lambda log pi(a|s) - Q(s, a) (arXiv 1812.05905, eq. 7).

    :param log_prob: (B, 1) from :func:`joint_log_prob`
    :param q_values: (B, 1), Q(s, a) with gradient to the action
    :param ent_coef: lambda >= 0, a number or a tensor of one element
    """
    check_columns(log_prob=log_prob, q_values=q_values)
    loss = (ent_coef * log_prob - q_values).mean()
    return loss, {"actor_loss": loss.detach()}


def soft_value(q_values: Tensor, log_prob: Tensor, *, ent_coef: Tensor | float) -> Tensor:
    """V(s) = min_i Q_i(s, a) - lambda log pi(a|s), (B, 1).

    :param q_values: (B, n), one column a critic
    :param log_prob: (B, 1) from :func:`joint_log_prob`
    """
    smallest = torch.min(q_values, dim=1, keepdim=True)[0]
    check_columns(smallest_q_value=smallest, log_prob=log_prob)
    return smallest - ent_coef * log_prob


def td_target(rewards: Tensor, discounts: Tensor, next_values: Tensor) -> Tensor:
    """r + discount V(s'), all (B, 1); ``discounts`` is 0 where the episode terminated and gamma^n elsewhere."""
    check_columns(rewards=rewards, discounts=discounts, next_values=next_values)
    return rewards + discounts * next_values


def centred(rewards: Tensor, discounts: Tensor, average: Tensor, *, gamma: float) -> Tensor:
    """r - average (1 - discount) / (1 - gamma), (B, 1): the rewards of the values Q - average / (1 - gamma).

    In a step that ends no episode it is r - average (Naik, Wan, Tomar and Sutton, arXiv 2405.09999). The end of an
    episode, of value 0, then has the value -average / (1 - gamma), so that the order of policies stays the same.

    :param discounts: (B, 1), gamma to the number of steps, or 0 where the episode terminated
    :param average: one number
    :param gamma: below 1
    """
    check_columns(rewards=rewards, discounts=discounts)
    return rewards - average * ((1 - discounts) / (1 - gamma))


def critic_loss(q_values: Sequence[Tensor], targets: Tensor) -> tuple[Tensor, Info]:
    """Sum over critics of 0.5 mean (Q_i - target)^2 (arXiv 1812.05905, eq. 5); each (B, 1), ``targets`` detached."""
    total = torch.zeros((), dtype=targets.dtype, device=targets.device)
    for values in q_values:
        check_columns(q_values=values, targets=targets)
        total = total + F.mse_loss(values, targets)
    loss = 0.5 * total
    return loss, {"critic_loss": loss.detach()}


def ent_coef_loss(log_ent_coef: Tensor, log_prob: Tensor, *, target_entropy: Tensor | float) -> tuple[Tensor, Info]:
    """-ln(lambda) mean(log pi + target entropy) (arXiv 1812.05905, eq. 18); no gradient goes to ``log_prob`` (B, 1).

    :param target_entropy: in nats, usually -A
    """
    check_columns(log_prob=log_prob)
    loss = -(log_ent_coef * (log_prob + target_entropy).detach()).mean()
    return loss, {"ent_coef_loss": loss.detach()}
