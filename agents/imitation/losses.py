"""The mathematics of IQ-Learn and ValueDICE: pure functions of tensors.

Letters: B batch, A action dimensions, I inputs of a network. Per-row quantities are columns (B, 1); other shapes raise
``ValueError``. In both methods the rewards are implicit: they are a function of states and actions minus its own
discounted value at the successor,

    IQ-Learn:   r(s, a) = Q(s, a) - gamma V(s'),      V(s) = Q(s, a~) - lambda log pi(a~|s),  a~ ~ pi              (1)
    ValueDICE:  x(s, a) = nu(s, a) - gamma nu(s', a'),                                        a' ~ pi              (2)

SQIL and GAIL have no losses of their own: theirs are those of soft actor-critic and on-policy MDPO and, for GAIL, of
:mod:`rlopt.agents.imitation.adversarial_losses`.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from rlopt.agents.imitation.adversarial_losses import weighted_mean
from rlopt.agents.sac.losses import Info, check_columns
from rlopt.errors import unknown_name

ValueTerm = Literal["value", "v0", "value_expert"]


def check_value_term(value_term: str) -> None:
    """Raises :class:`rlopt.errors.UnknownNameError` unless it is value, v0 or value_expert."""
    if value_term not in get_args(ValueTerm):
        raise unknown_name("value_term", str(value_term), get_args(ValueTerm))


def boltzmann_value(q_values: Tensor, *, temperature: float) -> Tensor:
    """V(s) = lambda ln sum_a exp(Q(s, a) / lambda), (B, 1).

    That is E[Q(s, a) - lambda ln pi(a|s)] under pi(a|s) proportional to exp(Q(s, a) / lambda), the largest that any
    policy has.

    :param q_values: (B, A), one column an action
    :param temperature: lambda > 0
    """
    return temperature * torch.logsumexp(q_values / temperature, dim=1, keepdim=True)


def iq_loss(
    q_values: Sequence[Tensor],
    values: Tensor,
    next_values: Tensor,
    end_values: Tensor,
    discounts: Tensor,
    is_expert: Tensor,
    *,
    gamma: float,
    chi_alpha: float = 0.5,
    value_term: ValueTerm = "value",
    regularize_policy: bool = True,
) -> tuple[Tensor, Info]:
    """IQ-Learn's loss with the chi-square regulariser (Garg et al., arXiv 2106.12142), a scalar.

    With y = ``end_values`` + ``discounts`` V(s') and r = Q - y, the mean over critics of

        -E_e[r] + value term + E[r^2] / (4 chi_alpha)                                                               (3)

    - ``value``: E[V(s) - y] over all rows (online)
    - ``value_expert``: the same over the expert's rows (offline)
    - ``v0``: (1 - gamma) E_e[V(s)], each state of the expert taken as an initial one, as the released code does

    :param q_values: Q_i(s, a) of each critic, (B, 1)
    :param values: V(s), (B, 1), with gradient, as ``next_values`` V(s') has unless it comes from target critics
    :param end_values: (B, 1), gamma times the value of the absorbing state at a true end, 0 elsewhere
    :param discounts: (B, 1), 0 at a true end and gamma elsewhere
    :param is_expert: (B, 1), 1 on the expert's rows and 0 on the policy's, some of either
    :param chi_alpha: alpha > 0
    :param regularize_policy: whether E[r^2] is over all rows (online) or the expert's (offline)
    """
    check_value_term(value_term)
    check_columns(
        values=values, next_values=next_values, end_values=end_values, discounts=discounts, is_expert=is_expert
    )
    is_policy = 1 - is_expert
    everywhere = torch.ones_like(is_expert)
    targets = end_values + discounts * next_values
    if value_term == "v0":
        value = (1 - gamma) * weighted_mean(values, is_expert)
    else:
        value = weighted_mean(values - targets, everywhere if value_term == "value" else is_expert)
    rewards = torch.stack([q - targets for q in q_values]).mean(dim=0)
    squares = torch.stack([(q - targets).square() for q in q_values]).mean(dim=0)
    expert_reward = weighted_mean(rewards, is_expert)
    penalty = weighted_mean(squares, everywhere if regularize_policy else is_expert) / (4 * chi_alpha)
    loss = value - expert_reward + penalty
    info = {
        "critic_loss": loss.detach(),
        "expert_reward": expert_reward.detach(),
        "policy_reward": weighted_mean(rewards, is_policy).detach(),
        "chi_square": penalty.detach(),
    }
    return loss, info


def absorbing_reward(
    expert_ends: float, policy_ends: float, *, chi_alpha: float = 0.5, value_term: ValueTerm = "value"
) -> float:
    """What (3) makes of the reward r of the absorbing state, in closed form.

    Every true end adds the same rows of the absorbing state, so with e and p the shares of ends among the expert's and
    the policy's transitions, half of either in a batch, its part of (3) is, up to a factor,

        -e r + c r + (e + p) r^2 / (8 chi_alpha),    c = (e + p) / 2 with "value", e with "value_expert", p with "v0"

    whose minimum is at 4 chi_alpha (e - c) / (e + p). With "value" it lies in [-2 chi_alpha, 2 chi_alpha]: the lowest
    where only the policy's episodes end, 0 where both end as often.

    :param expert_ends: e >= 0, as ``policy_ends``
    """
    check_value_term(value_term)
    total = expert_ends + policy_ends
    if total == 0:
        return 0.0
    expected = {"value": total / 2, "value_expert": expert_ends, "v0": policy_ends}[value_term]
    return 4 * chi_alpha * (expert_ends - expected) / total


def value_dice_loss(
    expert_residuals: Tensor,
    replay_residuals: Tensor,
    initial_values: Tensor,
    expert_weights: Tensor,
    replay_weights: Tensor,
    *,
    gamma: float,
    replay_weight: float = 0.1,
) -> tuple[Tensor, Info]:
    """ValueDICE's objective (Kostrikov et al., arXiv 1912.05032), a scalar: nu descends it and the actor climbs it.

        ln E_mix[exp x] - (1 - alpha)(1 - gamma) E[nu(s_0, a_0)] - alpha E_rb[x],  mix = (1 - alpha) expert + alpha rb

    Its minimum over nu is minus the KL divergence (Donsker and Varadhan) of the policy's occupancy, mixed with the
    replay's, from the expert's, mixed likewise. The logarithm of a batch's mean is a biased estimate, as in the paper.

    :param expert_residuals: x on the expert's rows, (B_e, 1); ``replay_residuals`` (B, 1) on the replay's
    :param initial_values: nu(s_0, a_0), (B_0, 1), a_0 ~ pi
    :param expert_weights: (B_e, 1), >= 0, as ``replay_weights`` (B, 1): how often each row counts
    :param replay_weight: alpha in [0, 1)
    """
    check_columns(expert_residuals=expert_residuals, expert_weights=expert_weights)
    check_columns(replay_residuals=replay_residuals, replay_weights=replay_weights)
    shares = [(1 - replay_weight) * expert_weights / expert_weights.sum()]
    shares.append(replay_weight * replay_weights / replay_weights.sum())
    exponents = torch.cat([expert_residuals, replay_residuals]) + torch.cat(shares).log()
    log_mean_exp = torch.logsumexp(exponents.flatten(), dim=0)
    linear = (1 - replay_weight) * (1 - gamma) * initial_values.mean()
    linear = linear + replay_weight * weighted_mean(replay_residuals, replay_weights)
    loss = log_mean_exp - linear
    info = {
        "dice_loss": loss.detach(),
        "expert_residual": weighted_mean(expert_residuals, expert_weights).detach(),
        "replay_residual": weighted_mean(replay_residuals, replay_weights).detach(),
    }
    return loss, info


def orthogonal_penalty(weights: Sequence[Tensor]) -> Tensor:
    """Sum over layers of |W W^T * (1 - identity)|_F^2, a scalar (Brock et al., arXiv 1809.11096, eq. 3).

    :param weights: (out, in) each; the rows, one an output unit, are what is to be orthogonal
    """
    total = torch.zeros((), dtype=weights[0].dtype, device=weights[0].device)
    for weight in weights:
        products = weight @ weight.mT
        total = total + (products - torch.diag(products.diagonal())).square().sum()
    return total
