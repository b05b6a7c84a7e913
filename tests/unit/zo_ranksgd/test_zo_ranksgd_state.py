"""Saved searches go on bit for bit from any instant, and damaged states are refused."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rlopt
from rlopt.agents.zo_ranksgd import Ranking
from rlopt.errors import CheckpointError
from rlopt.storage.json import dump_json, parse_json

START = np.linspace(-2.0, 3.0, 7)
SETTINGS: list[dict[str, Any]] = [
    {"m": 5, "k": 2, "line_search_points": 4},
    {"m": 4, "k": 4, "best_query_in_line_search": True, "subspace": 3},
    {"m": 4, "k": 1, "line_search_points": 0, "smoothing_schedule": "inverse_sqrt"},
]


def answer(search: rlopt.ZORankSGD) -> None:
    query = search.ask()
    search.tell(Ranking.from_values((query.candidates**4).sum(axis=1), query.k))


def stored(search: rlopt.ZORankSGD) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The state as it comes back from JSON and from a file of arrays."""
    state, arrays = search.state_dict()
    return parse_json(dump_json(state)), {name: np.array(array) for name, array in arrays.items()}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("asked", [False, True])
def test_resume_is_bit_exact_at_any_instant(settings: dict[str, Any], asked: bool) -> None:
    search = rlopt.ZORankSGD(START, seed=4, **settings)
    for _ in range(9):
        if asked:
            search.ask()
        other = rlopt.ZORankSGD(np.zeros(7), seed=99, **settings)
        other.load_state_dict(*stored(search))
        assert other.digest() == search.digest() and np.array_equal(other.point, search.point)
        twin = rlopt.ZORankSGD(np.zeros(7), seed=98, **settings)
        twin.load_state_dict(*stored(search))
        for _ in range(5):
            one, two = other.ask(), twin.ask()
            assert np.array_equal(one.candidates, two.candidates)
            assert (one.kind, one.iteration, one.k, one.current) == (two.kind, two.iteration, two.k, two.current)
            answer(other)
            answer(twin)
        uninterrupted = rlopt.ZORankSGD(START, seed=4, **settings)
        for _ in range(other.iteration):
            answer(uninterrupted)
        assert uninterrupted.digest() == other.digest() == twin.digest()
        answer(search)


def test_digest_sees_every_part() -> None:
    search = rlopt.ZORankSGD(START, m=3, k=3)
    seen = {search.digest()}
    assert search.digest() in seen, "reading the state changes nothing"
    for change in ("ask", "answer", "ask", "answer", "ask"):
        search.ask() if change == "ask" else answer(search)
        seen.add(search.digest())
    assert len(seen) == 6
    assert rlopt.ZORankSGD(START, m=3, k=3, seed=1).digest() not in seen
    assert rlopt.ZORankSGD(START, m=3, k=2).digest() not in seen


def test_the_state_is_a_copy() -> None:
    search = rlopt.ZORankSGD(START, m=3, k=3)
    search.ask()
    before = search.digest()
    _, arrays = search.state_dict()
    for array in arrays.values():
        array += 1
    assert search.digest() == before
    state, arrays = search.state_dict()
    other = rlopt.ZORankSGD(START, m=3, k=3)
    other.load_state_dict(state, arrays)
    arrays["point"] += 1
    assert other.digest() == before


def without(mapping: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key != name}


DAMAGE: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], tuple[Any, Any]], str]] = {
    "other format": (lambda s, a: (s | {"format": "x"}, a), "no state of ZORankSGD"),
    "no dictionary": (lambda s, a: ([], a), "no state of ZORankSGD"),
    "newer version": (lambda s, a: (s | {"version": 2}, a), "version 2, rlopt reads 1"),
    "missing part": (lambda s, a: (without(s, "random"), a), "malformed: random"),
    "unknown part": (lambda s, a: (s | {"extra": 1}, a), "malformed: extra"),
    "other k": (lambda s, a: (s | {"settings": s["settings"] | {"k": 2}}, a), "k=2, this search has 3"),
    "settings": (lambda s, a: (s | {"settings": without(s["settings"], "m")}, a), "malformed: settings"),
    "negative counter": (lambda s, a: (s | {"rounds": -1}, a), "not a whole number"),
    "fractional counter": (lambda s, a: (s | {"iteration": 1.0}, a), "not a whole number"),
    "phase": (lambda s, a: (s | {"phase": "rest"}, a), "phase 'rest'"),
    "random state": (lambda s, a: (s | {"random": s["random"] | {"state": 2**128}}, a), "random state"),
    "no random state": (lambda s, a: (s | {"random": {}}, a), "malformed"),
    "missing array": (lambda s, a: (s, without(a, "point")), "exactly the arrays"),
    "surplus array": (lambda s, a: (s, a | {"more": np.zeros(7)}), "exactly the arrays"),
    "shape": (lambda s, a: (s, a | {"point": np.zeros(6)}), "point is not a float64 array"),
    "type": (lambda s, a: (s, a | {"point": np.zeros(7, np.float32)}), "point is not a float64 array"),
    "not finite": (lambda s, a: (s, a | {"direction": np.full(7, np.nan)}), "direction is not finite"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_states_are_refused_and_change_nothing(name: str) -> None:
    damage, reason = DAMAGE[name]
    search = rlopt.ZORankSGD(START, m=3, k=3)
    search.ask()
    state, arrays = stored(search)
    other = rlopt.ZORankSGD(START + 1, m=3, k=3, seed=8)
    answer(other)
    before = other.digest()
    with pytest.raises(CheckpointError, match=reason):
        other.load_state_dict(*damage(copy.deepcopy(state), dict(arrays)))
    assert other.digest() == before
    other.load_state_dict(state, arrays)
    assert other.digest() == search.digest()
