"""The mathematics of differential DQN: pure functions of tensors. B batch, A actions."""

import torch
from torch import Tensor
from torch.nn import functional as F

from rlopt.agents.sac.differential import differential_target, rvi_estimate, td_estimate
from rlopt.agents.sac.losses import Info


def differential_q_loss(
    q_values: Tensor,
    actions: Tensor,
    rewards: Tensor,
    next_target_q: Tensor,
    next_online_q: Tensor | None,
    gain: Tensor,
    *,
    rvi: bool,
) -> tuple[Tensor, Info]:
    """Mean Huber loss of Q(s, a) against r - J + V(s'), and statistics, among them ``gain_estimate``.

    V(s') is the target network's value of the action that it, or with double Q-learning the online network, finds best.

    :param q_values: (B, A), Q(s, .)
    :param actions: (B, 1), whole numbers
    :param rewards: (B, 1), with the cost of a reset
    :param next_target_q: (B, A), of the target network at s'
    :param next_online_q: (B, A), of the online network at s'; None without double Q-learning
    :param gain: J, one number
    :param rvi: whether the gain is moved to mean V(s'), or by the mean error of Q
    """
    with torch.no_grad():
        chosen = (next_target_q if next_online_q is None else next_online_q).argmax(dim=1, keepdim=True)
        next_values = next_target_q.gather(1, chosen)
        targets = differential_target(rewards, gain, next_values)
    values = q_values.gather(1, actions.long())
    loss = F.smooth_l1_loss(values, targets)
    estimate = rvi_estimate(next_values) if rvi else td_estimate(gain, targets - values.detach())
    return loss, {"loss": loss.detach(), "gain_estimate": estimate, "mean_q": values.detach().mean()}
