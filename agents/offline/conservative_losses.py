"""The mathematics of CQL (Kumar et al., arXiv 2006.04779).

Letters and shapes as in :mod:`rlopt.agents.offline.losses`; M actions are sampled at each state.
"""

from __future__ import annotations

import math

from torch import Tensor

from rlopt.agents.offline.losses import Info


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
