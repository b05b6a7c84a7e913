"""How far people agree who ranked the same candidates."""

import itertools
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Given = tuple[Sequence[Sequence[int]], Sequence[int]]
"""Tiers, best first, and the unranked, by slot."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of raters over the rounds that at least two of them answered."""

    rounds: int
    raters: int
    """All raters of the study, whether or not another one answered the same rounds."""
    pairwise: float | None
    """Share of the pairs of candidates that two raters order the same way, of those that both order; None if none."""
    kendall_tau: float | None
    """Mean of Kendall's tau-b, which counts ties, over rounds and pairs of raters; None if it is defined for none."""
    interval: tuple[float, float] | None
    """95 % interval of ``pairwise`` by resampling rounds; None with fewer than three of them. Chance is one half."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def agreement(rounds: Sequence[Sequence[Given]], raters: int) -> Agreement:
    """Compares the answers within each round, pair by pair.

    :param rounds: for every round the answers of its raters, each a partition of the same slots
    :param raters: how many there are in all
    """
    shared, taus, counts = 0, [], []
    for answers in rounds:
        same = ordered = 0
        shared += len(answers) > 1
        for first, second in itertools.combinations(map(pair_signs, answers), 2):
            both = first * second
            same += int((both > 0).sum())
            ordered += int((both != 0).sum())
            scale = math.sqrt(float((first != 0).sum()) * float((second != 0).sum()))
            if scale > 0:
                taus.append(float(both.sum()) / scale)
        if ordered:
            counts.append((same, ordered))
    same, ordered = np.sum(counts, axis=0).tolist() if counts else (0, 0)
    return Agreement(
        rounds=shared,
        raters=raters,
        pairwise=same / ordered if ordered else None,
        kendall_tau=float(np.mean(taus)) if taus else None,
        interval=_resampled(np.array(counts, float)) if len(counts) > 2 else None,
    )


def _resampled(counts: np.ndarray) -> tuple[float, float]:
    """95 % interval of a ratio of sums [rounds, 2] by the bootstrap; the same for the same counts."""
    drawn = np.random.default_rng(0).integers(len(counts), size=(2000, len(counts)))
    sums = counts[drawn].sum(axis=1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
    return float(low), float(high)


def between_raters(rounds: Sequence[Mapping[int, Given]], raters: Sequence[int]) -> list[list[float | None]]:
    """Share of the pairs that each two of ``raters`` put in the same order, of those that both order; None if none."""
    index = {rater: i for i, rater in enumerate(raters)}
    same, ordered = np.zeros((2, len(raters), len(raters)))
    for answers in rounds:
        signs = {rater: pair_signs(given) for rater, given in answers.items() if rater in index}
        for one, other in itertools.permutations(signs, 2):
            both = signs[one] * signs[other]
            same[index[one], index[other]] += (both > 0).sum()
            ordered[index[one], index[other]] += (both != 0).sum()
    return [[float(s / n) if n else None for s, n in zip(*row, strict=True)] for row in zip(same, ordered, strict=True)]


def wilson(won: float, rounds: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), also of few trials."""
    z, share = 1.959964, won / rounds
    centre = (share + z * z / (2 * rounds)) / (1 + z * z / rounds)
    half = z / (1 + z * z / rounds) * math.sqrt(share * (1 - share) / rounds + z * z / (4 * rounds * rounds))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class RaterAgreement:
    """One rater compared with the others."""

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
        signs = {rater: pair_signs(given) for rater, given in answers.items()}
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


def pair_signs(given: Given) -> np.ndarray:
    """[m (m - 1) / 2] of an answer: 1 where the first of a pair is better, -1 where worse, 0 where they tie."""
    placed = places(*given)
    rows, columns = np.triu_indices(len(placed), 1)
    return np.sign(placed[columns] - placed[rows])


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
