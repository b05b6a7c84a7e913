"""The mathematics of adversarial imitation: divergences, rewards and the gradient penalty, pure functions of tensors.

Letters: B batch, I inputs of the discriminator. d_e is the expert's occupancy, d the one that is to become like it: of
one policy, or of a mixture of weak learners. D is the discriminator's output; per-row quantities are columns (B, 1),
other shapes raise ``ValueError``, because a (B,) and a (B, 1) broadcast to (B, B) without an error.

AILBoost (Chang et al., arXiv 2404.08513) minimises the reverse KL divergence, whose variational form is, with D = -g,

    KL(d || d_e) = 1 + sup_g E_d[g] - E_{d_e}[exp(g)] = 1 - inf_D (E_d[D] + E_{d_e}[exp(-D)])                      (1)

The infimum is at D = ln(d_e / d), which is also the reward. The functional gradient of (1) by d is 1 - D, so the
policy that maximises the return of D is the direction in which a mixture's divergence falls fastest.
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.func import grad
from torch.nn import functional as F

from rlopt.agents.sac.losses import Info, check_columns
from rlopt.errors import ConfigError, unknown_name

Divergence = Literal["reverse_kl", "js", "wasserstein"]
RewardForm = Literal["airl", "gail"]


def check_divergence(divergence: str) -> None:
    """Raises :class:`rlopt.errors.UnknownNameError` unless it is reverse_kl, js or wasserstein."""
    if divergence not in get_args(Divergence):
        raise unknown_name("divergence", str(divergence), get_args(Divergence))


def check_reward_form(form: str, divergence: str) -> None:
    """Raises :class:`rlopt.errors.ConfigError` unless rewards of ``form`` exist for ``divergence``."""
    check_divergence(divergence)
    if form not in get_args(RewardForm):
        raise unknown_name("reward form", str(form), get_args(RewardForm))
    if form == "gail" and divergence != "js":
        raise ConfigError(f"reward form 'gail' needs the logit of divergence 'js', not {divergence!r}: use 'airl'")


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """sum_b w_b x_b / sum_b w_b, a scalar, from two (B, 1); weights >= 0 with a positive sum."""
    check_columns(values=values, weights=weights)
    return (weights * values).sum() / weights.sum()


def discriminator_loss(
    expert_outputs: Tensor,
    policy_outputs: Tensor,
    expert_weights: Tensor,
    policy_weights: Tensor,
    *,
    divergence: Divergence = "reverse_kl",
) -> tuple[Tensor, Info]:
    """What the discriminator minimises, a scalar.

    - ``reverse_kl``: E_e[exp(-D)] + E_d[D], equation (1); D* = ln(d_e / d)
    - ``js``: E_e[-ln sigma(D)] + E_d[-ln(1 - sigma(D))], cross-entropy on logits (GAIL, arXiv 1606.03476; DAC, arXiv
      1809.02925); D* = ln(d_e / d)
    - ``wasserstein``: E_d[D] - E_e[D], bounded only together with :func:`gradient_penalty`, and the same for D plus any
      constant

    :param expert_outputs: (B_e, 1), D on the expert's rows; ``policy_outputs`` (B, 1) on the learners'
    :param expert_weights: (B_e, 1), >= 0, as ``policy_weights`` (B, 1): each batch is normalised by its sum
    """
    check_divergence(divergence)
    if divergence == "reverse_kl":
        on_expert, on_policy = torch.exp(-expert_outputs), policy_outputs
    elif divergence == "js":
        on_expert, on_policy = F.softplus(-expert_outputs), F.softplus(policy_outputs)
    else:
        on_expert, on_policy = -expert_outputs, policy_outputs
    loss = weighted_mean(on_expert, expert_weights) + weighted_mean(on_policy, policy_weights)
    return loss, {"discriminator_loss": loss.detach()}


def reward(outputs: Tensor, *, divergence: Divergence = "reverse_kl", form: RewardForm = "airl") -> Tensor:
    """The reward r (B, 1) from D (B, 1).

    :param form: "airl" is D itself: ln(d_e / d) with reverse_kl and js (AIRL, arXiv 1710.11248, there the logit), the
        critic's value with wasserstein. "gail", with js only, is -ln(1 - sigma(D)) > 0 (GAIL, arXiv 1606.03476)
    """
    check_reward_form(form, divergence)
    check_columns(outputs=outputs)
    return F.softplus(outputs) if form == "gail" else outputs


def absorbing_output(
    expert_ends: float, policy_ends: float, expert_output: float, policy_output: float, *, divergence: Divergence
) -> float:
    """D of the absorbing state that follows every true end (DAC, arXiv 1809.02925, section 4.2), in closed form.

    It is one state that is like no other, which d_e visits as often as its episodes end, e, and d as often as its own
    do, p. So D* = ln(e / p) there with reverse_kl and js. With wasserstein, whose D is known up to a constant, it is
    the mean of D over the rows that end: (e E_e[D] + p E_d[D]) / (e + p).

    :param expert_ends: e > 0, true ends a transition, as ``policy_ends`` p
    :param expert_output: E_e[D], ``policy_output`` E_d[D]
    """
    check_divergence(divergence)
    if divergence == "wasserstein":
        return (expert_ends * expert_output + policy_ends * policy_output) / (expert_ends + policy_ends)
    return math.log(expert_ends / policy_ends)


def estimated_reverse_kl(
    expert_outputs: Tensor, policy_outputs: Tensor, expert_weights: Tensor, policy_weights: Tensor
) -> Tensor:
    """1 - E_d[D] - E_e[exp(-D)], a scalar in nats: equation (1) at this D, whatever it was trained for.

    In expectation a lower bound of KL(d || d_e), reached at D = ln(d_e / d). Shapes as in :func:`discriminator_loss`.
    """
    loss, _ = discriminator_loss(expert_outputs, policy_outputs, expert_weights, policy_weights)
    return 1 - loss


def convex_mix(expert_inputs: Tensor, policy_inputs: Tensor, mix: Tensor) -> Tensor:
    """mix x_e + (1 - mix) x, (B, I): random points between two rows of two (B, I), ``mix`` (B, 1) in [0, 1]."""
    if expert_inputs.shape != policy_inputs.shape or expert_inputs.dim() != 2:
        shapes = tuple(expert_inputs.shape), tuple(policy_inputs.shape)
        raise ValueError(f"expected two tensors of one shape (B, I), got {shapes[0]} and {shapes[1]}")
    check_columns(mix=mix, first_input=expert_inputs[:, :1])
    return policy_inputs + mix * (expert_inputs - policy_inputs)


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], inputs: Tensor, weights: Tensor | None = None, *, centre: float = 1.0
) -> Tensor:
    """mean_b (|grad_x D(x_b)| - centre)^2, a scalar: two-sided (WGAN-GP, arXiv 1704.00028, eq. 3).

    :param discriminator: D (B, 1) from (B, I), each row from its row alone
    :param inputs: (B, I), usually from :func:`convex_mix`
    :param weights: (B, 1), >= 0, of the rows in the mean; None for equal ones
    """
    gradients = grad(lambda x: discriminator(x).sum())(inputs)
    excess = (torch.linalg.vector_norm(gradients, dim=1, keepdim=True) - centre).square()
    return excess.mean() if weights is None else weighted_mean(excess, weights)
