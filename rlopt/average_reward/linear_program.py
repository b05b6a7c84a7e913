"""Linear programming for average reward, by HiGHS in scipy."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlopt.average_reward.chains import limiting_matrix, require_one_gain
from rlopt.average_reward.mdp import Array, FiniteMDP
from rlopt.average_reward.solution import AverageRewardSolution, chain_bias, optimal_solution
from rlopt.errors import ModelError

_OPTIONS = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


def linear_program(mdp: FiniteMDP) -> AverageRewardSolution:
    """The linear programs of average reward (Puterman 1994, section 8.8).

    The first maximises the mean reward over occupancy measures: its value is the gain. Its multipliers are a bias only
    on the states that an optimal policy keeps visiting, so a second one takes the smallest h that is 0 in one such
    state and satisfies ``h >= r - gain + P h`` in the others: the most that can be got above the gain on the way to
    that state, which is a bias everywhere.

    :raises ModelError: if the gain may depend on the first state, or the solver fails
    """
    require_one_gain(mdp)
    states, actions = mdp.n_states, mdp.n_actions
    # Row (s, a): h(s) - sum_t P(t | s, a) h(t).
    balance = np.repeat(np.eye(states), actions, axis=0) - mdp.P.reshape(-1, states)
    rewards = mdp.r.reshape(-1)
    # The flows of all states but one imply the last: kept, rounding would make the program infeasible.
    occupancy, first = _solve(
        -rewards,
        A_eq=np.vstack([balance.T[1:], np.ones(states * actions)]),
        b_eq=np.append(np.zeros(states - 1), 1.0),
        bounds=(0, None),
    )
    gain = float(occupancy @ rewards)
    visited = int(np.argmax(occupancy.reshape(states, actions).sum(axis=1)))
    bounds = [(0.0, 0.0) if state == visited else (None, None) for state in range(states)]
    others = np.repeat(np.arange(states), actions) != visited
    bias, second = np.zeros(1), 0
    if states > 1:
        # Policies as good as the best may never come to that state: rounding must not make them better.
        slack = 1e-13 * max(1.0, float(np.abs(rewards).max()))
        limits = (gain + slack - rewards)[others]
        bias, second = _solve(np.ones(states), A_ub=-balance[others], b_ub=limits, bounds=bounds)
    # HiGHS drops coefficients below 1e-9: the vertex that it found is worked out again without that.
    chain, chain_rewards = mdp.chain(np.argmax(mdp.r + mdp.P @ bias, axis=1))
    limit = limiting_matrix(chain)
    exact = float(limit[visited] @ chain_rewards)
    return optimal_solution(mdp, exact, chain_bias(chain, chain_rewards, limit), "linear program", first + second)


def _solve(cost: Array, **constraints: Any) -> tuple[Array, int]:
    from scipy.optimize import linprog  # slow to import, and needed here alone

    result = linprog(cost, method="highs", options=_OPTIONS, **constraints)
    if result.x is None or result.status != 0:
        raise ModelError(f"the linear program has no solution ({result.message}): use policy_iteration")
    return np.asarray(result.x, np.float64), int(result.nit)
