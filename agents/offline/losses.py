"""The mathematics that the offline learners share, and that of BC, TD3+BC and ReBRAC: pure functions of tensors.

Letters: B batch, A action dimensions, n critics. Per-state quantities are columns (B, 1); other shapes raise
``ValueError``, because a (B,) and a (B, 1) broadcast to (B, B) without an error. Actions are scaled to [-1, 1].
``discounts`` are gamma, and 0 where the episode truly ended.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rlopt.agents.sac.losses import Info, check_columns, td_target


def check_alike(**tensors: Tensor) -> None:
    """Raises ``ValueError`` unless all tensors have one and the same shape (B, A)."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(f"expected tensors of one shape (B, A), got {shapes}")


def squared_distance(actions: Tensor, others: Tensor) -> Tensor:
    """|a - a'|^2 summed over dimensions, (B, 1), from two (B, A)."""
    check_alike(actions=actions, others=others)
    return (actions - others).square().sum(dim=1, keepdim=True)


def cloning_loss(actions: Tensor, data_actions: Tensor) -> tuple[Tensor, Info]:
    """Deterministic behaviour cloning: mean over batch and dimensions of (pi(s) - a)^2, from two (B, A)."""
    check_alike(actions=actions, data_actions=data_actions)
    loss = F.mse_loss(actions, data_actions)
    return loss, {"bc_loss": loss.detach()}


def likelihood_loss(log_prob: Tensor) -> tuple[Tensor, Info]:
    """Stochastic behaviour cloning: -mean ln pi(a|s) of the data's actions, in nats, from (B, 1)."""
    check_columns(log_prob=log_prob)
    loss = -log_prob.mean()
    return loss, {"bc_loss": loss.detach()}


def smoothed_actions(actions: Tensor, noise: Tensor, *, std: Tensor | float, clip: Tensor | float) -> Tensor:
    """clip(pi'(s') + clip(std noise, -c, c), -1, 1), (B, A): target policy smoothing (TD3, arXiv 1802.09477, eq. 14).

    :param noise: (B, A) standard normal
    :param std: >= 0, in units of half the action range, as ``clip``
    """
    check_alike(actions=actions, noise=noise)
    bound = torch.as_tensor(clip, dtype=noise.dtype, device=noise.device)
    spread = torch.minimum(torch.maximum(noise * std, -bound), bound)
    return (actions + spread).clamp(-1, 1)


def smallest(q_values: Tensor) -> Tensor:
    """min over critics, (B, 1), from (B, n)."""
    return q_values.min(dim=1, keepdim=True)[0]


def critic_loss(q_values: Tensor, targets: Tensor) -> tuple[Tensor, Info]:
    """Sum over critics of the mean of (Q_i - y)^2 (TD3, algorithm 1).

    :param q_values: (B, n)
    :param targets: (B, 1), without gradient
    """
    check_columns(first_q_value=q_values[:, :1], targets=targets)
    loss = (q_values - targets).square().mean(dim=0).sum()
    return loss, {"critic_loss": loss.detach(), "q_value": q_values.detach().mean()}


def td3_bc_loss(
    q_values: Tensor, actions: Tensor, data_actions: Tensor, *, alpha: Tensor | float
) -> tuple[Tensor, Info]:
    """-lambda mean Q(s, pi(s)) + mean (pi(s) - a)^2, lambda = alpha / mean |Q| (TD3+BC, arXiv 2106.06860, eq. 5).

    :param q_values: (B, 1), of the first critic, with gradient to ``actions``; lambda passes none
    :param actions: pi(s), (B, A), as ``data_actions``
    :param alpha: > 0; infinity would be TD3, 0 is behaviour cloning
    """
    check_columns(q_values=q_values)
    cloning, info = cloning_loss(actions, data_actions)
    # Q can be zero everywhere at the start, with zero rewards.
    scale = alpha / q_values.detach().abs().mean().clamp_min(1e-8)
    loss = -scale * q_values.mean() + cloning
    return loss, {"actor_loss": loss.detach(), **info}


def rebrac_actor_loss(
    q_values: Tensor, actions: Tensor, data_actions: Tensor, *, bc_coef: Tensor | float, normalize_q: bool
) -> tuple[Tensor, Info]:
    """mean of beta_1 |pi(s) - a|^2 - lambda min_i Q_i(s, pi(s)) (ReBRAC, arXiv 2305.09836, section 3).

    :param q_values: (B, n) with gradient to ``actions`` (B, A)
    :param bc_coef: beta_1 >= 0
    :param normalize_q: lambda is 1 / mean |min Q| (released code's default) instead of 1
    """
    value = smallest(q_values)
    distance = squared_distance(actions, data_actions)
    check_columns(value=value, distance=distance)
    climbed = value / value.detach().abs().mean().clamp_min(1e-8) if normalize_q else value
    loss = (bc_coef * distance - climbed).mean()
    return loss, {"actor_loss": loss.detach(), "bc_loss": distance.detach().mean()}


def rebrac_next_values(
    next_q_values: Tensor, next_actions: Tensor, data_next_actions: Tensor, known: Tensor, *, bc_coef: Tensor | float
) -> Tensor:
    """min_i Q'_i(s', a') - beta_2 |a' - a'_data|^2, (B, 1) (ReBRAC, section 3).

    :param next_q_values: (B, n) at (s', a') with a' = ``next_actions`` (B, A), the smoothed target action
    :param data_next_actions: (B, A), what the data did at s'
    :param known: (B, 1), 1 where the data hold that action, 0 at a cut, where the penalty is left out
    :param bc_coef: beta_2 >= 0
    """
    value = smallest(next_q_values)
    penalty = squared_distance(next_actions, data_next_actions) * known
    check_columns(value=value, penalty=penalty, known=known)
    return value - bc_coef * penalty


__all__ = [
    "Info",
    "check_alike",
    "check_columns",
    "cloning_loss",
    "critic_loss",
    "likelihood_loss",
    "rebrac_actor_loss",
    "rebrac_next_values",
    "smallest",
    "smoothed_actions",
    "squared_distance",
    "td3_bc_loss",
    "td_target",
]
