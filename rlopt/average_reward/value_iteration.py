"""Relative value iteration for average reward."""

from __future__ import annotations

import numpy as np

from rlopt.average_reward.chains import require_one_gain
from rlopt.average_reward.mdp import FiniteMDP
from rlopt.average_reward.solution import AverageRewardSolution, optimal_solution
from rlopt.errors import ModelError


def relative_value_iteration(
    mdp: FiniteMDP, tolerance: float = 1e-12, damping: float = 0.5, max_sweeps: int = 1_000_000
) -> AverageRewardSolution:
    """White's relative value iteration on the aperiodic transform (Puterman 1994, sections 8.5.4 and 8.5.5).

    A sweep moves a part ``damping`` of the way to the full backup, which keeps gain and bias and makes every chain
    aperiodic. It stops once span(T v - v) <= tolerance * max(1, span(v)): the gain is then known to within that.

    :param damping: in (0, 1); 1 would not converge on a cycle
    :raises ModelError: if the gain may depend on the first state, or the sweeps do not suffice
    """
    if not 0 < damping < 1:
        raise ModelError(f"damping is {damping}: give a number in (0, 1), such as 0.5")
    require_one_gain(mdp)
    values = np.zeros(mdp.n_states)
    for sweep in range(1, max_sweeps + 1):
        change = (mdp.r + mdp.P @ values).max(axis=1) - values
        low, high = float(change.min()), float(change.max())
        if high - low <= tolerance * max(1.0, float(np.ptp(values))):
            return optimal_solution(mdp, (low + high) / 2, values, "relative value iteration", sweep)
        values = values + damping * change
        values -= values[0]
    raise ModelError(
        f"relative value iteration is at span {high - low:.2g} after {max_sweeps} sweeps, above {tolerance:g}: allow "
        "more sweeps, a larger tolerance, or use policy_iteration"
    )
