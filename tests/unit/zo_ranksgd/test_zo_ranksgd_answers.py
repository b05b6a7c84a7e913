"""Answers to queries, and what is refused: malformed answers, settings and points."""

import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

import rlopt
from rlopt.agents.zo_ranksgd import Ranking
from rlopt.errors import AnswerError, ConfigError, NonFiniteError


def test_values_become_answers() -> None:
    inf, nan = math.inf, math.nan
    assert Ranking.from_values([3.0, 1.0, 2.0]) == Ranking(((1,), (2,), (0,)))
    assert Ranking.from_values([3.0, 1.0, 2.0], maximize=True) == Ranking(((0,), (2,), (1,)))
    assert Ranking.from_values([3.0, 1.0, 2.0, 9.0], 2) == Ranking(((1,), (2,)), (0, 3))
    assert Ranking.from_values([nan, 1.0, -inf, 0.0, inf]) == Ranking(((3,), (1,)), (0, 2, 4))
    assert Ranking.from_values([nan, 1.0, inf, 0.0], maximize=True) == Ranking(((1,), (3,)), (0, 2))
    assert Ranking.from_values([nan, inf], 1) == Ranking((), (0, 1))
    assert Ranking.from_values([1.0, 1.0, 0.0, 2.0], 2) == Ranking(((2,), (0, 1)), (3,)), (
        "a tie at the k-th place stays"
    )
    assert Ranking.from_values([0.0, 0.4, 0.8, 1.3], tie_tolerance=0.5) == Ranking(((0, 1), (2, 3)))
    assert Ranking.from_order([2, 0], 4) == Ranking(((2,), (0,)), (1, 3))
    answer = Ranking([[np.int64(1)], [0, 2]], [3])
    assert Ranking.from_json(answer.to_json()) == answer and answer.to_json()["tiers"] == [[1], [0, 2]]
    assert Ranking.from_json(Ranking((), abstain=True).to_json()).abstain


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda: Ranking([[0], [1]]), "candidate 2 is missing"),
        (lambda: Ranking([[0], [1]], [2, 1]), "candidate 1 is named more than once"),
        (lambda: Ranking([[0], [1], [3]], [2]), "candidate 3 does not exist: the query has the candidates 0..2"),
        (lambda: Ranking([[0], [1], [-1]]), "candidate -1 does not exist"),
        (lambda: Ranking([[0], [], [1, 2]]), "a tier is empty"),
        (lambda: Ranking([[0], [1.5], [2]]), "whole numbers, not 1.5"),
        (lambda: Ranking([[True], [0], [2]]), "not True or False"),
        (lambda: Ranking(["01", [2]]), "not text"),
        (lambda: Ranking([0, 1, 2]), "sequence of sequences"),
        (lambda: Ranking([[0], [1], [2]], abstain=True), "leave tiers and unranked empty"),
        (lambda: Ranking([], abstain=1), "abstain must be True or False"),
        (lambda: Ranking.from_order([1, 1], 3), "more than once"),
        (lambda: Ranking.from_values([1.0, 2.0, 3.0], 4), "k=4 is outside 1..3"),
        (lambda: Ranking.from_values([1.0, 2.0, 3.0], 0), "k=0 is outside 1..3"),
        (lambda: Ranking.from_values([1.0, 2.0, 3.0], tie_tolerance=math.nan), "tie_tolerance"),
        (lambda: Ranking.from_json({"tiers": [[0, 1, 2]], "unranked": []}), "exactly tiers, unranked, abstain"),
        (lambda: Ranking.from_json({"tiers": [0], "unranked": [], "abstain": False}), "list of lists"),
        (lambda: Ranking.from_json({"tiers": [[0.0]], "unranked": [], "abstain": False}), "whole numbers"),
        (list, "at least one"),
        (lambda: None, "not None"),
        (lambda: 5, "an answer is a Ranking, or a sequence of at least one, one for each annotator, not 5"),
        (lambda: "012", "not '012'"),
        (lambda: [[0], [1], [2]], "an answer is a Ranking"),
    ],
)
def test_bad_answers_are_refused_and_change_nothing(answer: Callable[[], Ranking], reason: str) -> None:
    search = rlopt.ZORankSGD(np.ones(2), m=3, k=3)
    search.ask()
    before = search.digest()
    with pytest.raises(AnswerError, match=reason.replace("(", r"\(")):
        search.tell(answer())
    assert search.digest() == before


def test_tell_needs_ask() -> None:
    search = rlopt.ZORankSGD(np.ones(2), m=2, k=1)
    with pytest.raises(AnswerError, match="call ask"):
        search.tell(Ranking([[0]], [1]))
    search.ask()
    search.tell(Ranking([[0]], [1]))
    with pytest.raises(AnswerError, match="call ask"):
        search.tell(Ranking([[0]], [1]))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"m": 1, "k": 1}, r"m = 1 is outside \[2, inf\)"),
        ({"m": 5, "k": 0}, r"k = 0 is outside \[1, inf\)"),
        ({"m": 5, "k": 6}, "k = 6 is more than m = 5"),
        ({"m": 5.0}, "m = 5.0 is not a whole number"),
        ({"smoothing": 0.0}, r"smoothing = 0.0 is outside \(0, inf\)"),
        ({"learning_rate": math.inf}, r"learning_rate = inf is outside \(0, inf\)"),
        ({"line_search_points": 1}, "give at least 2, or 0"),
        ({"line_search_points": 2, "best_query_in_line_search": True}, "give at least 3, or 0"),
        ({"line_search_decay": 1.0}, r"line_search_decay = 1.0 is outside \(0, 1\)"),
        ({"smoothing_schedule": "inverse-sqrt"}, "did you mean 'inverse_sqrt'"),
        ({"learning_rate_schedule": "linear"}, "needs schedule_rounds"),
        ({"schedule_rounds": 0}, r"schedule_rounds = 0 is outside \[1, inf\)"),
        ({"m": "3"}, "m = '3' is not a whole number"),
        ({"m": True, "k": 1}, "m = true is not a whole number"),
        ({"m": 10**12}, r"m=1000000000000 candidates of 2 numbers take 14,901 GiB: give at most m=536870912"),
        ({"line_search_points": 10**12}, "give at most line_search_points=536870912"),
        ({"line_search_points": -1}, r"line_search_points = -1 is outside \[0, inf\)"),
        ({"smoothing": "wide"}, "smoothing = wide is not a number"),
        ({"learning_rate": None}, "learning_rate = none is not a number"),
        ({"line_search_decay": "half"}, "line_search_decay = half is not a number or none"),
        ({"schedule_rounds": "ten"}, "schedule_rounds = ten is not a whole number or none"),
        ({"smoothing_schedule": None}, "known: constant, inverse_sqrt, linear"),
        ({"seed": -1}, r"seed = -1 is outside \[0, inf\)"),
        ({"seed": 1.5}, "seed = 1.5 is not a whole number or none"),
        ({"seed": "abc"}, "seed = abc is not a whole number or none"),
        ({"subspace": "some"}, "subspace = some is not a whole number or none"),
        ({"subspace": 3}, r"subspace=3 is outside 1\.\.2"),
        ({"subspace": np.ones((3, 1))}, r"shape \(2, 1..2\)"),
        ({"subspace": np.ones((2, 2))}, "linearly dependent"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        rlopt.ZORankSGD(np.ones(2), **{"m": 5, "k": 1, **settings})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_bad_points_are_refused() -> None:
    with pytest.raises(NonFiniteError, match="not finite in dimension 1"):
        rlopt.ZORankSGD([0.0, math.nan])
    with pytest.raises(ConfigError, match="must be a vector"):
        rlopt.ZORankSGD(np.ones((2, 2)))
    for strange in ("abc", ["a"], {}, [[1], [1, 2]], [1j]):
        with pytest.raises(ConfigError, match=r"a vector of numbers, such as numpy.zeros\(20\), not"):
            rlopt.ZORankSGD(strange)  # type: ignore[arg-type]
    search = rlopt.ZORankSGD([1.7e308], m=2, k=1, learning_rate=1e308, line_search_points=0)
    search.ask()
    before = search.digest()
    highest = int(np.argmax(search.state_dict()[1]["perturbations"]))
    with np.errstate(over="ignore"), pytest.raises(NonFiniteError, match="lower learning_rate"):
        search.tell(Ranking([[highest]], [1 - highest]))
    assert search.digest() == before


def test_importing_the_search_imports_no_torch() -> None:
    code = (
        "import sys, rlopt; rlopt.ZORankSGD([0.0, 1.0]).ask(); import rlopt.agents.zo_ranksgd.comparators as peers; "
        "[getattr(peers, name) for name in peers.__all__]; print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "rlopt.agents.zo_ranksgd.optimizer" in loaded
    assert not loaded & {"torch", "stable_baselines3", "gymnasium", "mujoco"}
