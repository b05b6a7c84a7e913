"""Policy iteration for average reward: proven gains of every state, and the best bias among gain-optimal policies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from rlopt.average_reward.chain_values import ChainValues, chain_values
from rlopt.average_reward.end_components import Indices
from rlopt.average_reward.optimal_gains import NEGLIGIBLE, Gains, improved_pairs, optimal_gains
from rlopt.average_reward.pairs import EPSILON, Numbers, Pairs
from rlopt.average_reward.solution import ACCURACY, AverageRewardSolution, solution_of
from rlopt.errors import ModelError

if TYPE_CHECKING:
    from rlopt.average_reward.mdp import DecisionProcess

EXACT_STATES = 64
"""Processes of up to this size are solved again in rational numbers where floats cannot prove the gain."""
TIE_ITERATIONS = 200
"""Policies that ties of gain and bias are decided by in floats at most: what is left then is rounding."""
Criterion = Literal["gain", "bias", "blackwell"]


def policy_iteration(
    mdp: DecisionProcess, max_iterations: int = 10_000, criterion: Criterion = "bias", exact: bool | None = None
) -> AverageRewardSolution:
    """The optimal gain of every state, by Howard's policy iteration on each maximal end component and between them.

    Multichain, periodic and nearly decomposable processes are all solved. What is returned is proved: no policy has a
    gain above the upper end of the bracket, the policy returned earns the lower end, and the two differ by at most 1e-9
    of the mean size of the rewards it gets, whatever their unit. Up to 64 states, what floats cannot prove is solved
    again in rational numbers.

    :param criterion: which of the policies with the best gain: ``gain`` takes any; ``bias`` one with the largest bias
        in every state, which makes bias and span unique; ``blackwell`` one that is optimal for every discount close
        enough to 1 (Veinott 1969). Ties are decided up to rounding, or exactly by ``exact``: for ``blackwell`` up to
        64 states that is the default
    :param exact: True solves in rational numbers from the start, False never does; None where it is needed
    :raises ModelError: if the gain cannot be proved that closely, or the iterations do not suffice
    """
    if criterion not in ("gain", "bias", "blackwell"):
        raise ModelError(f"criterion is {criterion!r}: give gain, bias or blackwell")
    pairs, width = mdp.pairs, float("nan")
    if exact is None and criterion == "blackwell" and pairs.n_states <= EXACT_STATES:
        exact = True
    if not exact:
        failure: Exception | None = None
        try:
            found = _solve(pairs, criterion, max_iterations)
            width = found[0].width
        except (FloatingPointError, ModelError) as error:
            failure = error
        if failure is None and width <= ACCURACY:
            return _solution(mdp, pairs, found, "policy iteration")
        if exact is False or pairs.n_states > EXACT_STATES:
            if isinstance(failure, ModelError):
                raise failure
            reason = f"the bounds differ by {width:.1g} of the rewards" if failure is None else f"{failure}"
            raise ModelError(
                f"floats cannot prove the gain of this process ({reason}): its rewards or probabilities are too far "
                f"apart; rescale them, take out impossible actions by rewards of -inf, or give exact=True"
            )
    exactly = pairs.exactly()
    return _solution(mdp, exactly, _solve(exactly, criterion, max_iterations), "policy iteration in rational numbers")


Solved = tuple[Gains, ChainValues, Indices, int]


def _solve(pairs: Pairs, criterion: Criterion, max_iterations: int) -> Solved:
    """Gains, the values of the best policy, its pairs, and how many policies were evaluated."""
    gains = optimal_gains(pairs, max_iterations)
    kept = _keeps_gain(pairs, gains.gains)
    kept[gains.chosen] = True
    index, part = np.flatnonzero(kept), pairs.only(kept)
    chosen: Indices = gains.chosen
    known: ChainValues | None = gains.values
    iterations = gains.iterations
    for _ in range(max_iterations if pairs.exact else min(max_iterations, TIE_ITERATIONS)):
        position = np.searchsorted(index, chosen)
        values, position, ties, more = _best_bias(part, position, gains.scale, max_iterations, known)
        iterations, chosen = iterations + more, index[position]
        if criterion == "gain" or ties.sum() == pairs.n_states:
            break
        raised, more = _raised(part.only(ties), index[ties], chosen, values, criterion, max_iterations)
        iterations += more
        if np.array_equal(raised, chosen):
            break
        # States that lead to those whose bias was raised may now prefer other actions.
        chosen, known = raised, None
    final = values if np.array_equal(chosen, index[position]) else chain_values(pairs.chain(chosen))
    return gains, final, chosen, iterations


def _raised(
    part: Pairs, index: Indices, chosen: Indices, values: ChainValues, criterion: Criterion, max_iterations: int
) -> tuple[Indices, int]:
    """The best of the policies that tie in gain and in the equation of the bias, by pairs, and the iterations.

    Each level is a problem of average reward over the pairs that the levels before leave: the first has the bias with
    its sign turned for a reward, whose gain is what the bias can still be raised by, and so on up the expansion of the
    discounted values (Puterman 1994, sections 10.2 and 10.3).

    :param index: the number of each pair of ``part``
    :param chosen: the policy so far, and ``values`` its values
    """
    iterations = 0
    if not part.exact:
        max_iterations = min(max_iterations, TIE_ITERATIONS)
    for _ in range(part.n_states + 1):
        own = part.with_rewards(-values.bias[part.state])
        try:
            gains = optimal_gains(own, max_iterations)
            iterations += gains.iterations
            best = index[gains.chosen]
            if _raises(gains, part.exact):
                return best, iterations
            if criterion == "bias":
                break
            kept = _keeps_gain(part, gains.gains)
            kept[np.searchsorted(index, chosen)] = True
            own, index = own.only(kept), index[kept]
            known = gains.values if np.array_equal(chosen, best) else None
            position = np.searchsorted(index, chosen)
            values, position, ties, more = _best_bias(own, position, gains.scale, max_iterations, known)
        except (FloatingPointError, ModelError):
            if part.exact:
                raise
            break  # what is left are ties that floats cannot tell apart
        iterations += more
        if not np.array_equal(index[position], chosen):
            return index[position], iterations
        part, index = own.only(ties), index[ties]
        if part.n_pairs == part.n_states:
            break
    return chosen, iterations


def _raises(gains: Gains, exact: bool) -> bool:
    """Whether a level of the bias can be raised, by more than rounding."""
    floor = 0 * gains.scale if exact else 1e3 * EPSILON * gains.scale
    return bool((gains.lower > floor).any())


def _keeps_gain(pairs: Pairs, gains: Numbers) -> np.ndarray:
    """[m] the pairs from which the gain is no smaller than before."""
    change, sizes = pairs.drift(gains)
    if pairs.exact:
        return np.asarray(change == 0, bool)
    return np.asarray(change >= -4 * (EPSILON * (2.0 * pairs.lengths + 12.0) * sizes))


def _best_bias(
    pairs: Pairs, chosen: Indices, scale: Numbers, max_iterations: int, known: ChainValues | None
) -> tuple[ChainValues, Indices, np.ndarray, int]:
    """Improves the bias of a policy of optimal gain until the optimality equation holds.

    :param scale: [S] of the rewards in the long run
    :param known: the values of ``chosen``, if they are known
    :returns: the policy's values, its pairs, [m] the pairs with which the equation is an equality, and the iterations
    """
    for iteration in range(1, max_iterations + 1):
        found = chain_values(pairs.chain(chosen)) if known is None else known
        known = None
        values, noise, unsure = pairs.excess(found.gains[pairs.state], found.bias, found.rest)
        slack = np.minimum(unsure, NEGLIGIBLE * scale[pairs.state])
        following, better = improved_pairs(pairs, values, noise, slack, chosen)
        if not better.any():
            own = chosen[pairs.state]
            ties = np.asarray(values >= values[own] - 4 * (noise + noise[own]) - unsure - unsure[own], bool)
            return found, chosen, ties, iteration
        chosen = following
    raise ModelError(f"policy iteration does not end after {max_iterations} policies: use relative_value_iteration")


def _solution(mdp: DecisionProcess, pairs: Pairs, solved: Solved, method: str) -> AverageRewardSolution:
    gains, values, chosen, iterations = solved
    return solution_of(mdp, pairs, chosen, values, (gains.lower, gains.upper), method, iterations)
