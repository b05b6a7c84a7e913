"""The mathematics of off-policy MDPO: pure functions of tensors.

Letters: B batch, A action dimensions. Names: ``ent_coef`` is the paper's lambda, ``kl_coef`` is c - lambda with c = 1/t
(Tomar et al., arXiv 2005.09814, section 4.2), so the loss for the actor is, per state, with a ~ pi reparametrised,

    c log pi(a|s) - (c - lambda) log pi_k(a|s) - Q(s, a)  =  ent_coef log pi + kl_coef (log pi - log pi_k) - Q     (1)

and with log_q(x) = (x^(q-1) - 1)/(q - 1) in place of the logarithm (the Tsallis version, section 4.3),

    c log_q pi - q (c - lambda) log_q pi_k - Q  =  ent_coef log_q pi + kl_coef (log_q pi - q log_q pi_k) - Q       (2)

Actions are a = tanh(u) with u ~ N(mean, std). New and old densities are always taken at the same u: the Jacobian of
tanh then cancels exactly in (1). What is soft actor-critic's is in :mod:`rlopt.agents.sac.losses`.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from rlopt.agents.sac.losses import Info, check_columns, joint_log_prob
from rlopt.agents.sac.losses import actor_loss as sac_actor_loss
from rlopt.agents.sac.losses import soft_value as sac_soft_value

KL_COEF_RATE = 2e-3
"""Largest change of ln(kl_coef) in a gradient step, where it follows a target."""
LOG_KL_COEF_RANGE = math.log(1e-6), math.log(1e3)


def tsallis_log(log_x: Tensor, *, tsallis_q: float) -> Tensor:
    """log_q(x) = (x^(q-1) - 1)/(q-1), any shape, from ln x: no power of a density is ever formed.

    ``expm1`` keeps full precision all the way to q = 1, where log_q is the natural logarithm.
    """
    p = tsallis_q - 1.0
    if p == 0.0:
        return log_x
    return torch.expm1(p * log_x) / p


def regularised_log_prob(
    log_density: Tensor, log_jacobian: Tensor, *, tsallis_q: float = 1.0, log_density_floor: float | None = None
) -> Tensor:
    """The entropy term's log pi (q = 1) or sum over dimensions of log_q pi_d (q > 1), (B, 1), from two (B, A).

    The sum over dimensions, instead of log_q of the joint density, is the released code's: the joint power would grow
    or vanish exponentially with A. It is the sum of the divergences of the marginals, so still a proximity term.

    :param log_density_floor: lowest log-density of a dimension, in nats, with NO gradient below it. The released code
        uses ln 1e-6 = -13.8; None (no floor) keeps the gradient that pulls the policy back
    """
    if tsallis_q == 1.0 and log_density_floor is None:
        return joint_log_prob(log_density, log_jacobian)
    log_dims = log_density - log_jacobian
    if log_density_floor is not None:
        log_dims = log_dims.clamp_min(log_density_floor)
    return tsallis_log(log_dims, tsallis_q=tsallis_q).sum(dim=1, keepdim=True)


def proximity(
    log_density: Tensor,
    old_log_density: Tensor,
    log_jacobian: Tensor,
    *,
    tsallis_q: float = 1.0,
    log_density_floor: float | None = None,
) -> Tensor:
    """One-sample estimate, (B, 1), of the divergence of the new policy from the old, from three (B, A) at one u.

    q = 1: log pi - log pi_k, the KL term of (1), free of the Jacobian. q > 1: log_q pi - q log_q pi_k summed over
    dimensions, the Bregman term of (2) up to (q-1) E_{pi_k}[log_q pi_k], which has no gradient.
    """
    if tsallis_q == 1.0 and log_density_floor is None:
        return (log_density - old_log_density).sum(dim=1, keepdim=True)
    new = regularised_log_prob(log_density, log_jacobian, tsallis_q=tsallis_q, log_density_floor=log_density_floor)
    old = regularised_log_prob(old_log_density, log_jacobian, tsallis_q=tsallis_q, log_density_floor=log_density_floor)
    return new - tsallis_q * old


def gaussian_kl(mean: Tensor, std: Tensor, old_mean: Tensor, old_std: Tensor) -> Tensor:
    """KL(new || old) in nats, (B, 1): closed form, summed over dimensions, from four (B, A).

    Tanh is one-to-one, so this is also the divergence of the squashed policies.
    """
    variance_ratio = (std / old_std) ** 2
    shift = ((mean - old_mean) / old_std) ** 2
    return 0.5 * (variance_ratio + shift - 1.0 - variance_ratio.log()).sum(dim=1, keepdim=True)


def actor_loss(
    log_prob: Tensor,
    q_values: Tensor,
    divergence: Tensor | None = None,
    *,
    ent_coef: Tensor | float,
    kl_coef: Tensor | float = 0.0,
) -> tuple[Tensor, Info]:
    """Equations (1) and (2), the batch's mean; without ``divergence`` it is SAC's loss.

    :param log_prob: (B, 1) from :func:`regularised_log_prob`
    :param q_values: (B, 1), Q(s, a) with gradient to the action
    :param divergence: (B, 1) from :func:`proximity` or :func:`gaussian_kl`; None when ``kl_coef`` is 0
    :param ent_coef: lambda >= 0, a number or a tensor of one element
    :param kl_coef: c - lambda >= 0
    """
    if divergence is None:
        return sac_actor_loss(log_prob, q_values, ent_coef=ent_coef)
    check_columns(log_prob=log_prob, q_values=q_values, divergence=divergence)
    loss = (ent_coef * log_prob - q_values + kl_coef * divergence).mean()
    return loss, {"actor_loss": loss.detach()}


def q_scale(q_values: Tensor) -> Tensor:
    """Standard deviation of Q (B, 1) over the batch, a scalar: it doubles where all rewards do."""
    check_columns(q_values=q_values)
    return q_values.detach().std(correction=0)


def moved_log_kl_coef(log_kl_coef: Tensor, kl: Tensor, *, target_kl: float) -> Tensor:
    """ln(kl_coef) after a step that found the divergence ``kl``: up where it is above ``target_kl``, else down.

    It moves in proportion to ln(kl / target_kl), by at most :data:`KL_COEF_RATE`, so that the coefficient changes by a
    factor of e in 500 steps at most, and stays within :data:`LOG_KL_COEF_RANGE`.

    :param log_kl_coef: (1,)
    :param kl: a scalar, KL(pi || pi_k) in nats, the batch's mean
    """
    ratio = (kl.clamp(min=1e-12) / target_kl).log().clamp(-1.0, 1.0)
    return (log_kl_coef + KL_COEF_RATE * ratio).clamp(*LOG_KL_COEF_RANGE)


def output_penalty(mean: Tensor, std: Tensor, *, mean_penalty: float, log_std_penalty: float) -> Tensor:
    """The released code's penalty on the actor's outputs (1e-3 each there): scalar, from two (B, A)."""
    return mean_penalty * (mean**2).mean() + log_std_penalty * (std.log() ** 2).mean()


def soft_value(
    q_values: Tensor, log_prob: Tensor, *, ent_coef: Tensor | float, log_prob_bound: float | None = None
) -> Tensor:
    """V(s) of soft actor-critic, (B, 1), with log pi clipped.

    :param q_values: (B, n), one column a critic
    :param log_prob: (B, 1) from :func:`regularised_log_prob`
    :param log_prob_bound: clips log pi to [-bound, bound], in nats (MDAC, arXiv 2502.03854: unbounded log-densities in
        the critic's target are what holds KL-and-entropy methods back with continuous actions)
    """
    if log_prob_bound is not None:
        log_prob = log_prob.clamp(-log_prob_bound, log_prob_bound)
    return sac_soft_value(q_values, log_prob, ent_coef=ent_coef)


def value_loss(values: Tensor, targets: Tensor) -> tuple[Tensor, Info]:
    """0.5 mean (V - target)^2 (SAC's first version, arXiv 1801.01290, eq. 5); both (B, 1), ``targets`` detached."""
    check_columns(values=values, targets=targets)
    loss = 0.5 * F.mse_loss(values, targets)
    return loss, {"value_loss": loss.detach()}
