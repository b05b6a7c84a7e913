"""Relative value iteration for average reward."""

import numpy as np

from rlopt.average_reward.chain_structure import require_constant_gain
from rlopt.average_reward.chain_values import ChainValues, chain_values
from rlopt.average_reward.end_components import chain_classes
from rlopt.average_reward.mdp import DecisionProcess
from rlopt.average_reward.optimal_gains import smallest_reward
from rlopt.average_reward.pairs import EPSILON
from rlopt.average_reward.solution import AverageRewardSolution, require_proved, solution_of
from rlopt.errors import ModelError


def relative_value_iteration(
    mdp: DecisionProcess, tolerance: float = 1e-12, damping: float = 0.5, max_sweeps: int = 1_000_000
) -> AverageRewardSolution:
    """White's relative value iteration on the aperiodic transform (Puterman 1994, sections 8.5.4 and 8.5.5).

    A sweep moves the share ``damping`` of the way to the full backup, which keeps gain and bias and makes every chain
    aperiodic. The gain lies between the smallest and the largest entry of T v - v; iteration stops once these differ by
    ``tolerance`` relative to their size. A sweep costs one product with a sparse matrix and solves no equations, but a
    chain that mixes slowly needs many sweeps.

    :param tolerance: relative, > 0
    :param damping: in (0, 1); 1 would not converge on a cycle
    :raises ModelError: if the gain depends on the first state, or the sweeps do not suffice
    """
    if not 0 < damping < 1:
        raise ModelError(f"damping is {damping}: give a number in (0, 1), such as 0.5")
    require_constant_gain(mdp)
    pairs = mdp.pairs
    from scipy.sparse import coo_array  # slow to import

    own = np.arange(pairs.n_pairs)
    total = pairs.sums(pairs.rate)
    matrix = coo_array(
        (
            np.concatenate([pairs.rate, -total]),
            (np.concatenate([pairs.row, own]), np.concatenate([pairs.column, pairs.state])),
        ),
        shape=(pairs.n_pairs, pairs.n_states),
    ).tocsr()
    smallest = smallest_reward(pairs)
    values, starts = np.zeros(pairs.n_states), pairs.starts[:-1]
    low, high, sweeps = -np.inf, np.inf, 0
    while sweeps < max_sweeps:
        sweeps += 1
        gained = pairs.rewards + matrix @ values
        change = np.maximum.reduceat(gained, starts)
        low, high = float(change.min()), float(change.max())
        if high - low <= max(tolerance * max(abs(low), abs(high), smallest), 8 * EPSILON * float(np.ptp(values))):
            break
        values = values + damping * change
        values -= values[0]
    else:
        raise ModelError(
            f"relative value iteration knows the gain only between {low:.8g} and {high:.8g} after {max_sweeps} sweeps: "
            "allow more sweeps, a larger tolerance, or use policy_iteration"
        )
    gained, noise, _ = pairs.excess(0.0, values)
    # The first of the actions that are as good as these values can tell.
    tied = gained >= np.maximum.reduceat(gained - 2 * (noise + high - low), starts)[pairs.state]
    chosen = pairs.best(tied.astype(np.float64))
    found = chain_values(pairs.chain(chosen))
    recurrent = found.classes >= 0
    scale = float(found.distribution @ abs(pairs.rewards[chosen])) / found.n_classes
    lower = float((gained - noise)[chosen[recurrent]].min())
    upper = float((gained + noise).max())
    scale = max(scale, abs(lower), abs(upper), smallest)
    require_proved(lower, upper, scale, "relative value iteration")
    bias = values - float(found.distribution @ values) / found.n_classes
    gains = np.full(pairs.n_states, (low + high) / 2)
    found = ChainValues(gains, bias, np.zeros_like(bias), chain_classes(pairs.chain(chosen)), found.distribution)
    bounds = np.full(pairs.n_states, lower), np.full(pairs.n_states, upper)
    return solution_of(mdp, pairs, chosen, found, bounds, "relative value iteration", sweeps)
