"""Differential values: what learners of the average reward from replay share.

With average reward nothing is discounted. Action values Q and a gain J satisfy Q(s, a) = r - J + E V(s').
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

from rlopt.agents.sac.losses import check_columns
from rlopt.errors import ConfigError

OnTermination = Literal["refuse", "reset"]


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


def mark_resets(
    dones: np.ndarray, infos: Sequence[dict[str, Any]], on_termination: OnTermination, step: int
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Ends and infos of a step as a replay buffer is to have them: where the process was reset, the observation after
    it follows.

    A time limit is not a reset: learning bootstraps beyond it.

    :param dones: (n_envs,)
    :param infos: of each environment; an info ``reset`` of ``ContinuingWrapper`` says that one was reset
    :param step: for the message
    :raises rlopt.errors.ConfigError: for an episode that terminated, with "refuse"
    """
    resets, infos = np.array(dones, bool), list(infos)
    for index, info in enumerate(infos):
        terminated = bool(resets[index]) and not info.get("TimeLimit.truncated", False)
        if terminated and on_termination == "refuse":
            raise ConfigError(
                f"an episode terminated at step {step}, but an average reward needs a process that continues: set "
                'on_termination="reset" to make the reset a transition with a cost, or wrap the environment in '
                "rlopt.envs.average_reward.ContinuingWrapper"
            )
        restarted = on_termination == "reset" and info.get("reset") is True and "reset_cost" in info
        if terminated or restarted:
            resets[index] = True
            infos[index] = {key: value for key, value in info.items() if key != "terminal_observation"}
    return resets, infos
