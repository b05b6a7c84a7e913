"""Gain and bias of a Markov chain with rewards: by class, with twice the digits of a float where they are needed."""

from dataclasses import dataclass

import numpy as np

from rlopt.average_reward.elimination import DENSE_STATES, TransientSystem
from rlopt.average_reward.end_components import Indices, chain_classes
from rlopt.average_reward.pairs import Numbers, Pairs, add, row_sums, zeros

REFINEMENTS = 2
"""Corrections of a bias by what its equation is violated by; each gains most of the digits of a float."""


@dataclass(frozen=True, eq=False)
class ChainValues:
    """What a policy with one pair a state is worth: ``gains + bias = r + P bias`` with ``P gains = gains``."""

    gains: Numbers
    """[S] long-run mean reward from each first state."""
    bias: Numbers
    """[S], whose mean under the stationary distribution of each recurrent class is 0."""
    rest: Numbers | None
    """[S] to be added to ``bias``, below its last digit; None in exact arithmetic."""
    classes: Indices
    """[S] the number of the recurrent class of each state, -1 for transient ones."""
    distribution: Numbers
    """[S] the stationary distribution of each recurrent class on its states; 0 on transient ones."""

    @property
    def n_classes(self) -> int:
        """How many recurrent classes there are."""
        return int(self.classes.max()) + 1


def chain_values(chain: Pairs) -> ChainValues:
    """Evaluates the chain whose states have one pair each.

    :raises FloatingPointError: if a number is too large or too small for a float
    """
    classes, size, exact = chain_classes(chain), chain.n_states, chain.exact
    gains, bias, distribution = (zeros(size, exact) for _ in range(3))
    rest = None if exact else np.zeros(size)
    counts = np.bincount(classes[classes >= 0])
    single = (classes >= 0) & (counts[classes] == 1)
    gains[single], distribution[single] = chain.rewards[single], distribution[single] + 1
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        if (counts > 1).any():
            members = np.argsort(classes, kind="stable")[np.count_nonzero(classes < 0) :]
            for number in np.flatnonzero(counts > 1):
                end = int(counts[: number + 1].sum())
                states = np.sort(members[end - counts[number] : end])
                part = chain if len(states) == size else chain.inside(states)
                found = _recurrent(part)
                gains[states], bias[states], distribution[states] = found[0], found[1], found[3]
                if rest is not None and found[2] is not None:
                    rest[states] = found[2]
        transient = classes < 0
        if transient.any():
            _pass_back(chain, transient, gains, bias, rest)
    return ChainValues(gains, bias, rest, classes, distribution)


def absorbed_values(chain: Pairs, kept: np.ndarray, values: Numbers, source: Numbers | None = None) -> Numbers:
    """[S] ``values`` on the states ``kept`` [S], and what of them is expected where the chain first meets those.

    :param source: [S] rewards of a visit on the way; None for none
    """
    found = values.copy()
    outside = np.flatnonzero(~kept)
    if not len(outside):
        return found
    system, out, number = leaving_system(chain, kept, outside)
    inflow = row_sums(number[chain.source[out]], chain.rate[out] * values[chain.column[out]], len(outside))
    if source is not None:
        inflow = inflow + source[outside]
    found[outside] = system.solve(inflow)
    return found


def leaving_system(chain: Pairs, kept: np.ndarray, outside: Indices) -> tuple[TransientSystem, np.ndarray, Indices]:
    """The chain outside of the states ``kept`` [S]; the entries that lead into them; the number of each state."""
    number = np.full(chain.n_states, -1)
    number[outside] = np.arange(len(outside))
    from_outside = ~kept[chain.source]
    within, out = from_outside & ~kept[chain.column], from_outside & kept[chain.column]
    leak = row_sums(number[chain.source[out]], chain.rate[out], len(outside))
    system = TransientSystem(number[chain.source[within]], number[chain.column[within]], chain.rate[within], leak)
    return system, out, number


def _recurrent(chain: Pairs) -> tuple[object, Numbers, Numbers | None, Numbers]:
    """Gain, bias, the rest of the bias and stationary distribution of a chain that is one recurrent class."""
    reference = _likely_state(chain)
    system, distribution = _around(chain, reference)
    if not chain.exact and chain.n_states <= DENSE_STATES and 2 * distribution[reference] < distribution.max():
        # The bias is the smaller, and the gain the more accurate, the more often the reference state is met.
        reference = int(np.argmax(distribution))
        system, distribution = _around(chain, reference)
    others = np.delete(np.arange(chain.n_states), reference)
    gain = (distribution * chain.rewards).sum()
    excess = chain.rewards - gain
    bias = zeros(chain.n_states, chain.exact)
    bias[others] = system.solve(excess[others])
    if chain.exact:
        return gain, bias - (distribution * bias).sum(), None, distribution
    rest = np.zeros(chain.n_states)
    for _ in range(REFINEMENTS):
        violation, _, _ = chain.excess(gain, bias, rest)
        correction = np.zeros(chain.n_states)
        correction[others] = system.solve(violation[others])
        bias, rest = add(bias, rest, correction)
    bias, rest = add(bias, rest, -float(distribution @ bias))
    bias, rest = add(bias, rest, -float(distribution @ bias))
    return gain, bias, rest, distribution


def _around(chain: Pairs, reference: int) -> tuple[TransientSystem, Numbers]:
    """The chain stopped in ``reference``, and its stationary distribution [S]."""
    kept = np.zeros(chain.n_states, bool)
    kept[reference] = True
    others = np.flatnonzero(~kept)
    system, _, number = leaving_system(chain, kept, others)
    leaving = chain.source == reference
    time = zeros(chain.n_states, chain.exact)
    time[reference] += 1
    time[others] = system.flow(row_sums(number[chain.column[leaving]], chain.rate[leaving], len(others)))
    if not chain.exact:
        time = np.maximum(time, 0.0)
    return system, time / time.sum()


def _likely_state(chain: Pairs) -> int:
    """A state that is met often: the first in small chains, which can be solved again about a better one."""
    if chain.exact or chain.n_states <= DENSE_STATES:
        return 0
    # Time in each state until a clock rings, from everywhere: it rings late beside the way across the chain.
    leak = np.full(chain.n_states, float(chain.rate.max()) / (1e4 * chain.n_states))
    time = TransientSystem(chain.source, chain.column, chain.rate, leak).flow(np.ones(chain.n_states))
    return int(np.argmax(time))


def _pass_back(chain: Pairs, transient: np.ndarray, gains: Numbers, bias: Numbers, rest: Numbers | None) -> None:
    """Fills in gains and bias of the transient states, from those that they lead to."""
    outside = np.flatnonzero(transient)
    system, out, number = leaving_system(chain, ~transient, outside)
    # Of what lies above the smallest gain alone, so that equal gains stay equal to the last digit.
    reached = gains[chain.column[out]]
    lowest = reached.min()
    above = row_sums(number[chain.source[out]], chain.rate[out] * (reached - lowest), len(outside))
    gains[outside] = lowest + system.solve(above) if (reached > lowest).any() else lowest
    excess = (chain.rewards - gains)[outside]
    inflow = row_sums(number[chain.source[out]], chain.rate[out] * bias[chain.column[out]], len(outside))
    bias[outside] = system.solve(excess + inflow)
    if rest is None:
        return
    rest[outside] = 0.0
    for _ in range(REFINEMENTS):
        violation, _, _ = chain.excess(gains, bias, rest)
        bias[outside], rest[outside] = add(bias[outside], rest[outside], system.solve(violation[outside]))
