"""Optimistic planning: what tabular and linear LOOP share.

A plan is a hypothesis f = (Q_f, J_f) of the confidence set with a large gain J_f. Writing b for its Bellman residual
under the regression of the data, f is in the set iff sum_i b(s_i, a_i)^2 <= beta, and Q_f + J_f is the gain-optimal
solution of the empirical process with the rewards r + b. Both planners choose b and solve by the same damped sweeps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rlopt.average_reward.mdp import Array

ASCENT_ROUNDS = 20
"""Rounds of the ellipsoid ascent from one start; two to ten are usual."""
ROUNDING = 1e-6
"""Relative to beta, how far above it a discrepancy still counts as in the set."""


class Problem(NamedTuple):
    """What every plan is made for."""

    span: float
    """H, bound of max V - min V."""
    smallest_reward: float
    largest_reward: float
    """r_max, which no gain exceeds."""
    tolerance: float
    """In units of the span."""
    max_sweeps: int

    @property
    def largest_residual(self) -> float:
        """What a wrong guess of reward and next state can make in one backup."""
        return self.span + self.largest_reward - self.smallest_reward


class FixedPoint(NamedTuple):
    """A solution of J + V = max_a backup(V) with V clipped to [0, span]."""

    state_values: Array
    """[K], V_f = max_a Q_f."""
    backup: Array
    """[K, A], before the clip to the span."""
    gain: float
    residual: float
    """Largest change that another sweep would make."""
    sweeps: int


@dataclass(frozen=True)
class Certificate:
    """What is known for sure about a plan."""

    in_set: bool
    """Whether the discrepancy is at most beta. A span that is too small can make it False."""
    discrepancy: float
    """L_D(f, f) - min_g L_D(f, g) at the time of the plan."""
    beta: float
    converged: bool
    residual: float
    """Largest change that another sweep would make, in units of reward."""
    sweeps: int
    clipped_states: int
    """Visited states whose value reaches the bound of the span."""
    gain_bracket: tuple[float, float | None]
    """Bounds of the largest gain in the set: this plan's own (if it is in the set), and that of the relaxed set in
    which every pair may have the whole beta; None where that is no bound (linear)."""


def certify(
    point: FixedPoint,
    discrepancy: float,
    beta: float,
    problem: Problem,
    largest_gain: float | None,
    visited: np.ndarray | None = None,
) -> Certificate:
    """The certificate of the plan ``point``.

    :param largest_gain: bound of the gains of the set
    :param visited: [K] bool; None if all states of the plan were
    """
    clipped = point.state_values >= problem.span
    return Certificate(
        in_set=discrepancy <= beta * (1 + ROUNDING),
        discrepancy=discrepancy,
        beta=beta,
        converged=point.residual <= problem.tolerance * problem.span,
        residual=point.residual,
        sweeps=point.sweeps,
        clipped_states=int(np.sum(clipped if visited is None else clipped & visited)),
        gain_bracket=(point.gain, largest_gain),
    )


@dataclass(frozen=True)
class PlanRecord:
    """One switch of the policy, as kept in the history of an agent."""

    step: int
    """Transitions in the confidence set at that time."""
    gain: float
    """J_f."""
    certificate: Certificate


def fixed_point(backup: Callable[[Array], Array], start: Array, problem: Problem) -> FixedPoint:
    """Damped relative value iteration with the values clipped to the span and the gain to the largest reward.

    V <- V / 2 + clip(max_a backup(V) - J, 0, H) / 2 with J = min(min_s max_a backup(V), r_max). Where the backup is
    monotone (tabular), this converges. A linear regression is not monotone: with few data it can end in a cycle. The
    residual says whether it did.

    :param backup: values [K] to action values [K, A], the gain included
    :param start: [K]
    """
    values, sweep = start, 0
    while True:
        sweep += 1
        action_values = backup(values)
        best = action_values.max(axis=1)
        gain = min(float(best.min()), problem.largest_reward)
        target = np.clip(best - gain, 0.0, problem.span)
        residual = float(np.abs(target - values).max())
        if residual <= problem.tolerance * problem.span or sweep == problem.max_sweeps:
            return FixedPoint(target, action_values, gain, residual, sweep)
        values = values + 0.5 * (target - values)


def ascend(
    solve: Callable[[Array], FixedPoint], improve: Callable[[FixedPoint], Array], starts: list[Array], tolerance: float
) -> list[tuple[FixedPoint, Array]]:
    """Ellipsoid ascent: alternates the best policy for a residual and the best residual for that policy.

    The gain is a maximum of linear functions of the residual, so a step to the maximiser of its gradient over the
    ellipsoid cannot lower it, but for the clips. Ends at a local optimum from each start.

    :param solve: a residual to the fixed point of its process
    :param improve: a fixed point to the residual of the set that is best for its policy
    :param starts: residuals to begin with
    :returns: every fixed point on the way, with its residual
    """
    seen: list[tuple[FixedPoint, Array]] = []
    for residual in starts:
        present = solve(residual)
        seen.append((present, residual))
        for _ in range(ASCENT_ROUNDS):
            residual = improve(present)
            following = solve(residual)
            seen.append((following, residual))
            if following.gain <= present.gain + tolerance:
                break
            present = following
    return seen


def best_member(gains: list[float], discrepancies: list[float], beta: float) -> int:
    """The index of the largest gain within the set; where the clip to the span leaves none, of the nearest to it."""
    inside = [index for index, value in enumerate(discrepancies) if value <= beta * (1 + ROUNDING)]
    if inside:
        return max(inside, key=lambda index: gains[index])
    return int(np.argmin(discrepancies))
