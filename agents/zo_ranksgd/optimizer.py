"""ZO-RankSGD (arXiv 2303.03751): minimises a function by rankings. Numpy only: no torch, no environment."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlopt.agents.zo_ranksgd import saving
from rlopt.agents.zo_ranksgd.checks import check_size
from rlopt.agents.zo_ranksgd.config import SearchConfig
from rlopt.agents.zo_ranksgd.line_search import LineSearch, winner
from rlopt.agents.zo_ranksgd.losses import rank_gradient
from rlopt.agents.zo_ranksgd.query import GRADIENT, LINE_SEARCH, NO_EDGES, Outcome, Query, Search, make_basis, read_only
from rlopt.errors import AnswerError, NonFiniteError
from rlopt.feedback.ranking import Ranking, total_weights
from rlopt.settings.fields import check_arguments


class ZORankSGD(Search):
    """Zeroth-order descent from (m, k)-ranking answers, by ask and tell.

    The settings are explained in :class:`rlopt.agents.zo_ranksgd.config.SearchConfig`.

    A *round* is a gradient query, answered by the ranking of ``m`` points x + mu xi_i, and a line search along the
    estimated direction. If the current point wins the line search, the next round's direction is averaged with the
    previous ones, until a round succeeds. An answer that ranks no candidate above another changes nothing, and the
    outcome says so.

    :param initial: [d], the first point, finite
    :param seed: seed of perturbations and basis; None for a new one each time
    :param subspace: a number s of dimensions, spanned by an orthonormal basis drawn from the seed, or a basis [d, s] of
        full rank: only x + B a is searched; all dimensions by default
    :raises rlopt.errors.ConfigError: a setting is out of its range
    :raises rlopt.errors.NonFiniteError: the first point or the basis is not finite
    """

    def __init__(
        self,
        initial: Sequence[float] | np.ndarray,
        *,
        m: int = SearchConfig.m,
        k: int = SearchConfig.k,
        smoothing: float = SearchConfig.smoothing,
        learning_rate: float = SearchConfig.learning_rate,
        line_search_points: int = SearchConfig.line_search_points,
        line_search_decay: float | None = SearchConfig.line_search_decay,
        accumulate: bool = SearchConfig.accumulate,
        best_query_in_line_search: bool = SearchConfig.best_query_in_line_search,
        subspace: int | np.ndarray | None = SearchConfig.subspace,
        seed: int | None = 0,
        smoothing_schedule: str = SearchConfig.smoothing_schedule,
        learning_rate_schedule: str = SearchConfig.learning_rate_schedule,
        schedule_rounds: int | None = SearchConfig.schedule_rounds,
    ) -> None:
        given = check_arguments(SearchConfig, locals())
        super().__init__(initial, seed)
        for name in ("m", "line_search_points"):
            check_size(name, given[name], self.dimension)
        self.m: int = given["m"]
        self.k: int = given["k"]
        self.smoothing: float = given["smoothing"]
        self.learning_rate: float = given["learning_rate"]
        self.line_search = LineSearch.make(
            given["line_search_points"], given["line_search_decay"], given["best_query_in_line_search"]
        )
        self.accumulate: bool = given["accumulate"]
        self.smoothing_schedule, self.learning_rate_schedule = smoothing_schedule, learning_rate_schedule
        self.schedule_rounds: int | None = given["schedule_rounds"]
        self._basis = make_basis(subspace, self.dimension, self._rng)
        self._rounds = 0
        self._phase = GRADIENT
        self._direction = np.zeros(self.dimension)
        self._averaged = 0
        self._best_query = self._point
        self._perturbations: np.ndarray | None = None

    def ask(self) -> Query:
        """The current query to rank; the same one until ``tell`` is called."""
        if self._query is None:
            self._query = self._gradient_query() if self._phase == GRADIENT else self._line_search_query()
        return self._query

    def tell(self, answer: Ranking | Sequence[Ranking]) -> Outcome:
        """Takes the answer to the query that was asked, or one of each of several annotators: their edges are summed.

        :raises rlopt.errors.AnswerError: nothing was asked, or an answer does not fit the query; nothing changes then
        :raises rlopt.errors.NonFiniteError: the step leaves the range of numbers
        """
        query = self._query
        if query is None:
            raise AnswerError("nothing was asked: call ask() first, and tell its answer once")
        weights, edges = total_weights(answer, len(query.candidates))
        if query.kind == GRADIENT:
            outcome = self._take_gradient(query, weights, edges)
        else:
            outcome = self._take_line_search(query, weights, edges)
        self._iteration += 1
        self._oracle_points += len(query.candidates)
        self._query = self._perturbations = None
        return outcome

    def state_dict(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(values for JSON, arrays): all that the search depends on, also between ask and tell. Copies."""
        return saving.state_of(self)

    def load_state_dict(self, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Continues bit for bit from the moment at which :meth:`state_dict` was called.

        :raises rlopt.errors.CheckpointError: it is malformed, or of a search with other settings; nothing changes then
        """
        saving.restore(self, state, arrays)

    def digest(self) -> str:
        """SHA-256 of the whole state, in hexadecimal digits."""
        return saving.digest(*self.state_dict())

    def _gradient_query(self) -> Query:
        size = self.dimension if self._basis is None else self._basis.shape[1]
        self._perturbations = self._rng.standard_normal((self.m, size))
        mu = self.smoothing * schedule_factor(self.smoothing_schedule, self._rounds, self.schedule_rounds)
        candidates = self._point + mu * self._in_full(self._perturbations)
        return Query(GRADIENT, self._iteration, read_only(candidates), self.k, None)

    def _line_search_query(self) -> Query:
        eta = self._step_size(self._rounds - 1)
        candidates = self.line_search.candidates(self._point, self._direction, eta, self._best_query)
        return Query(LINE_SEARCH, self._iteration, read_only(candidates), 1, len(candidates) - 1)

    def _take_gradient(self, query: Query, weights: np.ndarray, edges: int) -> Outcome:
        assert self._perturbations is not None
        if not weights.any():
            self._rounds += 1
            return Outcome(GRADIENT, False, edges, 0.0, "no update: " + ("the answers cancel" if edges else NO_EDGES))
        latest = self._in_full(rank_gradient(weights, edges, self._perturbations))
        if not self.line_search.points:
            norm = self._move_to(self._point - self._step_size(self._rounds) * latest)
            self._rounds += 1
            return Outcome(GRADIENT, True, edges, norm, f"moved by {norm:.3g}")
        self._rounds += 1
        self._averaged += 1
        self._direction = self._direction + (latest - self._direction) / self._averaged
        self._best_query = query.candidates[int(np.argmin(weights))]
        self._phase = LINE_SEARCH
        return Outcome(GRADIENT, False, edges, 0.0, f"a direction from {edges} comparisons")

    def _take_line_search(self, query: Query, weights: np.ndarray, edges: int) -> Outcome:
        assert query.current is not None
        best = winner(weights, query.current)
        norm = 0.0 if best == query.current else self._move_to(query.candidates[best])
        self._phase = GRADIENT
        if best != query.current:
            self._forget_direction()
            return Outcome(LINE_SEARCH, True, edges, norm, f"moved by {norm:.3g}")
        message = "the current point is the best" if edges else f"no update: {NO_EDGES}"
        if self.accumulate:
            message += f"; the next direction is averaged with {self._averaged} before it"
        else:
            self._forget_direction()
        return Outcome(LINE_SEARCH, False, edges, 0.0, message)

    def _forget_direction(self) -> None:
        self._direction, self._averaged = np.zeros(self.dimension), 0

    def _move_to(self, point: np.ndarray) -> float:
        if not np.isfinite(point).all():
            raise NonFiniteError(f"the step leaves the range of numbers: lower learning_rate={self.learning_rate}")
        norm = float(np.linalg.norm(point - self._point))
        self._point = read_only(point.copy())
        return norm

    def _step_size(self, index: int) -> float:
        """eta in the round ``index``."""
        return self.learning_rate * schedule_factor(self.learning_rate_schedule, index, self.schedule_rounds)

    def _in_full(self, coefficients: np.ndarray) -> np.ndarray:
        """[.., s] in the subspace to [.., d]."""
        return coefficients if self._basis is None else coefficients @ self._basis.T


LAST_LINEAR_FACTOR = 0.01
"""The share of the first value that is left at the end: a smoothing of 0 would leave nothing to rank."""


def schedule_factor(kind: str, index: int, rounds: int | None) -> float:
    """What a first value is multiplied with in the round ``index`` = 0, 1, ..

    ``linear`` falls from 1 to .01 in the round ``rounds`` and stays there; ``inverse_sqrt`` is 1 / sqrt(index + 1), the
    paper's rate where the number of rounds is not known beforehand.
    """
    if kind == "linear":
        assert rounds is not None
        return 1.0 - (1.0 - LAST_LINEAR_FACTOR) * min(index / rounds, 1.0)
    return 1.0 / math.sqrt(index + 1) if kind == "inverse_sqrt" else 1.0
