"""The line search by ranking: geometric steps along a direction and the current point; the choice needs no values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DECADES = 3.0
"""What the steps span unless a decay is given: the smallest step bounds how near a search comes to an optimum."""


@dataclass(frozen=True)
class LineSearch:
    """Candidates x - eta decay^i g for i = 0, 1, .., then the best query if wanted, then x itself, which is last."""

    points: int
    """All candidates, x and the best query included; 0 for no line search."""
    decay: float
    """The ratio of one step to the one before, in (0, 1)."""
    best_query: bool
    """Whether the best candidate of the gradient query is among them, as in the released code."""

    @classmethod
    def make(cls, points: int, decay: float | None, best_query: bool) -> LineSearch:
        """Of settings within :class:`rlopt.agents.zo_ranksgd.config.SearchConfig`; without a decay, three decades."""
        steps = points - (3 if best_query else 2) + 1
        if decay is None:
            decay = 10 ** (-DECADES / (steps - 1)) if steps > 1 else 10**-DECADES
        return cls(points, decay, best_query)

    @property
    def decades(self) -> float:
        """log10 of the largest over the smallest step."""
        return -float(np.log10(self.decay)) * max(self._steps - 1, 0)

    @property
    def _steps(self) -> int:
        return self.points - (2 if self.best_query else 1)

    def candidates(
        self, point: np.ndarray, direction: np.ndarray, learning_rate: float, best_query: np.ndarray | None
    ) -> np.ndarray:
        """[points, d]; the last one is ``point`` itself, bit for bit.

        :param direction: [d], of ascent
        :param best_query: [d] if it is among them
        """
        sizes = learning_rate * self.decay ** np.arange(self._steps)
        rows = [*(point - size * direction for size in sizes), point]
        if self.best_query:
            assert best_query is not None
            rows.insert(-1, best_query)
        return np.stack(rows)


def winner(weights: np.ndarray, current: int) -> int:
    """The candidate with the most wins less losses; among equals ``current``, else the longest step.

    :param weights: [l] of :func:`rlopt.feedback.ranking.tier_weights`, summed over annotators
    """
    best = int(np.argmin(weights))
    return current if weights[current] == weights[best] else best
