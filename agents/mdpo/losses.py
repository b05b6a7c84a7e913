"""Losses of on-policy MDPO: pure functions of tensors.

Equation numbers are those of this repository's agents/mdpo/README.md. Shapes: B batch.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from rlopt.agents.ppo.distributions import Bernoulli, Categorical, Factors, Gaussian, two_categories
from rlopt.agents.ppo.losses import Info


def policy_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    divergence: Tensor,
    entropy: Tensor,
    *,
    step_size: float | Tensor,
    ent_coef: float | Tensor,
) -> tuple[Tensor, Info]:
    """Equation (1), to minimise: -E[r A] + E[B(pi || pi_k)] / t_k - ent_coef E[H(pi)], with r = pi(a|s) / pi_k(a|s).

    :param log_prob: [B], log pi(a|s) of the actions taken, with gradient
    :param old_log_prob: [B], log pi_k(a|s) of the same actions
    :param advantages: [B], advantages of pi_k
    :param divergence: [B], B_q(pi || pi_k) at each state, with gradient
    :param entropy: [B], entropy of pi at each state, with gradient
    :param step_size: t_k > 0, the mirror-descent step size
    :param ent_coef: weight of the entropy bonus, >= 0
    """
    if not log_prob.shape == old_log_prob.shape == advantages.shape == divergence.shape == entropy.shape:
        shapes = [tuple(x.shape) for x in (log_prob, old_log_prob, advantages, divergence, entropy)]
        raise ValueError(f"policy_loss needs five tensors of one shape [B], got {shapes}")
    ratio = (log_prob - old_log_prob).exp()
    surrogate, proximity, bonus = (ratio * advantages).mean(), divergence.mean(), entropy.mean()
    loss = -surrogate + proximity / step_size - ent_coef * bonus
    info = {
        "policy_loss": loss,
        "divergence": proximity,
        "entropy": bonus,
        "ratio_std": ratio.detach().std(correction=0),
    }
    return loss, {name: value.detach() for name, value in info.items()}


def value_loss(
    values: Tensor, returns: Tensor, old_values: Tensor, *, clip_range_vf: float | None
) -> tuple[Tensor, Info]:
    """Equation (2), to minimise: the mean squared error to the lambda-returns.

    :param values: [B], V(s) with gradient
    :param returns: [B], targets
    :param old_values: [B], V(s) when the data were collected; used only for clipping
    :param clip_range_vf: if given, V may move at most this far from ``old_values``
    """
    if not values.shape == returns.shape == old_values.shape:
        shapes = [tuple(x.shape) for x in (values, returns, old_values)]
        raise ValueError(f"value_loss needs three tensors of one shape [B], got {shapes}")
    if clip_range_vf is not None:
        values = old_values + torch.clamp(values - old_values, -clip_range_vf, clip_range_vf)
    loss = (values - returns).square().mean()
    return loss, {"value_loss": loss.detach()}


def annealed_step_size(step_size: float, *, progress_remaining: float, rollout_fraction: float) -> float:
    """t_k = step_size * (1 - k/K) for update k = 0 .. K-1, so that it ends at step_size / K and 1 / t_k stays finite.

    :param progress_remaining: 1 - (steps done, the batch of update k included) / (steps in all)
    :param rollout_fraction: 1 / K, the share of all steps that one rollout is, in (0, 1]
    """
    return step_size * max(progress_remaining + rollout_fraction, rollout_fraction)


def adapted_step_size(step_size: float, *, divergence: float, target: float) -> float:
    """Equation (6), t_{k+1} = t_k min(2, max(1/2, target / divergence)), within [1e-4, 1e4].

    :param step_size: t_k, of the update that led to ``divergence``
    :param divergence: E[B_q(pi || pi_k)] after that update, >= 0
    :param target: of the divergence, > 0
    """
    factor = min(2.0, max(0.5, target / max(divergence, 1e-12)))
    return min(1e4, max(1e-4, step_size * factor))


def value_scale(returns: Tensor) -> float:
    """The power of two nearest to the root mean square of ``returns``, on a logarithmic scale; 1 for returns of 0.

    In its unit returns are of size 1, whatever the scale of rewards; a power of two is divided by without rounding.
    """
    size = returns.double().square().mean().sqrt().item()
    return 2.0 ** round(math.log2(size)) if 0 < size < math.inf else 1.0


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
