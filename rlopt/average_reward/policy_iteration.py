"""Howard's policy iteration for average reward."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rlopt.average_reward.chains import limiting_matrix, require_one_gain
from rlopt.average_reward.solution import TIE, AverageRewardSolution, chain_bias, optimal_solution
from rlopt.errors import ModelError

if TYPE_CHECKING:
    from rlopt.average_reward.mdp import Array, FiniteMDP


def policy_iteration(mdp: FiniteMDP, max_iterations: int = 10_000) -> AverageRewardSolution:
    """Howard's policy iteration in its multichain form (Puterman 1994, section 9.2.1).

    Every policy is evaluated exactly, also one that has several recurrent classes, as many do on the way in a
    communicating process: first the gain is improved, then the bias among the actions that keep the gain.

    :raises ModelError: if the optimal gain may depend on the first state, or the iterations do not suffice
    """
    require_one_gain(mdp)
    policy = np.argmax(mdp.r, axis=1)
    rows = np.arange(mdp.n_states)
    for iteration in range(1, max_iterations + 1):
        chain, rewards = mdp.P[rows, policy], mdp.r[rows, policy]
        limit = limiting_matrix(chain)
        gains, bias = limit @ rewards, chain_bias(chain, rewards, limit)
        improved = _improve(policy, mdp.P @ gains)
        if np.array_equal(improved, policy):
            keeping = mdp.P @ gains >= gains[:, None] - TIE * max(1.0, float(np.abs(gains).max()))
            improved = _improve(policy, np.where(keeping, mdp.r + mdp.P @ bias, -np.inf))
        if np.array_equal(improved, policy):
            return optimal_solution(mdp, float(gains[0]), bias, "policy iteration", iteration)
        policy = improved
    raise ModelError(f"policy iteration does not end after {max_iterations} policies: use relative_value_iteration")


def _improve(policy: np.ndarray, values: Array) -> np.ndarray:
    """The best actions, the present one wherever it is as good up to rounding."""
    rows = np.arange(len(policy))
    margin = TIE * max(1.0, float(np.abs(values[np.isfinite(values)]).max()))
    return np.where(values.max(axis=1) > values[rows, policy] + margin, values.argmax(axis=1), policy)
