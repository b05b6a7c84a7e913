"""Differential values: what learners of the average reward from replay share.

With average reward nothing is discounted. Action values Q and a gain J satisfy Q(s, a) = r - J + E V(s').
"""

from torch import Tensor

from rlopt.agents.sac.losses import check_columns


def differential_target(rewards: Tensor, gain: Tensor, next_values: Tensor) -> Tensor:
    """r - J + V(s'), (B, 1): what Q(s, a) is moved to.

    :param rewards: (B, 1), with bonus and reset cost if there are any
    :param gain: J, one number
    :param next_values: (B, 1), V(s') of the target critics
    """
    check_columns(rewards=rewards, next_values=next_values)
    return rewards - gain + next_values


def rvi_estimate(next_values: Tensor) -> Tensor:
    """mean V(s'), the f(Q) of RVI-SAC (arXiv 2408.01972); (B, 1) to a scalar.

    At a fixed point mean V(s') = J, so of all the solutions Q + constant it picks one.
    """
    return next_values.mean()


def td_estimate(gain: Tensor, errors: Tensor) -> Tensor:
    """J + mean(target - Q(s, a)), a scalar: differential Q-learning (arXiv 2006.16318).

    :param errors: (B, n), of every critic
    """
    return gain + errors.mean()


def moved_gain(gain: Tensor, estimate: Tensor, rate: float) -> Tensor:
    """(1 - rate) J + rate estimate; with :func:`rvi_estimate` it is RVI-SAC's delayed f(Q)."""
    return gain + rate * (estimate - gain)
