"""Concave maximisation over mixture weights by Newton's method with logarithmic barriers: exact to a known gap.

The problems are small (d weights) and smooth inside the simplex, so that some ten Newton steps do. With the barrier
mu sum log w the maximiser is within d mu of the constrained maximum (Boyd and Vandenberghe 2004, section 11.2).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rlopt.average_reward.mdp import Array

NEWTON_STEPS = 60
"""At most for one strength of the barrier."""
CENTRED = 1e-10
"""Half the squared Newton decrement, relative to the barrier's strength, at which a point counts as its maximiser."""
DIRECTION_GAP = 1e-6
"""How far from the largest slope . weights :func:`furthest` may end, relative to the spread of the slope."""


class Local(NamedTuple):
    """A concave function at a point: value (-inf outside its domain), gradient [d], Hessian [d, d]."""

    value: float
    gradient: Array
    hessian: Array


def log_likelihood(weights: Array, densities: Array, counts: Array) -> float:
    """sum_c counts log(densities . weights).

    :param weights: [d] on the simplex
    :param densities: [C, d], P_k(s' | s, a) for each distinct transition seen
    :param counts: [C] > 0
    """
    with np.errstate(divide="ignore"):
        return float(counts @ np.log(densities @ weights))


def most_likely(start: Array, densities: Array, counts: Array, gap: float) -> Array:
    """[d] > 0, weights whose log likelihood is within ``gap`` of the largest over the simplex.

    :param start: [d] > 0, on the simplex
    """
    strength = gap / len(start)

    def local(weights: Array) -> Local:
        return _with_barrier(_likelihood(weights, densities, counts), weights, strength)

    return _maximise(local, start, strength)


def furthest(direction: Array, start: Array, densities: Array, counts: Array, least: float) -> Array:
    """[d] > 0, weights of the simplex with log likelihood above ``least`` that maximise ``direction`` . weights.

    :param start: [d] > 0, on the simplex, with a log likelihood above ``least``
    """
    spread = float(np.ptp(direction))
    if spread == 0.0:
        return start
    slope = (direction - direction.min()) / spread

    def local(weights: Array) -> Local:
        likelihood = _likelihood(weights, densities, counts)
        slack = likelihood.value - least
        if not slack > 0:
            return likelihood._replace(value=-np.inf)
        gradient = slope + strength / slack * likelihood.gradient
        curvature = likelihood.hessian / slack - np.outer(likelihood.gradient, likelihood.gradient) / slack**2
        inside = Local(float(slope @ weights) + strength * float(np.log(slack)), gradient, strength * curvature)
        return _with_barrier(inside, weights, strength)

    weights, strength = start, 1.0
    # The slack shrinks with the strength: rounding ends it where it is lost in the log likelihood.
    while strength * (len(start) + 1) > DIRECTION_GAP and local(weights).value > -np.inf:
        weights = _maximise(local, weights, strength)
        strength /= 10
    return weights


def _likelihood(weights: Array, densities: Array, counts: Array) -> Local:
    mixed = densities @ weights
    if not len(counts):
        return Local(0.0, np.zeros_like(weights), np.zeros((len(weights), len(weights))))
    if weights.min() <= 0 or mixed.min() <= 0:
        return Local(-np.inf, weights, np.empty((0, 0)))
    share = counts / mixed
    hessian = -(densities * (share / mixed)[:, None]).T @ densities
    return Local(float(counts @ np.log(mixed)), share @ densities, hessian)


def _with_barrier(inside: Local, weights: Array, strength: float) -> Local:
    if weights.min() <= 0 or inside.value == -np.inf:
        return inside._replace(value=-np.inf)
    return Local(
        inside.value + strength * float(np.sum(np.log(weights))),
        inside.gradient + strength / weights,
        inside.hessian - np.diag(strength / weights**2),
    )


def _maximise(local: Callable[[Array], Local], start: Array, strength: float) -> Array:
    """Damped Newton steps along the simplex."""
    weights, here = start, local(start)
    size = len(start)
    system = np.zeros((size + 1, size + 1))
    system[size, :size] = system[:size, size] = 1.0
    for _ in range(NEWTON_STEPS):
        system[:size, :size] = here.hessian
        step = np.linalg.solve(system, np.append(-here.gradient, 0.0))[:size]
        rise = float(here.gradient @ step)
        if rise <= 2 * CENTRED * strength:
            break
        length = 1.0
        while length > 1e-12:
            there = local(weights + length * step)
            if there.value >= here.value + 0.1 * length * rise:
                break
            length /= 2
        else:
            break
        weights, here = weights + length * step, there
    return weights / weights.sum()
