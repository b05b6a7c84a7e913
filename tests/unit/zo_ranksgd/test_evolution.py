"""Evolution strategies by rankings: closed forms, the package ``cma``, their state, and which one is chosen."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlopt
from rlopt.agents.zo_ranksgd import Query, Ranking
from rlopt.agents.zo_ranksgd.comparators import CMAES
from rlopt.agents.zo_ranksgd.evolution import (
    FULL_COVARIANCE,
    ElitistCMAES,
    EvolutionStrategy,
    MirroredCMAES,
    OnePlusLambda,
    RankedCMAES,
    by_rank,
    share_better,
)
from rlopt.agents.zo_ranksgd.methods import (
    LEAST_WITH_ELITE,
    MOST_OF_CMAES,
    MOST_OF_CMAES_FOR_PEOPLE,
    MOST_WITH_ELITE,
    choose,
    make_search,
    search_of_state,
)
from rlopt.envs.settings import EnvSettings
from rlopt.errors import AnswerError, CheckpointError, ConfigError, NonFiniteError

KINDS = (RankedCMAES, MirroredCMAES, ElitistCMAES, OnePlusLambda)


def ellipsoid(points: np.ndarray) -> np.ndarray:
    """f [m] of condition number 1000."""
    d = points.shape[-1]
    return np.asarray((points**2 * 10.0 ** (3 * np.arange(d) / (d - 1))).sum(-1))


def told(search: EvolutionStrategy, rounds: int, k: int | None = None) -> EvolutionStrategy:
    for _ in range(rounds):
        query = search.ask()
        search.tell(Ranking.from_values(ellipsoid(query.candidates), k or query.k))
    return search


def test_the_mean_moves_as_in_cma() -> None:
    peer, own = CMAES(np.ones(4), population=9, smoothing=0.5, seed=3), RankedCMAES(np.ones(4), m=9, smoothing=0.5)
    candidates = peer.ask().candidates
    own.ask()
    own._steps, own._query = (candidates - 1) / 0.5, Query("population", 0, candidates, 9, None)
    answer = Ranking.from_values(ellipsoid(candidates))
    peer.tell(answer)
    own.tell(answer)
    np.testing.assert_allclose(own.point, peer.point, rtol=1e-12)


def test_it_finds_the_optimum_as_cma_does() -> None:
    """On an ill-conditioned ellipsoid, where a covariance has to be learned; medians of three seeds."""
    found: dict[type, list[float]] = {RankedCMAES: [], CMAES: []}
    for seed in range(3):
        own: Any = RankedCMAES(np.ones(5), m=10, smoothing=0.3, seed=seed)
        peer: Any = CMAES(np.ones(5), population=10, smoothing=0.3, seed=seed)
        for search in (own, peer):
            while search.oracle_points < 1500:
                search.tell(Ranking.from_values(ellipsoid(search.ask().candidates)))
            found[type(search)].append(math.log10(ellipsoid(search.point)))
    assert np.median(found[RankedCMAES]) < -8 and np.median(found[RankedCMAES]) < np.median(found[CMAES]) + 2


def test_with_three_best_of_six_it_still_finds_it() -> None:
    assert ellipsoid(told(RankedCMAES(np.ones(5), m=6, k=3, smoothing=0.3), 300).point) < 1e-6


def test_many_dimensions_have_a_diagonal() -> None:
    search = RankedCMAES(np.ones(FULL_COVARIANCE + 1), m=10)
    assert search.diagonal and search._covariance.shape == (FULL_COVARIANCE + 1,)
    before = ellipsoid(search.point)
    assert ellipsoid(told(search, 100).point) < before / 2 and (search._covariance > 0).all()


def test_mirrored_pairs_lie_opposite_and_one_of_each_draws_the_mean() -> None:
    search = MirroredCMAES(np.ones(3), m=5, smoothing=0.5)
    answer = Ranking(((0,), (2,), (1,), (3,), (4,)))
    steps = search.ask().candidates - 1
    np.testing.assert_allclose(steps[:2], -steps[2:4], atol=1e-15)
    assert np.linalg.norm(steps[4]) > 0 and np.linalg.norm(steps[0] - steps[1]) > 0
    # Positive weights of the places (49): log 3 and log 3 - log 2; the second is the opposite of the first.
    positive, negative = search.weights_of([answer])
    np.testing.assert_allclose(positive, [[1, 0, 0, 0, 0]], atol=1e-15)
    np.testing.assert_array_equal(negative, RankedCMAES(np.ones(3), m=5).weights_of([answer])[1])
    positive, _ = search.weights_of([Ranking(((0, 2), (1,)), (3, 4))])
    np.testing.assert_allclose(positive, [[0.5, 0, 0.5, 0, 0]], atol=1e-15)  # neither of a tie is the worse
    search.tell(answer)
    np.testing.assert_allclose(search.point, 1 + steps[0], atol=1e-15)


def test_the_elite_is_the_point_while_it_beats_the_mean() -> None:
    search = ElitistCMAES(np.zeros(2), m=6, smoothing=0.3)
    query = search.ask()
    assert query.current == 0 and not query.candidates[0].any()
    search.tell(Ranking.from_order([3, 2, 1, 0], 6))
    elite, mean = query.candidates[3], search.point
    assert np.linalg.norm(mean - elite) > 0.01, "the mean is the point until the elite has won"
    query = search.ask()
    np.testing.assert_allclose(query.candidates[:2], [mean, elite], atol=1e-15)
    search.tell(Ranking.from_order([1, 0], 6))
    np.testing.assert_allclose(search.point, elite, atol=1e-15)
    query = search.ask()
    assert query.current == 1
    np.testing.assert_allclose(query.candidates[1], elite, atol=1e-15)
    search.tell(Ranking.from_order([4, 1, 0], 6))  # a better one comes, and the elite still beats the mean
    np.testing.assert_allclose(search.point, query.candidates[4], atol=1e-15)
    for _ in range(4):
        mean = search.ask().candidates[0]
        search.tell(Ranking.from_order([2, 0, 1], 6))
    assert search.ask().current == 0 and np.linalg.norm(search.point - mean) > 0, "four defeats"
    np.testing.assert_array_equal(search.point, search.ask().candidates[0])


def test_an_elite_far_away_is_learned_as_a_near_one() -> None:
    """Hansen, arXiv 1110.4181: at most sqrt(n) + 2 n / (n + 2) long, so that it does not tear the covariance."""
    search = ElitistCMAES(np.zeros(2), m=6, smoothing=0.3)
    told(search, 1)
    search._elite = np.array([1e6, 0.0])
    search.ask()
    search.tell(Ranking.from_order([1], 6))
    moved = np.linalg.norm(search._point)
    assert moved < 3 * 0.3 * (math.sqrt(2) + 1) and np.linalg.norm(search._covariance) < 100
    np.testing.assert_allclose(search._point + search._elite, [1e6, 0], atol=1)


def test_ties_share_the_weights_of_their_places() -> None:
    weights = np.array([5.0, 3.0, 1.0, -1.0, -2.0])
    assert by_rank(Ranking(((2,), (0, 4)), (1, 3)), weights).tolist() == [2.0, -1.5, 5.0, -1.5, 2.0]
    assert by_rank(Ranking((), (), True), weights).tolist() == [1.2] * 5
    assert [share_better(Ranking(((2,), (0, 4)), (1, 3)), index) for index in (2, 0, 4, 1)] == [0, 1, 1, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_what_says_nothing_changes_nothing(kind: type[EvolutionStrategy]) -> None:
    one = Ranking(((0,), (1,), (2,), (3,)))
    for answers in (
        Ranking((), (), True),
        Ranking(((0, 1, 2, 3),)),
        [one, Ranking(((3,), (2,), (1,), (0,)))],  # they cancel
    ):
        search = kind(np.zeros(3), m=4)
        search.ask()
        sigma = search._sigma
        outcome = search.tell(answers)
        assert not outcome.moved and outcome.step_norm == 0 and "no update" in outcome.message
        assert not search.point.any() and search._sigma == sigma and search.iteration == 1
        assert not (search.ask().candidates == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_abstention_takes_no_weight(kind: type[EvolutionStrategy]) -> None:
    alone, together = kind(np.zeros(3), m=5), kind(np.zeros(3), m=5)
    answer = Ranking.from_values(ellipsoid(alone.ask().candidates - 1))
    together.ask()
    alone.tell(answer)
    together.tell([Ranking((), (), True), answer])
    assert alone.digest() == together.digest()


def test_the_step_of_one_plus_lambda_follows_success() -> None:
    """Igel, Hansen, Roth 2007: with 5 offspring p* = 1 / (5 + sqrt(5) / 2), D = 1 + d / 10, c = 5 p* / (2 + 5 p*)."""
    target = 1 / (5 + math.sqrt(5) / 2)
    rate = 5 * target / (2 + 5 * target)
    for tiers, share in ((((5,),), 0.0), (((0,), (1,), (2,), (3,), (4,)), 1.0), (((3,), (1,), (5,)), 0.4)):
        search = OnePlusLambda(np.zeros(4), m=6, smoothing=0.3)
        query = search.ask()
        assert query.current == 5 and (query.candidates[5] == 0).all()
        rest = tuple(set(range(6)) - {index for tier in tiers for index in tier})
        search.tell(Ranking(tiers, rest))
        success = (1 - rate) * target + rate * share
        assert search._sigma == pytest.approx(0.3 * math.exp((success - target) / (1 - target) / 1.4), rel=1e-12)
        np.testing.assert_array_equal(search.point, query.candidates[tiers[0][0]])


def test_one_plus_lambda_never_loses_ground() -> None:
    search, values = OnePlusLambda(np.ones(5), m=6, smoothing=0.3), []
    for _ in range(200):
        values.append(float(ellipsoid(told(search, 1).point)))
    assert values == sorted(values, reverse=True) and values[-1] < values[0] / 20


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("subspace", [None, 2])
@pytest.mark.parametrize("asked", [False, True])
def test_it_goes_on_bit_for_bit(kind: type[EvolutionStrategy], subspace: int | None, asked: bool) -> None:
    first = told(kind(np.ones(4), m=5, k=3, subspace=subspace, seed=1), 7)
    if asked:
        first.ask()
    state, arrays = first.state_dict()
    state = json.loads(json.dumps(state))
    second = search_of_state(state, arrays)
    second.load_state_dict(state, arrays)
    assert isinstance(second, kind) and second.digest() == first.digest()
    assert told(second, 5).digest() == told(first, 5).digest()
    if subspace is not None:
        basis = arrays["basis"]
        away = first.point - 1
        np.testing.assert_allclose(basis @ (basis.T @ away), away, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_malformed_state_is_refused_and_changes_nothing(kind: type[EvolutionStrategy]) -> None:
    search = told(kind(np.ones(3), m=4), 3)
    search.ask()
    state, arrays = search.state_dict()
    digest = search.digest()
    for change in (
        {"format": "another"}, {"method": "another"}, {"version": 2}, {"iteration": -1}, {"asked": 1}, {"random": {}},
        {"numbers": {}}, {"numbers": {**state["numbers"], "sigma": math.inf}}, {"more": 1},
        {"settings": {**state["settings"], "m": 5}}, {"settings": None},
    ):  # fmt: skip
        with pytest.raises(CheckpointError):
            search.load_state_dict({**copy.deepcopy(state), **change}, arrays)
    for name in arrays:
        for wrong in (arrays[name][..., :-1], arrays[name].astype(np.float32), np.full_like(arrays[name], np.nan)):
            with pytest.raises(CheckpointError, match=name):
                search.load_state_dict(state, {**arrays, name: wrong})
        with pytest.raises(CheckpointError, match="exactly the arrays"):
            search.load_state_dict(state, {key: value for key, value in arrays.items() if key != name})
    assert search.digest() == digest


@pytest.mark.parametrize("kind", KINDS)
def test_settings_and_answers_are_checked(kind: type[EvolutionStrategy]) -> None:
    for wrong in ({"m": 1}, {"m": 5, "k": 6}, {"k": 0}, {"smoothing": 0.0}, {"subspace": 9}, {"m": 2.5}):
        with pytest.raises(ConfigError):
            kind(np.zeros(3), **wrong)  # type: ignore[arg-type]
    search = kind(np.zeros(3), m=4)
    with pytest.raises(AnswerError, match="nothing was asked"):
        search.tell(Ranking(((0,),), (1, 2, 3)))
    query = search.ask()
    assert search.ask() is query and query.k == 4
    with pytest.raises(AnswerError):
        search.tell(Ranking(((0,),), (1, 2)))
    assert search.ask() is query
    far = kind(np.full(3, 1.7e308), m=4, smoothing=1e308)
    with np.errstate(all="ignore"), pytest.raises(NonFiniteError, match="smoothing"):
        for _ in range(50):
            far.ask()
            far.tell(Ranking(((2,),), (0, 1, 3)))


def test_auto_says_what_it_chose() -> None:
    settings: dict[str, Any] = {"m": 6, "k": 3, "smoothing": 0.2, "subspace": None}
    for dimension, noisy, m, name in (
        (MOST_WITH_ELITE, False, LEAST_WITH_ELITE, "elitist_cmaes"),
        (MOST_WITH_ELITE, False, LEAST_WITH_ELITE - 1, "mirrored_cmaes"),
        (MOST_WITH_ELITE + 1, False, 10, "mirrored_cmaes"),
        (MOST_OF_CMAES, False, 10, "mirrored_cmaes"),
        (MOST_OF_CMAES + 1, False, 10, "zo_ranksgd"),
        (2, True, 10, "mirrored_cmaes"),
        (MOST_OF_CMAES_FOR_PEOPLE, True, 10, "mirrored_cmaes"),
        (MOST_OF_CMAES_FOR_PEOPLE + 1, True, 10, "zo_ranksgd"),
    ):
        assert choose(dimension, noisy, m)[0] == name
    made, words = make_search("auto", np.zeros(20), settings, seed=0)
    assert isinstance(made, MirroredCMAES) and words == "mirrored CMA-ES, for 20 dimensions and exact rankings"
    assert (made.m, made.k, made.smoothing) == (6, 3, 0.2)
    for subspace in (5, np.eye(MOST_OF_CMAES + 5)[:, :5]):
        made, words = make_search("auto", np.zeros(MOST_OF_CMAES + 5), {**settings, "subspace": subspace}, seed=0)
        assert isinstance(made, RankedCMAES) and "for 5 dimensions" in words
    named, _ = make_search("one_plus_lambda", np.zeros(20), settings, seed=0)
    assert isinstance(named, OnePlusLambda)


@pytest.mark.parametrize("search", ["auto", "one_plus_lambda"])
def test_a_policy_is_searched_and_goes_on_bit_for_bit(tmp_path: Path, search: str) -> None:
    settings: dict[str, Any] = {"m": 4, "k": 4, "search": search, "seed": 5}
    env = EnvSettings("Pendulum-v1", backend="gymnasium", max_episode_steps=12)
    model = rlopt.RankedPolicySearch("LinearPolicy", env, **settings)
    assert model.counted(10**6).total == 10**6
    model.learn(10**6, total_queries=2)
    again = rlopt.RankedPolicySearch.load(model.save(tmp_path / "search"), env)
    for each in (model, again):
        each.learn(10**6, reset_num_timesteps=False, total_queries=4)
        assert each.num_episodes == 16, "there are no line searches"
    assert again.optimizer.digest() == model.optimizer.digest() and model.point.any()
