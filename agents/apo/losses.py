"""The mathematics of APO besides PPO's loss: pure functions of arrays. Shapes: T steps, N environments."""

import numpy as np

from rlopt.algorithms.rollout import advantage_estimates


def differential_advantages(
    rewards: np.ndarray, values: np.ndarray, last_values: np.ndarray, cut: np.ndarray, gain: float, *, gae_lambda: float
) -> np.ndarray:
    """Generalised advantage estimates [T, N] of the residuals r - J + V(s') - V(s) (arXiv 2106.03442, equation 9).

    :param rewards: [T, N]; where a time limit cut an episode, with V of its last observation
    :param values: [T, N], V of the observation that each step began with
    :param last_values: [N], V of the observation after the last step
    :param cut: [T, N], 1 where a time limit ended an episode in that step and 0 elsewhere
    :param gain: J, the average reward
    """
    return advantage_estimates(rewards - gain, values, last_values, cut, gamma=1.0, gae_lambda=gae_lambda)


def moved(estimate: float, sample: float, rate: float) -> float:
    """(1 - rate) estimate + rate sample."""
    return estimate + rate * (sample - estimate)
