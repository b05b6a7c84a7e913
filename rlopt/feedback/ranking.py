"""What an oracle or a person answers about the candidates of a query. Knows numpy only."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlopt.errors import AnswerError, one_line

_KEYS = ("tiers", "unranked", "abstain")


@dataclass(frozen=True)
class Ranking:
    """One annotator's answer about the candidates 0..m-1 of a query, best first. Sequences become tuples.

    Its graph has an edge i -> j wherever it says that i is better than j: from each candidate of a tier to every
    candidate of a later tier and to every unranked one. Ties and unranked candidates have no edges among themselves.
    The paper knows tiers of one candidate only; ties, and answers with fewer or more than k tiers, are an extension.
    """

    tiers: tuple[tuple[int, ...], ...]
    """The candidates of a tier tie; every earlier tier is better."""
    unranked: tuple[int, ...] = ()
    """Worse than every tier, unordered among themselves."""
    abstain: bool = False
    """No opinion: no edges, and neither tiers nor unranked candidates."""

    def __post_init__(self) -> None:
        if type(self.abstain) is not bool:
            raise AnswerError(f"abstain must be True or False, not {one_line(repr(self.abstain))}")
        try:
            tiers = tuple(_indices(tier) for tier in self.tiers)
        except TypeError:
            raise AnswerError("tiers must be a sequence of sequences of candidates, best first") from None
        object.__setattr__(self, "tiers", tiers)
        object.__setattr__(self, "unranked", _indices(self.unranked))
        if self.abstain and (self.tiers or self.unranked):
            raise AnswerError("an answer that abstains ranks nothing: leave tiers and unranked empty, or abstain False")

    @classmethod
    def from_order(cls, order: Sequence[int], m: int) -> Ranking:
        """The answer without ties that names the best candidates, best first, and leaves the others unranked.

        :raises rlopt.errors.AnswerError: a candidate is named twice or is none of 0..m-1
        """
        ranked = _indices(order)
        named = set(ranked)
        answer = cls(tuple((i,) for i in ranked), tuple(i for i in range(m) if i not in named))
        answer.check(m)
        return answer

    @classmethod
    def from_values(
        cls,
        values: Sequence[float] | np.ndarray,
        k: int | None = None,
        *,
        maximize: bool = False,
        tie_tolerance: float = 0.0,
    ) -> Ranking:
        """What an exact oracle that sees ``values`` [m] answers.

        Values that are not finite are the worst, unranked. Candidates whose values are at most ``tie_tolerance`` from
        the best of their tier tie; a tie across the k-th place is kept whole, for either cut would say more than the
        values do.

        :param k: how many best are told, 1 <= k <= m; all by default
        :param maximize: whether the highest value is the best; the lowest by default
        :param tie_tolerance: in the unit of the values, not negative; 0 ties equal values only
        """
        array = np.asarray(values, dtype=np.float64)
        if array.ndim != 1 or not len(array):
            raise AnswerError(f"values must be a vector with one number for each candidate, not shape {array.shape}")
        k = len(array) if k is None else k
        if not 1 <= k <= len(array):
            raise AnswerError(f"k={k} is outside 1..{len(array)}, the number of candidates")
        if not tie_tolerance >= 0:
            raise AnswerError(f"tie_tolerance must be at least 0, not {tie_tolerance}")
        array = -array if maximize else array
        order = np.argsort(array, kind="stable")
        tiers: list[list[int]] = []
        for ranked, index in enumerate(int(i) for i in order if np.isfinite(array[i])):
            if tiers and array[index] - array[tiers[-1][0]] <= tie_tolerance:
                tiers[-1].append(index)
            elif ranked >= k:
                break
            else:
                tiers.append([index])
        named = {index for tier in tiers for index in tier}
        return cls(tuple(map(tuple, tiers)), tuple(i for i in range(len(array)) if i not in named))

    def check(self, m: int) -> None:
        """Raises :class:`rlopt.errors.AnswerError` unless tiers and unranked share out 0..m-1, or it abstains."""
        if self.abstain:
            return
        if any(not tier for tier in self.tiers):
            raise AnswerError("a tier is empty: leave it out")
        named = [index for tier in self.tiers for index in tier] + list(self.unranked)
        strange = sorted({index for index in named if not 0 <= index < m})
        if strange:
            raise AnswerError(f"candidate {strange[0]} does not exist: the query has the candidates 0..{m - 1}")
        if len(set(named)) < len(named):
            twice = min(index for index in named if named.count(index) > 1)
            raise AnswerError(f"candidate {twice} is named more than once: each belongs to one tier or to unranked")
        if len(named) < m:
            missing = min(set(range(m)).difference(named))
            raise AnswerError(f"candidate {missing} is missing: name it in a tier or among unranked")

    def edge_weights(self, m: int) -> tuple[np.ndarray, int]:
        """w [m] int64, edges into a candidate less edges out of it (better ones are negative), and the number of edges.

        The sum of w is exactly 0. O(m).
        """
        self.check(m)
        return tier_weights(self.tiers, m)

    def to_json(self) -> dict[str, Any]:
        """A dictionary for JSON, for :meth:`from_json`."""
        return {"tiers": [list(tier) for tier in self.tiers], "unranked": list(self.unranked), "abstain": self.abstain}

    @classmethod
    def from_json(cls, value: Any) -> Ranking:
        """The answer that :meth:`to_json` wrote.

        :raises rlopt.errors.AnswerError: for anything else; whether it fits a query is for :meth:`check`
        """
        if not isinstance(value, dict) or set(value) != set(_KEYS):
            raise AnswerError(f"an answer is an object with exactly {', '.join(_KEYS)}, not {one_line(repr(value))}")
        lists = [value["tiers"], value["unranked"], *(value["tiers"] if isinstance(value["tiers"], list) else ())]
        if not all(isinstance(item, list) for item in lists):
            raise AnswerError("tiers must be a list of lists of candidates, and unranked a list of candidates")
        return cls(value["tiers"], value["unranked"], value["abstain"])


def total_weights(answers: Ranking | Sequence[Ranking], m: int) -> tuple[np.ndarray, int]:
    """Sums of :meth:`Ranking.edge_weights` over annotators: w [m] int64 and the number of edges, double ones counted.

    Annotators who contradict each other cancel in w, and weaken the estimate through the number of edges.

    :raises rlopt.errors.AnswerError: no answer at all, or one that does not fit
    """
    given = [answers] if isinstance(answers, Ranking) else list(answers) if isinstance(answers, Iterable) else []
    if not given or not all(isinstance(answer, Ranking) for answer in given):
        what = one_line(repr(answers))
        raise AnswerError(f"an answer is a Ranking, or a sequence of at least one, one for each annotator, not {what}")
    parts = [answer.edge_weights(m) for answer in given]
    total = np.asarray(sum(weights for weights, _ in parts), np.int64)
    return total, sum(edges for _, edges in parts)


def _indices(values: Iterable[Any]) -> tuple[int, ...]:
    if isinstance(values, (str, bytes)):
        raise AnswerError("candidates are whole numbers, not text")
    found = []
    for value in values:
        if isinstance(value, (bool, np.bool_)):
            raise AnswerError("candidates are whole numbers, not True or False")
        try:
            found.append(operator.index(value))
        except TypeError:
            raise AnswerError(f"candidates are whole numbers, not {one_line(repr(value))}") from None
    return tuple(found)


def tier_weights(tiers: Sequence[Sequence[int]], m: int) -> tuple[np.ndarray, int]:
    """(4) w_i = indegree - outdegree of each of ``m`` candidates, and |E|; in O(m), without listing the edges.

    A tier has an edge to each candidate after it and from each before it; those in no tier come last. Without ties,
    rank r = 0, 1, .. of the k best has w = -(m - 1 - 2 r), and the others w = k.

    :param tiers: best first, of different candidates in 0..m-1
    :returns: [m] int64, which sums to 0 exactly, and the number of edges
    """
    weights = np.zeros(m, np.int64)
    before, edges = 0, 0
    for tier in tiers:
        after = m - before - len(tier)
        weights[list(tier)] = before - after
        edges += len(tier) * after
        before += len(tier)
    unranked = np.ones(m, bool)
    unranked[[index for tier in tiers for index in tier]] = False
    weights[unranked] = before
    return weights, edges
