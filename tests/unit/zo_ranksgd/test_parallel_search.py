"""Several queries of one search at a time: what an update takes, what a late answer does, and exact continuation."""

from typing import Any

import numpy as np
import pytest

from rlopt.agents.zo_ranksgd.evolution import ElitistCMAES, MirroredCMAES, OnePlusLambda, RankedCMAES
from rlopt.agents.zo_ranksgd.methods import search_of_state
from rlopt.agents.zo_ranksgd.optimizer import ZORankSGD
from rlopt.agents.zo_ranksgd.parallel import ParallelSearch
from rlopt.agents.zo_ranksgd.query import Query
from rlopt.errors import AnswerError, CheckpointError, ConfigError
from rlopt.feedback.ranking import Ranking

D = 5
TARGET = np.linspace(-1.0, 1.0, D)


def search(kind: str, **settings: Any) -> Any:
    made = {"zo": ZORankSGD, "cmaes": RankedCMAES, "mirrored": MirroredCMAES}[kind]
    given = {"m": 6, "k": 3, "smoothing": 0.3, "seed": 5, **settings}
    if kind == "zo":
        given = {"line_search_points": 4, **given}
    return made(np.zeros(D), **given)


def exact(query: Query) -> list[Ranking]:
    return [Ranking.from_values(((query.candidates - TARGET) ** 2).sum(axis=1), query.k)]


def told(made: ParallelSearch, updates: int, rng: np.random.Generator) -> None:
    """Updates with exact answers to queries drawn at random among those that wait."""
    for _ in range(updates):
        waiting = {query.iteration: query for query in made.ask()}
        taken = rng.choice(list(waiting), made.rounds, replace=False)
        made.tell({int(number): exact(waiting[int(number)]) for number in taken})


@pytest.mark.parametrize("kind", ["zo", "cmaes", "mirrored"])
def test_one_query_at_a_time_is_the_search_itself(kind: str) -> None:
    alone, made = search(kind), ParallelSearch(search(kind), rounds=1, ahead=0)
    for _ in range(12):
        query = alone.ask()
        (same,) = made.ask()
        np.testing.assert_array_equal(same.candidates, query.candidates)
        assert (same.kind, same.k, same.current, same.iteration) == (
            query.kind,
            query.k,
            query.current,
            query.iteration,
        )
        alone.tell(exact(query))
        made.tell({same.iteration: exact(same)})
        np.testing.assert_array_equal(made.point, alone.point)


def test_the_direction_of_several_queries_is_the_mean_over_the_edges_of_all() -> None:
    made = ParallelSearch(search("zo", line_search_points=0), rounds=3, ahead=1)
    queries = made.ask()[:3]
    answers = {query.iteration: exact(query) for query in queries}
    edges = [
        (query.candidates[j] - query.candidates[i]) / 0.3
        for query in queries
        for place, (i,) in enumerate(answers[query.iteration][0].tiers)
        for j in range(6)
        if (j,) not in answers[query.iteration][0].tiers[: place + 1]
    ]
    made.tell(answers)
    np.testing.assert_allclose(made.point, -np.mean(edges, axis=0), rtol=1e-12)


def test_trust_weighs_the_edges() -> None:
    pair = {}
    for name, trust in (("half", [1.0, 0.5]), ("none", [1.0, 0.0]), ("alone", None)):
        made = ParallelSearch(search("zo", line_search_points=0), rounds=1, ahead=0)
        (query,) = made.ask()
        honest = exact(query)[0]
        liar = Ranking(tuple(reversed(honest.tiers)), honest.unranked)
        given = [honest] if trust is None else [honest, liar]
        made.tell({0: given}, None if trust is None else {0: trust})
        pair[name] = made.point
    np.testing.assert_array_equal(pair["none"], pair["alone"])
    assert pair["half"] @ TARGET < pair["none"] @ TARGET


def test_a_late_line_search_adds_its_move_to_what_came_between() -> None:
    made = ParallelSearch(search("zo"), rounds=1, ahead=2)
    first = made.ask()[0]
    made.tell({first.iteration: exact(first)})
    line = made.ask()[-1]
    assert line.kind == "line_search" and line.current is not None
    start = made.point
    made.search._point = start + 1.0  # as if another step had been taken meanwhile
    made.tell({line.iteration: [Ranking.from_order([0], len(line.candidates))]})
    np.testing.assert_allclose(made.point, start + 1.0 + line.candidates[0] - line.candidates[line.current])


@pytest.mark.parametrize(("kind", "rounds", "ahead"), [("zo", 1, 1), ("zo", 1, 8), ("zo", 3, 3), ("cmaes", 3, 3)])
def test_late_answers_lead_to_the_optimum(kind: str, rounds: int, ahead: int) -> None:
    made = ParallelSearch(search(kind), rounds, ahead)
    told(made, 240 // rounds, np.random.default_rng(0))
    assert np.linalg.norm(made.point - TARGET) < 0.1 * np.linalg.norm(TARGET)
    assert made.iteration == 240 // rounds


@pytest.mark.parametrize("kind", ["zo", "cmaes"])
@pytest.mark.parametrize("subspace", [None, 3])
def test_it_continues_bit_for_bit_after_any_update(kind: str, subspace: int | None) -> None:
    whole = ParallelSearch(search(kind, subspace=subspace), 2, 2)
    parts = ParallelSearch(search(kind, subspace=subspace), 2, 2)
    for update in range(8):
        rng = np.random.default_rng(update)
        told(whole, 1, rng)
        told(parts, 1, np.random.default_rng(update))
        state, arrays = parts.state_dict()
        parts = search_of_state(state, arrays)  # type: ignore[assignment]
        parts.load_state_dict(state, arrays)
        assert parts.digest() == whole.digest()


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    made = ParallelSearch(search("zo"), 2, 1)
    before = made.digest()
    first, second, _ = made.ask()
    for answers, trust, message in (
        ({first.iteration: exact(first)}, None, "answers to 2 queries, not to 1"),
        ({first.iteration: exact(first), 99: exact(second)}, None, "query 99 does not wait"),
        ({first.iteration: exact(first), second.iteration: []}, None, "at least one answer"),
        ({first.iteration: exact(first), second.iteration: exact(second)}, {0: [1.0], 1: [2.0]}, "trust from 0 to 1"),
        ({first.iteration: exact(first), second.iteration: [Ranking(((0,),))]}, None, "candidate 1 is missing"),
    ):
        with pytest.raises(AnswerError, match=message):
            made.tell(answers, trust)
    assert made.digest() == before
    with pytest.raises(ConfigError, match="one round at a time"):
        ParallelSearch(OnePlusLambda(np.zeros(3), m=4))
    with pytest.raises(ConfigError, match="elitist_cmaes takes one round at a time"):
        ParallelSearch(ElitistCMAES(np.zeros(3), m=4))
    with pytest.raises(ConfigError, match="rounds is 0"):
        ParallelSearch(search("zo"), 0)
    state, arrays = made.state_dict()
    for change, message in (
        ({"rounds": 3}, "rounds=3, this search has 2"),
        ({"format": "other"}, "no state of a search"),
        ({"version": 9}, "version 9"),
        ({"waiting": state["waiting"][:1]}, "the queries that wait"),
        ({"rule": {}}, "malformed"),
    ):
        with pytest.raises(CheckpointError, match=message):
            ParallelSearch(search("zo"), 2, 1).load_state_dict({**state, **change}, arrays)
    with pytest.raises(CheckpointError, match="malformed"):
        ParallelSearch(search("zo"), 2, 1).load_state_dict(state, {**arrays, "candidates.1": np.full((6, D), np.nan)})
