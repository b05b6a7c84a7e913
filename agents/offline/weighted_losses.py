"""The mathematics of AWAC and IQL: likelihoods weighted by advantages, and expectile regression.

Letters and shapes as in :mod:`rlopt.agents.offline.losses`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlopt.agents.offline.losses import Info, check_columns


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
