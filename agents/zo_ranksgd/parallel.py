"""Several queries of one search at a time, so that several people rank clips of their own and nobody waits for clips.

An update takes ``rounds`` answered queries, each with its own candidates, which tell more than as many answers to the
same candidates. ``ahead`` further queries wait meanwhile, and are shown while the next ones are drawn. A query that was
drawn before the last update still counts: its steps are taken relative to where it was drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlopt.agents.zo_ranksgd import saving
from rlopt.agents.zo_ranksgd.evolution import ElitistCMAES, EvolutionStrategy, RankedCMAES
from rlopt.agents.zo_ranksgd.line_search import winner
from rlopt.agents.zo_ranksgd.losses import rank_gradient
from rlopt.agents.zo_ranksgd.optimizer import ZORankSGD
from rlopt.agents.zo_ranksgd.query import GRADIENT, LINE_SEARCH, NO_EDGES, POPULATION, Outcome, Query, read_only
from rlopt.errors import AnswerError, CheckpointError, ConfigError, NonFiniteError, one_line
from rlopt.feedback.agreement import LEAST_TRUST
from rlopt.feedback.ranking import Ranking

FORMAT, VERSION = "rlopt-parallel-search", 1
MOST_WAITING = 1000


@dataclass(frozen=True)
class Drawn:
    """A query that waits for its answers."""

    query: Query
    """Its ``iteration`` is its number."""
    steps: np.ndarray | None
    """[m, s], by which the candidates differ from the point where they were drawn, in units of ``scale``; None of a
    line search."""
    scale: float


@dataclass(frozen=True)
class Told:
    """A query with its answers, and how far each is trusted, from 0 to 1."""

    drawn: Drawn
    answers: tuple[Ranking, ...]
    trust: tuple[float, ...]

    def weights(self) -> tuple[np.ndarray, float, int]:
        """Sums over the answers, each times its trust: w [m], the number of edges; and the edges without trust."""
        m = len(self.drawn.query.candidates)
        parts = [answer.edge_weights(m) for answer in self.answers]
        total = sum((t * w for t, (w, _) in zip(self.trust, parts, strict=True)), np.zeros(m))
        edges = sum(t * e for t, (_, e) in zip(self.trust, parts, strict=True))
        return np.asarray(total), float(edges), sum(e for _, e in parts)


class ParallelSearch:
    """Asks ``rounds + ahead`` queries of one search at a time, and updates it by ``rounds`` of them at once.

    :param search: ZO-RankSGD or CMA-ES, before its first query; it is told through this object only
    :param rounds: answered queries that an update takes
    :param ahead: queries that wait beside those
    :raises rlopt.errors.ConfigError: a number out of range, or a search that takes one query at a time
    """

    def __init__(self, search: ZORankSGD | EvolutionStrategy, rounds: int = 1, ahead: int = 1) -> None:
        for name, value, least in (("rounds", rounds, 1), ("ahead", ahead, 0)):
            if type(value) is not int or not least <= value <= MOST_WAITING:
                raise ConfigError(f"{name} is {value!r}: use a whole number from {least} to {MOST_WAITING}")
        self.search, self.rounds, self.ahead = search, rounds, ahead
        self._rule: _Gradients | _Generations
        if isinstance(search, ZORankSGD):
            self._rule = _Gradients(search)
        elif isinstance(search, RankedCMAES) and not isinstance(search, ElitistCMAES):
            search.spread_over(rounds)
            self._rule = _Generations(search)
        else:
            raise ConfigError(
                f"the search {search.method} takes one round at a time: use --search zo_ranksgd or cmaes, or "
                "--parallel-rounds 0"
            )
        self._waiting: dict[int, Drawn] = {}
        self._drawn = 0
        self._fill()

    @classmethod
    def for_people(cls, search: ZORankSGD | EvolutionStrategy, people: int) -> ParallelSearch:
        """With a query for each of so many people who rank at once, and others that wait meanwhile.

        ZO-RankSGD moves after every answer, however late. CMA-ES takes as many answers together as people rank: its
        populations must not be older than its last update.
        """
        return cls(search, people if isinstance(search, EvolutionStrategy) else 1, people)

    @property
    def point(self) -> np.ndarray:
        """The current point, [d] float64, read-only."""
        return self.search.point

    @property
    def iteration(self) -> int:
        """Updates so far."""
        return self.search.iteration

    @property
    def oracle_points(self) -> int:
        """Candidates of all queries that were answered."""
        return self.search.oracle_points

    def ask(self) -> list[Query]:
        """The queries that wait, oldest first: ``rounds + ahead`` of them, each with its number as ``iteration``."""
        return [drawn.query for drawn in self._waiting.values()]

    def tell(
        self, answers: Mapping[int, Sequence[Ranking]], trust: Mapping[int, Sequence[float]] | None = None
    ) -> Outcome:
        """Takes the answers to ``rounds`` queries that wait, by their numbers, and draws as many new queries.

        :param answers: of each query one answer or several, of different annotators
        :param trust: of each answer, from 0 to 1; all are trusted alike by default
        :raises rlopt.errors.AnswerError: another number of queries, one that does not wait, or an answer that does not
            fit its query; nothing changes then
        :raises rlopt.errors.NonFiniteError: the step leaves the range of numbers
        """
        if len(answers) != self.rounds:
            raise AnswerError(f"an update takes the answers to {self.rounds} queries, not to {len(answers)}")
        told = []
        for number in sorted(answers):
            if number not in self._waiting:
                raise AnswerError(f"query {number} does not wait for an answer")
            given = tuple(answers[number])
            weights = tuple(float(t) for t in trust[number]) if trust is not None else (1.0,) * len(given)
            if not given or len(weights) != len(given) or not all(0 <= weight <= 1 for weight in weights):
                raise AnswerError(f"query {number} needs at least one answer, each with a trust from 0 to 1")
            weights = tuple(weight if weight >= LEAST_TRUST else 0.0 for weight in weights)
            for answer in given:
                answer.check(len(self._waiting[number].query.candidates))
            told.append(Told(self._waiting[number], given, weights))
        search, before = self.search, self.point
        moved_to, message = self._rule.learn(told)
        if not np.isfinite(moved_to).all():
            raise NonFiniteError("the step leaves the range of numbers: lower the smoothing or the learning rate")
        norm = float(np.linalg.norm(moved_to - before))
        search._point = read_only(np.array(moved_to))
        search._iteration += 1
        for each in told:
            search._oracle_points += len(each.drawn.query.candidates)
            del self._waiting[each.drawn.query.iteration]
        self._fill()
        edges = sum(each.weights()[2] for each in told)
        return Outcome(told[0].drawn.query.kind, norm > 0, edges, norm, message or f"moved by {norm:.3g}")

    def _fill(self) -> None:
        while len(self._waiting) < self.rounds + self.ahead:
            self._waiting[self._drawn] = self._rule.draw(self._drawn)
            self._drawn += 1

    # ---- state

    def state_dict(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(values for JSON, arrays): all that the search depends on, the queries that wait included. Copies."""
        inner, arrays = self.search.state_dict()
        waiting = []
        found = {f"search.{name}": array for name, array in arrays.items()}
        for number, drawn in self._waiting.items():
            query = drawn.query
            waiting.append({"number": number, "kind": query.kind, "k": query.k, "current": query.current,
                            "scale": drawn.scale})  # fmt: skip
            found[f"candidates.{number}"] = query.candidates.copy()
            if drawn.steps is not None:
                found[f"steps.{number}"] = drawn.steps.copy()
        rule, own = self._rule.state()
        found |= {f"rule.{name}": array.copy() for name, array in own.items()}
        state = {"format": FORMAT, "version": VERSION, "rounds": self.rounds, "ahead": self.ahead,
                 "drawn": self._drawn, "waiting": waiting, "rule": rule, "search": inner}  # fmt: skip
        return state, found

    def load_state_dict(self, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Continues bit for bit from the moment at which :meth:`state_dict` was called.

        :raises rlopt.errors.CheckpointError: it is malformed, or of a search with other settings
        """
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise CheckpointError("this is no state of a search with several rounds at a time")
        if state.get("version") != VERSION:
            raise CheckpointError(
                f"the state has version {one_line(repr(state.get('version')))}, rlopt reads {VERSION}"
            )
        for name, own in (("rounds", self.rounds), ("ahead", self.ahead)):
            if state.get(name) != own:
                raise CheckpointError(
                    f"the state was saved with {name}={one_line(repr(state.get(name)))}, this search has {own}: make "
                    "it with the settings of the state"
                )
        try:
            prefix = "search."
            inner = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            waiting = {}
            for entry in state["waiting"]:
                number, current = int(entry["number"]), entry["current"]
                candidates = _matrix(arrays[f"candidates.{number}"], self.search.dimension)
                steps = None
                if entry["kind"] != LINE_SEARCH:
                    steps = _matrix(arrays[f"steps.{number}"], self._rule.searched, len(candidates))
                if entry["kind"] not in (GRADIENT, LINE_SEARCH, POPULATION) or not 1 <= entry["k"] <= len(candidates):
                    raise ValueError("a query that waits")
                if current is not None and not 0 <= current < len(candidates):
                    raise ValueError("a query that waits")
                query = Query(entry["kind"], number, read_only(candidates), int(entry["k"]), current)
                waiting[number] = Drawn(query, steps, float(entry["scale"]))
            drawn = int(state["drawn"])
            if len(waiting) != self.rounds + self.ahead or max(waiting) >= drawn:
                raise ValueError("the queries that wait")
            self.search.load_state_dict(state["search"], inner)
            self._rule.put(
                state["rule"], {n.removeprefix("rule."): a for n, a in arrays.items() if n.startswith("rule.")}
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the state of the search is malformed: {one_line(error)}") from None
        self._waiting, self._drawn = waiting, drawn

    def digest(self) -> str:
        """SHA-256 of the whole state, in hexadecimal digits."""
        return saving.digest(*self.state_dict())


class _Generations:
    """CMA-ES with several populations at once: an update weighs their ranks as those of one large population."""

    def __init__(self, search: RankedCMAES) -> None:
        self.search, self.searched = search, search.searched

    def draw(self, number: int) -> Drawn:
        search = self.search
        steps = search._drawn()
        candidates = read_only(search._point + search._in_full(search._sigma * steps))
        return Drawn(Query(POPULATION, number, candidates, search.k, None), steps, search._sigma)

    def learn(self, told: Sequence[Told]) -> tuple[np.ndarray, str]:
        search = self.search
        steps, positive, negative, total = [], [], [], 0.0
        for each in told:
            assert each.drawn.steps is not None
            weights = each.weights()[0]
            if not weights.any():
                continue
            said = [
                (a, t) for a, t in zip(each.answers, each.trust, strict=True) if t and a.edge_weights(len(weights))[1]
            ]
            trust = np.array([t for _, t in said])
            up, down = search.weights_of([a for a, _ in said])
            steps.append(each.drawn.steps * (each.drawn.scale / search._sigma))
            positive.append(trust @ up)
            negative.append(trust @ down)
            total += float(trust.sum())
        if not steps:
            return search._point, f"no update: {NO_EDGES}"
        step = search.learn(np.concatenate(steps), np.concatenate(positive) / total, np.concatenate(negative) / total)
        return search._point + search._in_full(step), ""

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {}, {}

    def put(self, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        if state or arrays:
            raise ValueError("the rule's state")


class _Gradients:
    """ZO-RankSGD with several gradient queries at once, and at most one line search among them.

    Answers gather in a direction. Once there is one and no line search waits, the next query is a line search along it;
    meanwhile further answers gather in the next direction. If the point where a line search began wins it, its
    direction is averaged with the next one, as in the search by single queries.
    """

    def __init__(self, search: ZORankSGD) -> None:
        self.search = search
        self.searched = search.dimension if search._basis is None else search._basis.shape[1]
        self._next = _Direction(np.zeros(search.dimension))
        self._tried: _Direction | None = None

    def draw(self, number: int) -> Drawn:
        search = self.search
        if self._next.weight and self._tried is None and search.line_search.points:
            self._tried, self._next = self._next, _Direction(np.zeros(search.dimension))
            search._direction = self._tried.mean
            query = search._line_search_query()
            return Drawn(Query(LINE_SEARCH, number, query.candidates, query.k, query.current), None, 1.0)
        query = search._gradient_query()
        assert search._perturbations is not None
        steps, search._perturbations = search._perturbations, None
        return Drawn(Query(GRADIENT, number, query.candidates, query.k, None), steps, 1.0)

    def learn(self, told: Sequence[Told]) -> tuple[np.ndarray, str]:
        search, point, message = self.search, self.search._point, f"no update: {NO_EDGES}"
        total, edges, weight = np.zeros(self.searched), 0.0, 0.0
        for each in told:
            weights, known, _ = each.weights()
            query = each.drawn.query
            if each.drawn.steps is not None:
                search._rounds += 1
                if weights.any():
                    total, edges = total + rank_gradient(weights, 1, each.drawn.steps), edges + known
                    weight += max(each.trust)
                    search._best_query = query.candidates[int(np.argmin(weights))]
                continue
            assert query.current is not None
            best = winner(weights, query.current)
            if best != query.current:
                # Where the point has moved since, its move and this one are added.
                point = point + (query.candidates[best] - query.candidates[query.current])
                message = ""
            elif search.accumulate and self._tried is not None:
                self._next = self._next.with_(self._tried)
                message = "the current point is the best"
            self._tried = None
        if edges:
            latest = search._in_full(total / edges)
            if search.line_search.points:
                self._next = self._next.with_(_Direction(latest, weight))
                message = message and "a direction"
            else:
                point, message = point - search._step_size(search._rounds - 1) * latest, ""
        return point, message

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        known = {"next": self._next, "tried": self._tried}
        weights = {name: None if each is None else each.weight for name, each in known.items()}
        return weights, {name: each.mean for name, each in known.items() if each is not None}

    def put(self, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        names = ["next"] if state["tried"] is None else ["next", "tried"]
        if set(state) != {"next", "tried"} or sorted(arrays) != names:
            raise ValueError("the rule's state")
        found = {
            name: _Direction(_matrix(arrays[name][None], self.search.dimension)[0], float(state[name]))
            for name in names
        }
        self._next, self._tried = found["next"], found.get("tried")


@dataclass(frozen=True)
class _Direction:
    """A mean of directions of ascent."""

    mean: np.ndarray
    weight: float = 0.0
    """Of how many trusted answers."""

    def with_(self, other: _Direction) -> _Direction:
        """The mean of both."""
        weight = self.weight + other.weight
        return _Direction(self.mean + (other.mean - self.mean) * (other.weight / weight), weight)


def _matrix(array: np.ndarray, columns: int, rows: int | None = None) -> np.ndarray:
    """A copy of a finite float64 matrix of so many columns."""
    if array.dtype != np.float64 or array.ndim != 2 or array.shape[1] != columns or rows not in (None, len(array)):
        raise ValueError("an array has another shape")
    if not np.isfinite(array).all():
        raise ValueError("an array is not finite")
    return np.array(array)
