"""The results of planners and of policy evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from rlopt.average_reward.chain_values import ChainValues, absorbed_values, chain_values, leaving_system
from rlopt.average_reward.pairs import EPSILON, Numbers, Pairs, zeros
from rlopt.errors import ModelError

if TYPE_CHECKING:
    from rlopt.average_reward.mdp import Array, DecisionProcess, Policy

ACCURACY = 1e-9
"""How far apart the bounds of a gain may be, relative to the mean size of the rewards that the policy gets."""


@dataclass(frozen=True, eq=False)
class AverageRewardSolution:
    """Gains and bias of an optimal or of a given policy: ``gains + bias = max_a r + P bias`` (or the policy's mean)."""

    gains: Array
    """[S] long-run mean reward a step, from each first state."""
    gain_bounds: tuple[Array, Array]
    """[S] each: what the policy earns at least, and what no policy exceeds (or the policy itself), both proved."""
    bias: Array
    """[S], whose mean under the stationary distribution of each recurrent class of the policy is 0."""
    policy: np.ndarray
    """[S] actions, or the evaluated probabilities [S, A]."""
    stationary_distribution: Array
    """[S] of the policy: the long-run share of time in each state from state 0."""
    values: Array
    """[S, A] differential action values r + P bias - gain; -inf where an action is impossible or loses gain."""
    residual: float
    """Largest violation of the optimality (or evaluation) equation over the states, in units of reward."""
    method: str
    iterations: int

    @property
    def is_constant(self) -> bool:
        """Whether the gain is the same from every state, as far as the bounds tell."""
        return bool(self.gain_bounds[0].max() <= self.gain_bounds[1].min())

    @property
    def gain(self) -> float:
        """The gain, if it is the same from every state.

        :raises ModelError: if it depends on the first state
        """
        self._require_constant()
        return float(self.gains[0])

    @property
    def gain_bracket(self) -> tuple[float, float]:
        """Proved lower and upper bound of the gain, if it is the same from every state.

        :raises ModelError: if it depends on the first state
        """
        self._require_constant()
        return float(self.gain_bounds[0].max()), float(self.gain_bounds[1].min())

    @property
    def span(self) -> float:
        """max bias - min bias."""
        return float(np.ptp(self.bias))

    @property
    def action_gaps(self) -> Array:
        """[S, A] how much worse each action is than the best of its state; inf where it is impossible or loses gain."""
        return self.values.max(axis=1, keepdims=True) - self.values

    def _require_constant(self) -> None:
        if not self.is_constant:
            worst, best = int(np.argmin(self.gains)), int(np.argmax(self.gains))
            raise ModelError(
                f"there is no single gain: it is {self.gains[worst]:.6g} from state {worst} and {self.gains[best]:.6g} "
                f"from state {best}, which state {worst} cannot bring about for certain; read gains, keep the states "
                "of one kind, or add a reset to a common state"
            )


def evaluate_policy(mdp: DecisionProcess, policy: Policy) -> AverageRewardSolution:
    """The exact gains and bias of a stationary policy (Puterman 1994, theorem 8.2.6).

    :param policy: actions [S] or probabilities [S, A]
    :raises ModelError: if the policy is malformed or takes an impossible action, or floats do not suffice
    """
    chain = mdp.policy_chain(policy)
    try:
        found = chain_values(chain)
    except FloatingPointError as error:
        raise ModelError(f"floats cannot evaluate this policy ({error}): its numbers are too far apart") from None
    violation, noise, _ = chain.excess(found.gains, found.bias, found.rest)
    noise = noise + EPSILON * abs(found.gains)
    recurrent = found.classes >= 0
    bounds = []
    for take, start, side in ((np.minimum, np.inf, -1), (np.maximum, -np.inf, 1)):
        edges = np.full(found.n_classes, start)
        take.at(edges, found.classes[recurrent], (violation + side * noise)[recurrent])
        at = np.where(recurrent, found.gains + edges[found.classes], 0.0)
        bounds.append(absorbed_values(chain, recurrent, at))
    return AverageRewardSolution(
        gains=found.gains,
        gain_bounds=(bounds[0], bounds[1]),
        bias=found.bias,
        policy=np.array(policy),
        stationary_distribution=_long_run_share(chain, found),
        values=_table(mdp, mdp.pairs, found, np.ones(mdp.pairs.n_pairs, bool)),
        residual=float(np.abs(violation).max()),
        method="policy evaluation",
        iterations=1,
    )


def solution_of(
    mdp: DecisionProcess,
    pairs: Pairs,
    chosen: np.ndarray,
    found: ChainValues,
    bounds: tuple[Numbers, Numbers],
    method: str,
    iterations: int,
) -> AverageRewardSolution:
    """The solution whose policy takes the pairs ``chosen`` [S] of ``pairs``, as planners return it."""
    values, _, _ = pairs.excess(found.gains[pairs.state], found.bias, found.rest)
    keeping = _keeping(pairs, found)
    keeping[chosen] = True
    best = np.full(pairs.n_states, -np.inf)
    np.maximum.at(best, pairs.state[keeping], values[keeping].astype(np.float64))
    chain = pairs.chain(chosen)
    lower, upper = _outward(bounds[0], -np.inf), _outward(bounds[1], np.inf)
    return AverageRewardSolution(
        gains=np.asarray(found.gains, np.float64),
        gain_bounds=(lower, upper),
        bias=np.asarray(found.bias, np.float64),
        policy=pairs.action[chosen],
        stationary_distribution=_long_run_share(chain, found),
        values=_table(mdp, pairs, found, keeping),
        residual=float(np.abs(best).max()),
        method=method,
        iterations=iterations,
    )


def require_proved(lower: float, upper: float, scale: float, method: str) -> None:
    """Raises :class:`rlopt.errors.ModelError` unless the bounds of a gain are as close as :data:`ACCURACY` asks."""
    if not upper - lower <= ACCURACY * scale:
        raise ModelError(
            f"{method} knows the gain only between {lower:.10g} and {upper:.10g}: use policy_iteration, which proves it"
        )


def _outward(bound: Numbers, end: float) -> Array:
    """Floats that are not beyond ``bound`` on the side of ``end``."""
    found = np.asarray(bound, np.float64)
    if bound.dtype != object:
        return found
    short = np.array(
        [(Fraction(f) > b) if end < 0 else (Fraction(f) < b) for f, b in zip(found.tolist(), bound, strict=True)]
    )
    return np.where(short, np.nextafter(found, end), found)


def _keeping(pairs: Pairs, found: ChainValues) -> np.ndarray:
    if not (found.gains != found.gains[0]).any():
        return np.ones(pairs.n_pairs, bool)
    change, sizes = pairs.drift(found.gains)
    return np.asarray(change >= -1e-14 * (2 * pairs.lengths + 12) * sizes if not pairs.exact else change == 0, bool)


def _table(mdp: DecisionProcess, pairs: Pairs, found: ChainValues, kept: np.ndarray) -> Array:
    values = pairs.excess(found.gains[pairs.state], found.bias, found.rest)[0] + found.bias[pairs.state]
    table = np.full((mdp.n_states, mdp.n_actions), -np.inf)
    table[pairs.state[kept], pairs.action[kept]] = values[kept].astype(np.float64)
    return table


def _long_run_share(chain: Pairs, found: ChainValues) -> Array:
    """[S] the long-run share of time in each state from state 0."""
    distribution = np.asarray(found.distribution, np.float64)
    if found.n_classes == 1:
        return distribution
    if found.classes[0] >= 0:
        return np.where(found.classes == found.classes[0], distribution, 0.0)
    # Where state 0's first steps into a class lead.
    recurrent = found.classes >= 0
    outside = np.flatnonzero(~recurrent)
    system, out, number = leaving_system(chain, recurrent, outside)
    start = zeros(len(outside), chain.exact)
    start[number[0]] += 1
    time = system.flow(start)
    into = chain.rate[out] * time[number[chain.source[out]]]
    share = np.zeros(found.n_classes)
    np.add.at(share, found.classes[chain.column[out]], into.astype(np.float64))
    return np.where(recurrent, distribution * share[found.classes], 0.0)
