"""Base class of the peers: a current point, and queries answered by values or rankings."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlopt.agents.zo_ranksgd.query import POPULATION, Query, Search, read_only
from rlopt.errors import AnswerError, ConfigError
from rlopt.feedback.ranking import Ranking


class Peer(Search):
    """A search by ask and tell that minimises, without save or resume: these are for comparisons.

    :param initial: [d], the first point
    :param seed: seed of its random numbers; None for new ones each time
    """

    takes_values: bool
    """Whether :meth:`tell` wants values [m] of the candidates, or their :class:`Ranking`."""

    def __init__(self, initial: Sequence[float] | np.ndarray, *, seed: int | None = 0) -> None:
        super().__init__(initial, seed)

    def ask(self) -> Query:
        """The query to be answered now; the same one until it is told."""
        if self._query is None:
            candidates = read_only(np.array(self._propose(), np.float64))
            k, current = self._asked_for(len(candidates))
            self._query = Query(POPULATION, self._iteration, candidates, k, current)
        return self._query

    def tell(self, answer: Any) -> None:
        """Takes values [m] of the candidates, lowest best, or their :class:`Ranking`, as ``takes_values`` says.

        :raises rlopt.errors.AnswerError: nothing was asked, or the answer does not fit the query
        """
        if self._query is None:
            raise AnswerError("nothing was asked: call ask() first, and tell its answer once")
        candidates = self._query.candidates
        if self.takes_values:
            self._update(candidates, _checked_values(answer, len(candidates)))
        else:
            if not isinstance(answer, Ranking):
                raise AnswerError(f"{type(self).__name__} takes a Ranking of its candidates")
            answer.check(len(candidates))
            self._update(candidates, mean_ranks(answer, len(candidates)))
        self._iteration += 1
        self._oracle_points += len(candidates)
        self._query = None

    def _asked_for(self, m: int) -> tuple[int, int | None]:
        """How many best are asked for, and the index of the current point among the candidates."""
        return m, None

    def _propose(self) -> np.ndarray:
        """Candidates, [m, d]."""
        raise NotImplementedError

    def _update(self, candidates: np.ndarray, scores: np.ndarray) -> None:
        """Takes values, or mean ranks 0 .. m - 1 (lowest best), [m]."""
        raise NotImplementedError


def mean_ranks(answer: Ranking, m: int) -> np.ndarray:
    """[m] ranks from 0, the best; candidates that tie have the mean of their ranks, and all of them if it abstains."""
    ranks = np.full(m, (m - 1) / 2)
    before = 0
    for tier in (*answer.tiers, answer.unranked):
        ranks[list(tier)] = before + (len(tier) - 1) / 2
        before += len(tier)
    return ranks


def positive(**settings: float) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for a setting that is not a positive finite number."""
    for name, value in settings.items():
        if not (np.isfinite(value) and value > 0):
            raise ConfigError(f"{name}={value} must be a positive number")


def at_least(least: int, **settings: int) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for a count below ``least``."""
    for name, value in settings.items():
        if value < least:
            raise ConfigError(f"{name}={value} must be at least {least}")


def _checked_values(values: Any, m: int) -> np.ndarray:
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise AnswerError("the answer must be one number for each candidate") from None
    if array.shape != (m,):
        raise AnswerError(f"the answer must have one value for each of {m} candidates, not shape {array.shape}")
    if not np.isfinite(array).all():
        raise AnswerError("a value is not finite: give a large finite one to a candidate that fails")
    return array
