"""Linear programming for average reward, by HiGHS in scipy."""

from typing import Any

import numpy as np

from rlopt.average_reward.chain_values import chain_values
from rlopt.average_reward.end_components import end_components
from rlopt.average_reward.mdp import Array, FiniteMDP
from rlopt.average_reward.optimal_gains import smallest_reward
from rlopt.average_reward.solution import AverageRewardSolution, require_proved, solution_of
from rlopt.errors import ModelError

_OPTIONS = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


def linear_program(mdp: FiniteMDP) -> AverageRewardSolution:
    """The linear programs of average reward (Puterman 1994, section 8.8).

    The first maximises the mean reward over occupancy measures: its value is the gain. Its multipliers are a bias only
    on the states that an optimal policy keeps visiting, so a second one takes the smallest h that is 0 in one such
    state and satisfies ``h >= r - gain + P h`` in the others: the most that can be got above the gain on the way to
    that state, which is a bias everywhere.

    :raises ModelError: if there are several sets of states that can be kept to for ever, or the solver fails or does
        not come close enough
    """
    components = int(end_components(mdp.pairs)[0].max()) + 1
    if components > 1:
        raise ModelError(
            f"the process has {components} sets of states that a policy can stay in for ever, and the linear program "
            "takes one: use policy_iteration"
        )
    pairs, states = mdp.pairs, mdp.n_states
    # Row (s, a): h(s) - sum_t P(t | s, a) h(t).
    balance = np.zeros((pairs.n_pairs, states))
    np.add.at(balance, (pairs.row, pairs.column), -pairs.rate)
    np.add.at(balance, (np.arange(pairs.n_pairs), pairs.state), pairs.sums(pairs.rate))
    # HiGHS has absolute tolerances.
    rewards = pairs.rewards / (float(np.abs(pairs.rewards).max()) or 1.0)
    # The flows of all states but one imply the last: kept, rounding would make the program infeasible.
    occupancy, first = _solve(
        -rewards,
        A_eq=np.vstack([balance.T[1:], np.ones(pairs.n_pairs)]),
        b_eq=np.append(np.zeros(states - 1), 1.0),
        bounds=(0, None),
    )
    gain = float(occupancy @ rewards)
    visited = int(np.argmax(np.bincount(pairs.state, occupancy, minlength=states)))
    bounds = [(0.0, 0.0) if state == visited else (None, None) for state in range(states)]
    others = pairs.state != visited
    bias, second = np.zeros(1), 0
    if states > 1:
        # Policies as good as the best may never come to that state: rounding must not make them better.
        limits = (gain + 1e-13 - rewards)[others]
        bias, second = _solve(np.ones(states), A_ub=-balance[others], b_ub=limits, bounds=bounds)
    # HiGHS drops coefficients below 1e-9: the vertex that it found is worked out again without that.
    chosen = pairs.best(rewards - balance @ bias)
    found = chain_values(pairs.chain(chosen))
    values, noise, _ = pairs.excess(0.0, found.bias, found.rest)
    recurrent = found.classes == found.classes[visited] if found.classes[visited] >= 0 else found.classes >= 0
    lower, upper = float((values - noise)[chosen[recurrent]].min()), float((values + noise).max())
    scale = float((found.distribution * abs(pairs.rewards[chosen]))[recurrent].sum())
    require_proved(lower, upper, max(scale, abs(lower), abs(upper), smallest_reward(pairs)), "the linear program")
    ends = np.full(states, lower), np.full(states, upper)
    return solution_of(mdp, pairs, chosen, found, ends, "linear program", first + second)


def _solve(cost: Array, **constraints: Any) -> tuple[Array, int]:
    from scipy.optimize import linprog  # slow to import, and needed here alone

    result = linprog(cost, method="highs", options=_OPTIONS, **constraints)
    if result.x is None or result.status != 0:
        raise ModelError(f"the linear program has no solution ({result.message}): use policy_iteration")
    return np.asarray(result.x, np.float64), int(result.nit)
