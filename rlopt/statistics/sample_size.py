"""How many seeds a claim needs. Needs numpy only.

The claim is that one group of runs scores higher, or lower, than another. It is made where a two-sided test at
``1 - confidence`` finds it, and ``power`` is the probability that such a test does find the difference which was
observed. The rule is the normal approximation of that probability: the smallest ``n`` with

    ``|d| >= (z_(1+confidence)/2 + z_power) * sqrt(V(n))``

where ``d`` is the difference of the two statistics and ``V(n)`` the variance that it would have with ``n`` seeds for
each group and task, taken from a bootstrap which draws ``n`` seeds, whatever number was run. Guenther's (1981)
``z^2 / 4`` further seeds pay for not knowing the variance. Below :func:`fewest_seeds` no test that makes no assumption
about the scores' distribution can reach the level, however far apart the groups are.
"""

import math
from statistics import NormalDist
from typing import Any

import numpy as np

from rlopt.errors import ConfigError
from rlopt.statistics.aggregates import (
    Floats,
    Scores,
    Statistic,
    bootstrap_replicates,
    by_task,
    check_confidence,
    iqm,
    stacked,
)

MOST_SEEDS = 9_999
"""What :func:`seeds_needed` answers where more would be needed: no number that anybody runs."""
_DRAWN_AT_MOST = 256
"""Beyond so many seeds the variance is taken to fall as 1 / n."""


def fewest_seeds(n_tasks: int = 1, confidence: float = 0.95) -> int:
    """The least number of seeds for each of two groups with which a permutation test can reach the level at all.

    Of ``2n`` runs of a task, ``(2n choose n)`` divisions into two groups are equally probable if nothing differs; the
    two most extreme ones, all tasks together, have to be rarer than ``1 - confidence``.

    :param n_tasks: at least 1; seeds are divided within each
    :return: 4 for one task at 95%
    :raises rlopt.errors.ConfigError: for no task
    """
    check_confidence(confidence)
    if n_tasks < 1:
        raise ConfigError(f"n_tasks must be at least 1, not {n_tasks}")
    count = 2
    while 2.0 / float(math.comb(2 * count, count)) ** n_tasks > 1 - confidence:
        count += 1
    return count


def seeds_needed(
    scores: Scores,
    reference: Scores,
    statistic: Statistic = iqm,
    *,
    confidence: float = 0.95,
    power: float = 0.8,
    n_resamples: int = 2000,
    seed: int = 0,
) -> int | None:
    """Seeds for each group and task with which the observed difference would be found with probability ``power``.

    A plan, not a test: difference and spread come from the runs at hand, and are as uncertain as these are few.

    :param scores: ``[n]``, ``[seeds, tasks]``, or a mapping from tasks to ``[n]``; at least two seeds of each task
    :param reference: the same kind, of the same tasks
    :param confidence: one minus the level of the two-sided test, between 0 and 1
    :param power: between 0.5 and 1
    :return: at least :func:`fewest_seeds`, at most :data:`MOST_SEEDS`; None where a task has a single seed or the
        groups do not differ at all, so that there is nothing to say
    :raises NonFiniteError: if a score is NaN or infinite
    :raises ConfigError: if there are no scores, or an argument is out of range
    """
    check_confidence(confidence)
    if not 0.5 <= power < 1:
        raise ConfigError(f"power must be in [0.5, 1), not {power:g}")
    sides = [by_task(scores), by_task(reference)]
    if len(sides[0]) != len(sides[1]):
        raise ConfigError(f"{len(sides[0])} tasks cannot be compared with {len(sides[1])}: give the same tasks")
    floor = fewest_seeds(len(sides[0]), confidence)
    observed = [statistic(values) for values in map(_together, sides)]
    difference = abs(float(observed[0] - observed[1]))
    if difference == 0 or any(len(values) < 2 for side in sides for values in side):
        return None
    widened = [_together([_unbiased(values) for values in side]) for side in sides]
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    wanted = (difference / (z + NormalDist().inv_cdf(power))) ** 2
    count = floor
    for _ in range(8):  # n V(n) is nearly constant, so that this settles at once
        draws = min(count, _DRAWN_AT_MOST)
        variance = sum(
            float(np.var(bootstrap_replicates(side, statistic, n_resamples, seed + index, draws)))
            for index, side in enumerate(widened)
        )
        needed = min(MOST_SEEDS, max(floor, math.ceil(draws * variance / wanted + z**2 / 4)))
        if needed == count:
            break
        count = needed
    return count


def _together(side: list[Floats]) -> Any:
    """Scores as a statistic takes them, ``[n]`` of one task, else ``[seeds, tasks]``."""
    return side[0] if len(side) == 1 else stacked({str(index): values for index, values in enumerate(side)})


def _unbiased(values: Floats) -> Floats:
    """Scores moved away from their mean, so that their variance, divided by n, is the unbiased estimate."""
    center = values.mean()
    return center + (values - center) * math.sqrt(len(values) / (len(values) - 1))
