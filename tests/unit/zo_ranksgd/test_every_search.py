"""What every search does, whatever it is told: any answers, any instant."""

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlopt.agents.zo_ranksgd import Ranking
from rlopt.agents.zo_ranksgd.methods import make_search, search_of_state
from rlopt.errors import ConfigError
from rlopt.storage.json import dump_json, parse_json

SETTINGS: dict[str, Any] = {
    "m": 5, "k": 3, "smoothing": 0.3, "learning_rate": 1.0, "line_search_points": 4, "line_search_decay": 0.3,
    "accumulate": True, "best_query_in_line_search": False, "subspace": None, "smoothing_schedule": "constant",
    "learning_rate_schedule": "constant", "schedule_rounds": None,
}  # fmt: skip
QUICK = ["zo_ranksgd", "cmaes", "mirrored_cmaes", "elitist_cmaes", "one_plus_lambda"]
needs_botorch = pytest.mark.skipif(
    importlib.util.find_spec("botorch") is None, reason="bayes needs botorch: pip install 'rlopt[bayes]'"
)
EVERY = [*QUICK, pytest.param("bayes", marks=needs_botorch)]
FEW = settings(max_examples=15, deadline=None, derandomize=True)


def made(name: str, subspace: int | None = None, seed: int = 1) -> Any:
    return make_search(name, np.linspace(-1, 1, 4), SETTINGS | {"subspace": subspace}, seed=seed)[0]


@st.composite
def answers(draw: Any, m: int) -> list[Ranking]:
    """Of one to three annotators, each a full order, k of m, with ties, or no opinion."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        places = draw(st.lists(st.integers(0, m), min_size=m, max_size=m))
        tiers = [tuple(i for i in range(m) if places[i] == place) for place in range(m)]
        unranked = tuple(i for i in range(m) if places[i] == m)
        abstains = draw(st.booleans()) and draw(st.booleans())
        found.append(Ranking((), abstain=True) if abstains else Ranking(tuple(t for t in tiers if t), unranked))
    return found


def check(search: Any) -> Any:
    query = search.ask()
    assert search.ask() is query
    assert query.candidates.shape[1] == 4 and np.isfinite(query.candidates).all()
    assert not query.candidates.flags.writeable and 1 <= query.k <= len(query.candidates)
    if query.current is not None:
        np.testing.assert_allclose(query.candidates[query.current], search.point, atol=1e-12)
    return query


def told(name: str, data: st.DataObject, rounds: int) -> None:
    """It takes any answers, and a search that was restored at any instant goes on bit for bit."""
    search = made(name, data.draw(st.sampled_from([None, 2])))
    instant, asked = data.draw(st.integers(0, rounds - 1)), data.draw(st.booleans())
    for number in range(rounds):
        if number == instant:
            if asked:
                search.ask()
            state, arrays = search.state_dict()
            other = search_of_state(state, arrays)
            other.load_state_dict(parse_json(dump_json(state)), arrays)
            assert other.digest() == search.digest()
        query = check(search)
        said = data.draw(answers(len(query.candidates)))
        outcome = search.tell(said)
        assert outcome.edges == sum(each.edge_weights(len(query.candidates))[1] for each in said)
        if number >= instant:
            np.testing.assert_array_equal(other.ask().candidates, query.candidates)
            other.tell(said)
            assert other.digest() == search.digest()
    assert np.isfinite(search.point).all() and search.iteration == rounds


@pytest.mark.parametrize("name", QUICK)
@given(data=st.data())
@FEW
def test_any_answers_and_any_instant(name: str, data: st.DataObject) -> None:
    told(name, data, 6)


@needs_botorch
@given(data=st.data())
@settings(max_examples=2, deadline=None, derandomize=True)
def test_any_answers_and_any_instant_of_bayes(data: st.DataObject) -> None:
    told("bayes", data, 3)


@pytest.mark.parametrize("name", EVERY)
def test_what_prefers_nothing_moves_nothing(name: str) -> None:
    search = made(name)
    for answer in (Ranking((), abstain=True), Ranking((tuple(range(5)),)), Ranking((), tuple(range(5)))):
        before = search.point
        assert len(search.ask().candidates) == 5
        outcome = search.tell(answer)
        assert not outcome.moved and outcome.edges == 0 and search.point is before


def test_bayes_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botorch", None)
    with pytest.raises(ConfigError, match=r"pip install 'rlopt\[bayes\]'"):
        made("bayes")
    with pytest.raises(ConfigError, match="at most 20 dimensions, not 21"):
        make_search("bayes", np.zeros(21), SETTINGS, seed=0)


@pytest.mark.parametrize("name", QUICK)
def test_an_answer_of_two_annotators_who_agree_is_that_of_one(name: str) -> None:
    one, two = made(name), made(name)
    for _ in range(6):
        query = one.ask()
        two.ask()
        answer = Ranking.from_values((query.candidates**2).sum(axis=1), query.k)
        one.tell(answer)
        two.tell([answer, answer])
        np.testing.assert_allclose(two.point, one.point, atol=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_it_comes_nearer_to_an_optimum_from_k_of_m(name: str) -> None:
    search = made(name)
    while search.oracle_points < 80:
        query = search.ask()
        search.tell(Ranking.from_values(((query.candidates - 0.5) ** 2).sum(axis=1), query.k))
    assert np.linalg.norm(search.point - 0.5) < 0.6 * np.linalg.norm(np.linspace(-1, 1, 4) - 0.5)
