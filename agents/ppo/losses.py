"""Loss of PPO: a pure function of tensors. Equation numbers are those of agents/ppo/README.md. Shapes: B batch."""

import torch
from torch import Tensor
from torch.nn import functional

Info = dict[str, Tensor]


def ppo_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    entropy: Tensor,
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    *,
    clip_range: float | Tensor,
    vf_coef: float | Tensor,
    ent_coef: float | Tensor,
    clip_range_vf: float | Tensor | None = None,
) -> tuple[Tensor, Info]:
    """Equation (1), to minimise (Schulman et al., arXiv 1707.06347, equations 7 and 9), with r = pi(a|s) / pi_k(a|s).

    -E[min(r A, clip(r, 1 - e, 1 + e) A)] + vf_coef E[(V - R)^2] - ent_coef E[H(pi)].

    :param log_prob: [B], log pi(a|s) of the actions taken, with gradient
    :param old_log_prob: [B], log pi_k(a|s) of the same actions
    :param advantages: [B], advantages of pi_k
    :param entropy: [B], entropy of pi at each state, with gradient
    :param values: [B], V(s) with gradient
    :param old_values: [B], V(s) when the data were collected; used only for clipping
    :param returns: [B], targets of V
    :param clip_range: e > 0, how far r may be from 1 before its gradient ends
    :param vf_coef: weight of the value loss, >= 0
    :param ent_coef: weight of the entropy bonus, >= 0
    :param clip_range_vf: if given, V may move at most this far from ``old_values``
    """
    tensors = (log_prob, old_log_prob, advantages, entropy, values, old_values, returns)
    if any(tensor.shape != log_prob.shape for tensor in tensors):
        raise ValueError(f"ppo_loss needs seven tensors of one shape [B], got {[tuple(x.shape) for x in tensors]}")
    # The operations of Stable-Baselines3's PPO in their order, so that the sums are the same to the last bit.
    ratio = torch.exp(log_prob - old_log_prob)
    clipped = advantages * torch.clamp(ratio, 1 - clip_range, 1 + clip_range)  # type: ignore[arg-type]
    policy_gradient_loss = -torch.min(advantages * ratio, clipped).mean()
    if clip_range_vf is not None:
        values = old_values + torch.clamp(values - old_values, -clip_range_vf, clip_range_vf)  # type: ignore[arg-type]
    value_loss = functional.mse_loss(returns, values)
    entropy_loss = -torch.mean(entropy)
    loss = policy_gradient_loss + ent_coef * entropy_loss + vf_coef * value_loss
    with torch.no_grad():
        log_ratio = log_prob - old_log_prob
        info = {
            "policy_gradient_loss": policy_gradient_loss,
            "value_loss": value_loss,
            "entropy_loss": entropy_loss,
            "approx_kl": ((torch.exp(log_ratio) - 1) - log_ratio).mean(),
            "clip_fraction": ((ratio - 1).abs() > clip_range).float().mean(),
            "loss": loss,
        }
    return loss, {name: value.detach() for name, value in info.items()}
