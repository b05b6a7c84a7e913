"""How far people agree who ranked the same candidates."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Given = tuple[Sequence[Sequence[int]], Sequence[int]]
"""Tiers, best first, and the unranked, by slot."""


@dataclass(frozen=True)
class Agreement:
    """Over the rounds that at least two raters answered."""

    rounds: int
    raters: int
    """All raters of the study, whether or not another one answered the same rounds."""
    pairwise: float | None
    """Share of the pairs of candidates that two raters order the same way, of those that both order; None if none."""
    kendall_tau: float | None
    """Mean of Kendall's tau-b, which counts ties, over rounds and pairs of raters; None if it is defined for none."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def agreement(rounds: Sequence[Sequence[Given]], raters: int) -> Agreement:
    """Compares the answers within each round, pair by pair.

    :param rounds: for every round the answers of its raters, each a partition of the same slots
    :param raters: how many there are in all
    """
    same = ordered = shared = 0
    taus = []
    for answers in rounds:
        shared += len(answers) > 1
        for one, other in itertools.combinations([places(*given) for given in answers], 2):
            first, second = _signs(one), _signs(other)
            both = first * second
            same += int((both > 0).sum())
            ordered += int((both != 0).sum())
            scale = math.sqrt(float((first != 0).sum()) * float((second != 0).sum()))
            if scale > 0:
                taus.append(float(both.sum()) / scale)
    return Agreement(
        rounds=shared,
        raters=raters,
        pairwise=same / ordered if ordered else None,
        kendall_tau=float(np.mean(taus)) if taus else None,
    )


@dataclass(frozen=True)
class RaterAgreement:
    """One rater beside the others."""

    rounds: int
    """Answered."""
    pairwise: float | None
    """Share of the pairs of candidates that the rater orders as another one does, of those that both order; None if
    none."""


def each_rater(rounds: Sequence[Mapping[int, Given]]) -> dict[int, RaterAgreement]:
    """How far each rater agrees with the others of the same rounds.

    :param rounds: for every round the answer of each of its raters
    """
    answered: Counter[int] = Counter()
    same: Counter[int] = Counter()
    ordered: Counter[int] = Counter()
    for answers in rounds:
        signs = {rater: _signs(places(*given)) for rater, given in answers.items()}
        answered.update(list(signs))
        for one, other in itertools.combinations(signs, 2):
            both = signs[one] * signs[other]
            for rater in (one, other):
                same[rater] += int((both > 0).sum())
                ordered[rater] += int((both != 0).sum())
    return {
        rater: RaterAgreement(count, same[rater] / ordered[rater] if ordered[rater] else None)
        for rater, count in answered.items()
    }


def places(tiers: Sequence[Sequence[int]], unranked: Sequence[int]) -> np.ndarray:
    """[m] int: 0 for the best tier, one more for every later one; the unranked come after the last tier."""
    found = np.empty(sum(map(len, tiers)) + len(unranked), np.int64)
    for place, tier in enumerate([*tiers, unranked]):
        found[list(tier)] = place
    return found


def _signs(placed: np.ndarray) -> np.ndarray:
    """[m (m - 1) / 2]: 1 where the first of a pair is better, -1 where worse, 0 where they tie."""
    rows, columns = np.triu_indices(len(placed), 1)
    return np.sign(placed[columns] - placed[rows])
