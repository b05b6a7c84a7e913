"""The peers of ZO-RankSGD against their formulas, written out anew, or the package that has them."""

import math
from typing import Any

import numpy as np
import pytest

import rlopt
from rlopt.agents.zo_ranksgd import Ranking, comparators
from rlopt.agents.zo_ranksgd.comparators import ARS, CBO, CMAES, GLD, ZOSGD, OpenAIES, Peer
from rlopt.agents.zo_ranksgd.comparators.base import mean_ranks
from rlopt.errors import AnswerError, ConfigError, NonFiniteError

START = np.linspace(-1.0, 2.0, 5)
PEERS: dict[str, tuple[type[Peer], dict[str, Any]]] = {
    "ARS": (ARS, {"smoothing": 0.1}),
    "CBO": (CBO, {"particles": 20, "alpha": 10.0, "noise": 1.5}),
    "CMAES": (CMAES, {}),
    "GLD": (GLD, {"radius": 4.0, "smallest_radius": 0.01}),
    "OpenAIES": (OpenAIES, {"learning_rate": 0.05}),
    "ZOSGD": (ZOSGD, {"learning_rate": 0.05}),
}


def sphere(points: np.ndarray) -> np.ndarray:
    return np.asarray((points**2).sum(-1))


def tell(search: Any, values: np.ndarray) -> None:
    search.tell(values if search.takes_values else Ranking.from_values(values, search.ask().k))


@pytest.mark.parametrize("name", PEERS)
def test_each_descends_and_repeats_itself(name: str) -> None:
    kind, settings = PEERS[name]
    one, two = kind(START, seed=3, **settings), kind(START, seed=3, **settings)
    shown = 0
    while one.oracle_points < 1500:
        query = one.ask()
        assert one.ask() is query and not query.candidates.flags.writeable and query.iteration == one.iteration
        assert np.array_equal(query.candidates, two.ask().candidates)
        shown += len(query.candidates)
        for search in (one, two):
            tell(search, sphere(query.candidates))
        assert one.oracle_points == shown
    assert np.array_equal(one.point, two.point) and sphere(one.point) < 0.2 * sphere(START)
    first, other = (kind(START, seed=seed, **settings).ask().candidates for seed in (3, 4))
    assert not np.array_equal(first, other)
    with pytest.raises(AnswerError, match="call ask"):
        one.tell(Ranking([[0]]))


def test_the_tests_know_all_peers() -> None:
    assert set(PEERS) == set(comparators.__all__) - {"Peer"}


def test_mean_ranks_are_those_of_scipy() -> None:
    from scipy.stats import rankdata

    values = np.array([3.0, 1.0, 3.0, 2.0, 1.0, 3.0])
    np.testing.assert_array_equal(mean_ranks(Ranking.from_values(values), 6), rankdata(values) - 1)
    np.testing.assert_array_equal(mean_ranks(Ranking([[2]], [0, 1, 3]), 4), [2, 2, 0, 2])
    np.testing.assert_array_equal(mean_ranks(Ranking([], abstain=True), 3), [1, 1, 1])


def test_zo_sgd_on_a_quadratic() -> None:
    """On f = |x|^2 a forward difference is 2 x.u + mu |u|^2, a central one 2 x.u."""
    for central, bias in ((False, 0.5), (True, 0.0)):
        search = ZOSGD(START, directions=3, smoothing=0.5, learning_rate=0.1, central=central)
        candidates = search.ask().candidates
        assert len(candidates) == (6 if central else 4)
        directions = (candidates[:3] - START) / 0.5
        expected = START.copy()
        for u in directions:
            expected -= 0.1 / 3 * (2 * START @ u + bias * u @ u) * u
        search.tell(sphere(candidates))
        np.testing.assert_allclose(search.point, expected)


def test_ars_uses_the_best_pairs_and_the_spread_of_their_values() -> None:
    search = ARS(START, directions=4, top=2, smoothing=0.5, learning_rate=0.3)
    candidates = search.ask().candidates
    np.testing.assert_allclose(candidates[:4] - START, START - candidates[4:])
    values = np.array([5.0, 1.0, 7.0, 4.0, 3.0, 9.0, 8.0, 0.0])  # pairs (5, 3), (1, 9), (7, 8), (4, 0)
    search.tell(values)
    directions = (candidates[:4] - START) / 0.5
    spread = np.std([1.0, 9.0, 4.0, 0.0])
    slope = (1.0 - 9.0) * directions[1] + (4.0 - 0.0) * directions[3]
    np.testing.assert_allclose(search.point, START - 0.3 / (2 * spread) * slope)
    search.ask()
    before = search.point
    search.tell(np.ones(8))
    assert np.array_equal(search.point, before), "values without a spread have no slope"


def test_openai_es_moves_by_centred_ranks() -> None:
    search = OpenAIES(START, population=5, smoothing=0.5, learning_rate=0.3, antithetic=False, adam=False)
    candidates = search.ask().candidates
    centred = [0.25, -0.5, 0.5, -0.25, 0.0]
    expected = START + 0.3 / (5 * 0.5) * sum(c * (x - START) / 0.5 for c, x in zip(centred, candidates, strict=True))
    search.tell(Ranking([[2], [0], [4], [3], [1]]))
    np.testing.assert_allclose(search.point, expected)
    pairs = OpenAIES(START, population=6).ask().candidates - START
    np.testing.assert_allclose(pairs[:3], -pairs[3:], atol=1e-12)


def test_openai_es_with_adam_steps_like_torch() -> None:
    import torch

    search = OpenAIES(START, population=6, smoothing=0.5, learning_rate=0.02)
    parameter = torch.nn.Parameter(torch.tensor(START))
    adam = torch.optim.Adam([parameter], lr=0.02)
    for _ in range(20):
        candidates = search.ask().candidates
        perturbations = (candidates - search.point) / 0.5
        values = sphere(candidates)
        centred = 0.5 - np.argsort(np.argsort(values)) / 5
        parameter.grad = torch.tensor(-(centred @ perturbations) / (6 * 0.5))
        adam.step()
        search.tell(Ranking.from_values(values))
        np.testing.assert_allclose(search.point, parameter.detach().numpy(), rtol=1e-9, atol=1e-12)


def test_zo_ranksgd_of_a_full_ranking_without_line_search_is_openai_es() -> None:
    """Whole trajectories on the same random numbers: eta of one is 4 sigma eta of the other."""
    ours = rlopt.ZORankSGD(START, m=7, k=7, smoothing=0.2, learning_rate=0.05, line_search_points=0, seed=6)
    rate = 4 * 0.2 * 0.05
    peer = OpenAIES(START, population=7, smoothing=0.2, learning_rate=rate, antithetic=False, adam=False, seed=6)
    for _ in range(50):
        np.testing.assert_allclose(ours.ask().candidates, peer.ask().candidates, rtol=1e-9, atol=1e-12)
        for search in (ours, peer):
            search.tell(Ranking.from_values(sphere(search.ask().candidates)))
    assert sphere(ours.point) < 0.5 * sphere(START)


def test_gld_samples_balls_of_halved_radii_uniformly() -> None:
    search = GLD(START, radius=8.0, smallest_radius=0.5, seed=1)
    np.testing.assert_array_equal(search.radii, [8, 4, 2, 1, 0.5])
    lengths = []
    for _ in range(2000):
        query = search.ask()
        assert query.k == 1 and query.current == 5 and np.array_equal(query.candidates[5], search.point)
        lengths.append(np.linalg.norm(query.candidates[:5] - START, axis=1) / search.radii)
        search.tell(Ranking([[5]], [0, 1, 2, 3, 4]))
    assert np.array_equal(search.point, START) and np.max(lengths) <= 1
    # |v| / R of a uniform point of a ball in d dimensions has the moments d / (d + 1) and d / (d + 2).
    mean, d = 5 / 6, 5
    deviation = math.sqrt((d / (d + 2) - mean**2) / 2000)
    assert np.all(np.abs(np.mean(lengths, axis=0) - mean) < 5 * deviation)
    best = search.ask().candidates[3]
    search.tell(Ranking([[3]], [0, 1, 2, 4, 5]))
    assert np.array_equal(search.point, best)
    search.ask()
    search.tell(Ranking([[5, 0]], [1, 2, 3, 4]))
    assert np.array_equal(search.point, best), "a tie with the current point stays"


def test_cbo_drifts_to_the_weighted_mean() -> None:
    search = CBO(START, particles=4, alpha=0.7, drift=2.0, noise=0.0, step=0.1)
    particles = search.ask().candidates.copy()
    values = np.array([3.0, 1.0, 2.0, 6.0])
    search.tell(values)
    weights = [math.exp(-0.7 * value) for value in values]
    consensus = sum(w * x for w, x in zip(weights, particles, strict=True)) / sum(weights)
    np.testing.assert_allclose(search.point, consensus)
    np.testing.assert_allclose(search.ask().candidates, 0.8 * particles + 0.2 * consensus)
    cold = CBO(START, particles=4, alpha=1e6)
    best = cold.ask().candidates[1].copy()
    cold.tell(values + 1e9)
    np.testing.assert_allclose(cold.point, best)


@pytest.mark.parametrize("anisotropic", [True, False])
def test_cbo_noise_has_the_scale_of_the_distance(anisotropic: bool) -> None:
    """One particle is infinitely better: the other's distance from it, by coordinate or its norm, scales the noise."""
    search = CBO(np.zeros(2), particles=2, alpha=1e6, drift=1e-9, noise=0.5, step=0.04, anisotropic=anisotropic)
    moves = []
    for _ in range(3000):
        search.particles = np.array([[0.0, 0.0], [3.0, 4.0]])
        search._query = None
        search.ask()
        search.tell(np.array([0.0, 1.0]))
        moves.append(search.particles - [[0.0, 0.0], [3.0, 4.0]])
    assert not np.array(moves)[:, 0].any()
    expected = 0.5 * 0.2 * (np.array([3.0, 4.0]) if anisotropic else np.array([5.0, 5.0]))
    np.testing.assert_allclose(np.std(np.array(moves)[:, 1], axis=0), expected, rtol=0.07)


def test_cma_es_of_ranks_is_cma_es_of_values() -> None:
    cma = pytest.importorskip("cma", reason="cma is not installed")
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr,index]
    search = CMAES(START, population=8, smoothing=0.5, seed=2)
    rng = np.random.Generator(np.random.PCG64(2))
    options = {"verbose": -9, "seed": np.nan, "popsize": 8, "randn": lambda *shape: rng.standard_normal(shape)}
    reference = cma.CMAEvolutionStrategy(START, 0.5, options)
    for _ in range(30):
        asked = np.array(reference.ask())
        np.testing.assert_array_equal(search.ask().candidates, asked)
        reference.tell(list(asked), list(sphere(asked) ** 3 + 5))
        search.tell(Ranking.from_values(sphere(asked)))
        np.testing.assert_array_equal(search.point, reference.mean)
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        (ZOSGD, {"directions": 0}, "directions=0 must be at least 1"),
        (ZOSGD, {"smoothing": -1.0}, "smoothing=-1.0 must be a positive number"),
        (ARS, {"directions": 2, "top": 3}, "top=3 is more than directions=2"),
        (OpenAIES, {"population": 5}, "population=5 must be even"),
        (GLD, {"radius": 1.0, "smallest_radius": 2.0}, "smallest_radius=2.0 is more"),
        (CBO, {"noise": -0.1}, "noise=-0.1"),
        (CBO, {"particles": 1}, "particles=1 must be at least 2"),
        (CMAES, {"population": 2}, "population=2 must be at least 3"),
    ],
)
def test_bad_settings_are_refused(kind: type[Peer], settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        kind(START, **settings)


def test_bad_answers_are_refused() -> None:
    with pytest.raises(NonFiniteError, match="first point"):
        ARS([math.nan])
    search = ZOSGD(START, directions=2)
    search.ask()
    for answer, reason in (
        ([1.0, 2.0], r"not shape \(2,\)"),
        ([1.0, math.nan, 2.0], "not finite"),
        (Ranking([[0], [1], [2]]), "one number for each candidate"),
    ):
        with pytest.raises(AnswerError, match=reason):
            search.tell(answer)
    ranked = GLD(START, radius=2.0, smallest_radius=1.0)
    ranked.ask()
    for answer, reason in (([1.0, 2.0, 3.0], "takes a Ranking"), (Ranking([[0], [1]]), "candidate 2 is missing")):
        with pytest.raises(AnswerError, match=reason):
            ranked.tell(answer)
    assert search.iteration == ranked.iteration == 0
