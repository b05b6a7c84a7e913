"""The mathematics of the offline learners: pure functions of tensors.

Letters: B batch, A action dimensions, n critics, M actions sampled at each state. Per-state quantities are columns
(B, 1); other shapes raise ``ValueError``, because a (B,) and a (B, 1) broadcast to (B, B) without an error. Actions are
scaled to [-1, 1]. ``discounts`` are gamma, and 0 where the episode truly ended.
"""

import math

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


def advantage_weights(advantages: Tensor, *, inverse_temperature: Tensor | float, largest: Tensor | float) -> Tensor:
    """min(exp(beta A), w_max), (B, 1), without gradient.

    :param advantages: (B, 1)
    :param inverse_temperature: beta >= 0: IQL's beta (arXiv 2110.06169, eq. 7), AWAC's 1 / lambda (arXiv 2006.09359,
        section 4)
    :param largest: w_max > 0, in both released implementations 100
    """
    check_columns(advantages=advantages)
    return (inverse_temperature * advantages.detach()).exp().clamp(max=largest)


def weighted_cloning_loss(weights: Tensor, errors: Tensor) -> tuple[Tensor, Info]:
    """mean of w(s, a) e(s, a) (IQL, eq. 7; AWAC, section 4).

    :param weights: (B, 1) from :func:`advantage_weights`
    :param errors: (B, 1): -ln pi(a|s), or |pi(s) - a|^2 for a deterministic actor
    """
    check_columns(weights=weights, errors=errors)
    loss = (weights * errors).mean()
    return loss, {"actor_loss": loss.detach(), "weight": weights.detach().mean(), "bc_loss": errors.detach().mean()}


def expectile_loss(differences: Tensor, *, expectile: Tensor | float) -> tuple[Tensor, Info]:
    """mean of |tau - 1(u < 0)| u^2 with u = Q(s, a) - V(s), (B, 1) (IQL, eq. 5).

    :param expectile: tau in (0, 1): 0.5 is the mean, towards 1 the maximum over the data's actions
    """
    check_columns(differences=differences)
    weights = torch.where(differences < 0, 1 - expectile, expectile)
    loss = (weights * differences.square()).mean()
    return loss, {"value_loss": loss.detach(), "advantage": differences.detach().mean()}


def soft_maximum(q_values: Tensor, log_densities: Tensor, *, temperature: Tensor | float = 1.0) -> Tensor:
    """T ln mean_m exp(Q(s, a_m) / T) / q(a_m), (n, B, 1): T ln of the integral of exp(Q / T) over actions, estimated.

    CQL(H), eq. 4 and appendix F; the released code sums over m, which adds the constant T ln M.

    :param q_values: (n, B, M), of actions a_m drawn from densities q
    :param log_densities: (B, M), ln q(a_m), in nats
    :param temperature: T > 0
    """
    _, batch, samples = q_values.shape
    if tuple(log_densities.shape) != (batch, samples):
        raise ValueError(f"expected log_densities of shape {(batch, samples)}, got {tuple(log_densities.shape)}")
    exponents = q_values / temperature - log_densities
    return temperature * exponents.logsumexp(dim=2, keepdim=True) - temperature * math.log(samples)


def conservative_gap(soft_maxima: Tensor, data_q_values: Tensor) -> tuple[Tensor, Info]:
    """mean of (soft maximum of Q(s, .) - Q(s, a)) for each critic, (n,) (CQL, eq. 4).

    :param soft_maxima: (n, B, 1) from :func:`soft_maximum`
    :param data_q_values: (B, n) at the data's actions
    """
    n, batch, last = soft_maxima.shape
    if last != 1 or tuple(data_q_values.shape) != (batch, n):
        raise ValueError(
            f"expected (n, B, 1) and (B, n), got {tuple(soft_maxima.shape)} and {tuple(data_q_values.shape)}"
        )
    gaps = (soft_maxima.squeeze(2).T - data_q_values).mean(dim=0)
    return gaps, {"conservative_gap": gaps.detach().mean()}


def lagrange_loss(log_multiplier: Tensor, gaps: Tensor, *, target_gap: Tensor | float) -> tuple[Tensor, Info]:
    """-alpha' mean over critics of (gap - tau) (CQL, appendix F), to be minimised over ln alpha' (1,).

    The derivative with respect to ln alpha' is the loss itself.

    :param gaps: (n,) from :func:`conservative_gap`, or their mean; no gradient goes there
    :param target_gap: tau: the multiplier grows while the gaps are larger
    """
    multiplier = log_multiplier.exp()
    loss = -(multiplier * (gaps.detach() - target_gap).mean()).reshape(())
    return loss, {"lagrange_loss": loss.detach(), "lagrange_multiplier": multiplier.detach().reshape(())}
