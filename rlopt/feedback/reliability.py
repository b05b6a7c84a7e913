"""How far each rater can be trusted, from clips that were ranked more than once: by several raters, or twice by one.

The model is Dawid and Skene's (1979) with one parameter for each rater, over pairs of clips: every pair has a true
order, which a rater gives with a probability called accuracy. Expectation maximisation finds both. Answers at random
have .5. Clips that one person saw once tell nothing about anybody. An expert's orders are taken as nearly certain.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from rlopt.feedback.agreement import Given, pair_signs

PRIOR = (3.0, 1.5)
"""Right and wrong pairs of every rater before there is evidence; their share is the accuracy taken then."""
EXPERT = 0.98
"""Accuracy of an expert."""
LEAST_TRUST = 0.2
"""Answers that are trusted less count as none: they would move a search that hears one person at a time."""
_ROUNDS = 60
_LEAST = 1e-6


@dataclass(frozen=True)
class Reliability:
    """Of one rater."""

    accuracy: float
    """Probability with which the rater orders a pair as it is; .5 for answers at random."""
    pairs: float
    """Pairs that tell about it, those of one ranking counted as independent ones (m - 1 of m clips)."""

    @property
    def trust(self) -> float:
        """Weight of the rater's comparisons, 0 to 1: 2 accuracy - 1, by which a mean of noisy signs is best weighed."""
        return min(1.0, max(0.0, 2 * self.accuracy - 1))


def reliabilities(seen: Sequence[Sequence[tuple[int, Given]]], experts: Collection[int] = ()) -> dict[int, Reliability]:
    """The reliability of every rater who answered.

    :param seen: for every set of clips all its answers, as (rater, tiers and unranked); a rater who saw the clips twice
        is there twice
    :param experts: raters whose orders are right
    """
    raters = sorted({rater for answers in seen for rater, _ in answers})
    index = {rater: i for i, rater in enumerate(raters)}
    columns: list[np.ndarray] = []
    owners: list[int] = []
    weights: list[float] = []
    pairs: list[np.ndarray] = []
    start = 0
    for answers in seen:
        if len(answers) < 2:
            continue
        signs = [pair_signs(given) for _, given in answers]
        for (rater, _), sign in zip(answers, signs, strict=True):
            columns.append(sign)
            pairs.append(start + np.arange(len(sign)))
            owners += [index[rater]] * len(sign)
            m = (1 + math.isqrt(1 + 8 * len(sign))) // 2
            weights += [2.0 / m] * len(sign)
        start += len(signs[0])
    right, wrong = PRIOR
    accuracy = np.full(len(raters), right / (right + wrong))
    fixed = np.array([rater in experts for rater in raters], bool)
    accuracy[fixed] = EXPERT
    counted: np.ndarray = np.zeros(len(raters))
    if columns:
        vote, pair, who = np.concatenate(columns).astype(float), np.concatenate(pairs), np.array(owners)
        votes_of_pair = np.bincount(pair, np.abs(vote), minlength=start)
        kept = (vote != 0) & (votes_of_pair[pair] > 1)
        vote, pair, who, weight = vote[kept], pair[kept], who[kept], np.array(weights)[kept]
        counted = np.bincount(who, weight, minlength=len(raters))
        for _ in range(_ROUNDS):
            odds = np.log(accuracy / (1 - accuracy))
            belief = np.bincount(pair, vote * odds[who], minlength=start)
            agreed = 1 / (1 + np.exp(-np.clip(vote * belief[pair], -50, 50)))
            found = (right + np.bincount(who, weight * agreed, minlength=len(raters))) / (right + wrong + counted)
            found = np.clip(np.where(fixed, EXPERT, found), 1 - EXPERT, EXPERT)
            done = np.abs(found - accuracy).max() < _LEAST
            accuracy = found
            if done:
                break
    return {rater: Reliability(float(accuracy[i]), float(counted[i])) for rater, i in index.items()}
