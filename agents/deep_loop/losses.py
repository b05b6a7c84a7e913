"""The mathematics of DeepLOOP: pure functions of tensors.

Letters: B batch, n critics, d features. Per-row quantities are columns (B, 1). With average reward nothing is
discounted: a hypothesis f has action values Q_f, soft state values V_f(s) = Q_f(s, a) - lambda log pi_f(a|s) and a gain
J_f, and its Bellman residual at a transition is r + V_f(s') - J_f - Q_f(s, a).
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from rlopt.agents.sac.differential import differential_target, rvi_estimate, td_estimate
from rlopt.agents.sac.losses import Info, critic_loss

GainEstimator = Literal["rvi", "td", "centring"]


def centred_estimate(soft_rewards: Tensor) -> Tensor:
    """The mean reward, a scalar: simple reward centring (arXiv 2405.09999).

    Unbiased only where the batch is distributed as under the policy; replay makes it lag behind.

    :param soft_rewards: (B, 1), r - lambda log pi(a'|s')
    """
    return soft_rewards.mean()


def centring_penalty(q_values: Tensor, weight: float) -> Tensor:
    """weight sum_i (mean Q_i)^2: holds the constant of Q, which a gain of another kind than RVI leaves free.

    :param q_values: (B, n)
    """
    return weight * q_values.mean(dim=0).square().sum()


def smallest(q_values: Tensor) -> Tensor:
    """What several critics (B, n) say together, (B, 1): with the mean, undiscounted values grow without bound."""
    return torch.min(q_values, dim=1, keepdim=True)[0]


def differential_loss(
    q_values: Sequence[Tensor],
    rewards: Tensor,
    next_q: Tensor,
    next_values: Tensor,
    gain: Tensor,
    *,
    gain_estimator: GainEstimator = "rvi",
    centring_coef: float = 0.1,
) -> tuple[Tensor, Info]:
    """The critics' loss, a scalar, and statistics, among them ``gain_estimate``, which the gain is moved to.

    :param q_values: n of (B, 1) at the batch's pairs; ``next_q`` (B, n), ``next_values`` (B, 1) of the target critics
    :param rewards: (B, 1) with bonus and reset cost
    :param centring_coef: of :func:`centring_penalty`, which "rvi" does without
    """
    targets = differential_target(rewards, gain, next_values)
    loss, info = critic_loss(q_values, targets)
    if gain_estimator != "rvi" and centring_coef:
        loss = loss + centring_penalty(torch.cat(list(q_values), dim=1), centring_coef)
        info["critic_loss"] = loss.detach()
    with torch.no_grad():
        if gain_estimator == "rvi":
            estimate = rvi_estimate(next_values)
        elif gain_estimator == "td":
            estimate = td_estimate(gain, targets - torch.cat(list(q_values), dim=1).detach())
        else:
            estimate = centred_estimate(rewards + next_values - smallest(next_q))
    return loss, info | {"gain_estimate": estimate}


def fourier_features(inputs: Tensor, weight: Tensor, phase: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """psi = sqrt(2/d) cos(W x + u), (B, d), of normalised inputs x = (inputs - shift) / scale, (B, I)."""
    projected = ((inputs - shift) / scale) @ weight.mT + phase
    return math.sqrt(2.0 / phase.shape[-1]) * projected.cos()


def elliptical_width(features: Tensor, inverse_gram: Tensor) -> Tensor:
    """sigma = sqrt(psi^T A^-1 psi), (B, 1), from psi (B, d) and A^-1 (d, d)."""
    return ((features @ inverse_gram) * features).sum(dim=1, keepdim=True).clamp_min(0.0).sqrt()


def width_square_sum(inverse_gram: Tensor, ridge: float) -> Tensor:
    """sum_i sigma_i^2 over the data of A = ridge I + sum_i psi_i psi_i^T: d - ridge tr A^-1, a scalar."""
    return len(inverse_gram) - ridge * inverse_gram.diagonal().sum()


def normalised_bonus(widths: Tensor, square_sum: Tensor, beta: float, largest: float) -> Tensor:
    """b = min(sqrt(beta) sigma / sqrt(sum_i sigma_i^2), largest), (B, 1).

    Over the data sum_i b_i^2 = beta but for the clip: a hypothesis whose Bellman residual is b lies on the border of
    the confidence set.

    :param widths: (B, 1) of :func:`elliptical_width`
    :param square_sum: of :func:`width_square_sum`
    """
    return (widths * (beta / square_sum.clamp_min(torch.finfo(square_sum.dtype).tiny)).sqrt()).clamp_max(largest)


def bonus(features: Tensor, inverse_gram: Tensor, ridge: float, beta: float, largest: float) -> Tensor:
    """:func:`normalised_bonus` at psi (B, d), in their dtype; A^-1 is in float64, which its sum needs."""
    widths = elliptical_width(features, inverse_gram.to(features.dtype))
    return normalised_bonus(widths, width_square_sum(inverse_gram, ridge), beta, largest).to(features.dtype)


def discrepancy(moment: Tensor, inverse_gram: Tensor) -> Tensor:
    """L_D(f, f) - min_g L_D(f, g) over g = Q_f + J_f + psi^T w, the ridge counted: c^T A^-1 c, a scalar >= 0.

    With residuals e_i of f and c = sum_i e_i psi_i this is sum_i e_i^2 - min_w [sum_i (e_i - psi_i^T w)^2 + ridge
    |w|^2]: the part of the residuals that the features can tell. Where Q_f itself is linear in psi, these g are all the
    linear functions.

    :param moment: c, (d,)
    """
    return moment @ (inverse_gram @ moment)


def dual_step(cost: Tensor, reset_rate: Tensor, allowed: float, rate: float) -> Tensor:
    """max(0, cost + rate (reset_rate - allowed)): the price of a reset rises while resets are too frequent."""
    return (cost + rate * (reset_rate - allowed)).clamp_min(0.0)
