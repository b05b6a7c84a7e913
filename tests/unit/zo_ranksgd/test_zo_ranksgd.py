"""ZO-RankSGD against closed forms, brute force over the edges, and its own twin under a monotone transform."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

import rlopt
from rlopt.agents.zo_ranksgd import Outcome, Query, Ranking
from rlopt.agents.zo_ranksgd.losses import edge_count, neighbouring_edge_pairs, rank_gradient, second_moment
from rlopt.feedback.ranking import total_weights

Edges = list[tuple[int, int]]


def edges_of(answer: Ranking) -> Edges:
    """All pairs (better, worse) that an answer states, by its definition."""
    groups = [*answer.tiers, answer.unranked]
    return [(i, j) for a, b in itertools.combinations(range(len(groups)), 2) for i in groups[a] for j in groups[b]]


def brute_gradient(edges: Edges, points: np.ndarray) -> np.ndarray:
    return np.mean([points[j] - points[i] for i, j in edges], axis=0)


def sphere(points: np.ndarray) -> np.ndarray:
    return np.asarray((points**2).sum(-1))


def searched(
    f: Callable[[np.ndarray], np.ndarray], queries: int, **settings: object
) -> tuple[rlopt.ZORankSGD, list[Query], list[Outcome]]:
    search = rlopt.ZORankSGD(np.linspace(-1, 2, 6), **settings)  # type: ignore[arg-type]
    asked, outcomes = [], []
    for _ in range(queries):
        asked.append(search.ask())
        outcomes.append(search.tell(Ranking.from_values(f(asked[-1].candidates), asked[-1].k)))
    return search, asked, outcomes


@pytest.mark.parametrize("m", range(2, 12))
def test_counts_of_edges_and_of_neighbouring_edges(m: int) -> None:
    for k in range(1, m + 1):
        edges = edges_of(Ranking.from_order(range(k), m))
        neighbours = sum(bool({*a} & {*b}) for a in edges for b in edges if a != b)
        assert len(edges) == edge_count(m, k) and neighbours == neighbouring_edge_pairs(m, k)


@pytest.mark.parametrize("m", range(2, 12))
def test_estimate_is_the_mean_over_all_edges(m: int) -> None:
    rng = np.random.default_rng(m)
    for k in range(1, m + 1):
        order = rng.permutation(m)[:k]
        answer = Ranking.from_order(order, m)
        weights, edges = answer.edge_weights(m)
        points = rng.standard_normal((m, 3))
        assert edges == len(edges_of(answer)) and weights.dtype == np.int64 and weights.sum() == 0
        np.testing.assert_allclose(rank_gradient(weights, edges, points), brute_gradient(edges_of(answer), points))
        # The closed form without ties; the released code has m - 2 r, whose sum is k.
        assert [weights[i] for i in order] == [-(m - 1 - 2 * r) for r in range(k)]
        assert all(weights[i] == k for i in answer.unranked)


def random_answer(rng: np.random.Generator, m: int) -> Ranking:
    """Tiers of random sizes and a random rest, which may be empty."""
    cuts = np.sort(rng.integers(0, m + 1, rng.integers(0, m)))
    groups = [group.tolist() for group in np.split(rng.permutation(m), cuts) if len(group)]
    rest = groups.pop() if rng.random() < 0.5 else []
    return Ranking(groups, rest)


def test_ties_partial_orders_and_annotators_match_the_edges() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        m = int(rng.integers(2, 9))
        answers = [random_answer(rng, m) for _ in range(rng.integers(1, 4))]
        edges = [edge for answer in answers for edge in edges_of(answer)]
        weights, count = total_weights(answers, m)
        assert count == len(edges) and weights.sum() == 0
        points = rng.standard_normal((m, 2))
        if edges:
            np.testing.assert_allclose(
                rank_gradient(weights, count, points), brute_gradient(edges, points), rtol=1e-10, atol=1e-13
            )


def test_full_ranking_is_openai_es_with_centred_ranks() -> None:
    """g = -4 / m sum_i c_i xi_i, with c from .5 for the best to -.5 for the worst."""
    rng = np.random.default_rng(1)
    for m in (2, 3, 8, 15):
        values, points = rng.standard_normal(m), rng.standard_normal((m, 4))
        centred = 0.5 - np.argsort(np.argsort(values)) / (m - 1)
        weights, edges = Ranking.from_values(values).edge_weights(m)
        np.testing.assert_allclose(rank_gradient(weights, edges, points), -4 / m * centred @ points)


TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "affine": lambda v: 3 * v - 7,
    "cube": lambda v: v**3,
    "logarithm": lambda v: np.log1p(v),
    "exponential": lambda v: np.exp(v / 10),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("settings", [{"m": 7, "k": 3}, {"m": 5, "k": 5, "best_query_in_line_search": True}])
def test_invariant_under_monotone_transforms_bit_for_bit(name: str, settings: dict[str, int]) -> None:
    one, asked, _ = searched(sphere, 60, **settings)
    other, asked_too, _ = searched(lambda points: TRANSFORMS[name](sphere(points)), 60, **settings)
    assert all(np.array_equal(a.candidates, b.candidates) for a, b in zip(asked, asked_too, strict=True))
    assert one.digest() == other.digest()
    assert sphere(one.point) < 0.5 * sphere(np.linspace(-1, 2, 6))


def mean_and_interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Five standard errors: a true expectation falls outside in one of a million seeds."""
    return samples.mean(axis=0), 5 * samples.std(axis=0, ddof=1) / math.sqrt(len(samples))


def test_pairs_on_a_linear_function_have_mean_square_4_over_pi() -> None:
    """E ghat = 2 / sqrt(pi) along the slope, so M1 = 4 / pi; nothing across it."""
    rng = np.random.default_rng(2)
    slope = np.array([0.6, 0.0, -0.8])
    draws = rng.standard_normal((20_000, 2, 3))
    found = []
    for points in draws:
        weights, edges = Ranking.from_values(points @ slope).edge_weights(2)
        found.append(rank_gradient(weights, edges, points))
    mean, half = mean_and_interval(np.array(found))
    assert np.all(np.abs(mean - 2 / math.sqrt(math.pi) * slope) < half) and half.max() < 0.06


def linear_estimates(m: int, k: int, d: int, n: int, seed: int) -> np.ndarray:
    """Estimates [n, d] on the linear function with slope (1, 0, .., 0)."""
    points = np.random.default_rng(seed).standard_normal((n, m, d))
    estimates = np.empty((n, d))
    for index, candidates in enumerate(points):
        weights, edges = Ranking.from_values(candidates[:, 0], k).edge_weights(m)
        estimates[index] = rank_gradient(weights, edges, candidates)
    return estimates


@pytest.mark.parametrize(("m", "d"), [(5, 40), (10, 100), (15, 60)])
def test_second_moment_of_a_full_ranking(m: int, d: int) -> None:
    """The plug-in formula with the moments of a linear function, by hand.

    M2 = (d - 1) / 3 across the slope, as three candidates agree in 2 of 3 orders, and E |X Y| = 4 / pi (sqrt(3) / 2 +
    asin(1/2) / 2) along it, X and Y normal with variance 2 and correlation 1/2.
    """
    m2 = (d - 1) / 3 + 4 / math.pi * (math.sqrt(3) / 2 + math.asin(0.5) / 2)
    squares = (linear_estimates(m, m, d, 4000, m) ** 2).sum(axis=1)
    mean, half = mean_and_interval(squares)
    assert abs(mean - second_moment(m, m, d, m2, 4 / math.pi)) < half < 0.05 * mean


@pytest.mark.parametrize(("m", "k"), [(8, 8), (9, 3), (9, 1)])
def test_across_the_slope_the_second_moment_is_the_sum_of_squared_weights(m: int, k: int) -> None:
    d = 30
    squares = (linear_estimates(m, k, d, 3000, 10 * m + k)[:, 1:] ** 2).sum(axis=1)
    weights = [-(m - 1 - 2 * r) for r in range(k)] + [k] * (m - k)
    expected = (d - 1) * sum(w * w for w in weights) / edge_count(m, k) ** 2
    mean, half = mean_and_interval(squares)
    assert abs(mean - expected) < half < 0.1 * expected


def test_cosine_with_the_slope_is_about_the_square_root_of_three_quarters_m_over_d() -> None:
    for m, d in ((10, 500), (20, 1000)):
        estimates = linear_estimates(m, m, d, 600, m)
        cosines = estimates[:, 0] / np.linalg.norm(estimates, axis=1)
        assert cosines.mean() == pytest.approx(math.sqrt(0.75 * m / d), rel=0.1)


def test_gradient_candidates_and_step_without_a_line_search() -> None:
    """x + mu xi and x - eta g by hand, with g the mean over the edges."""
    search = rlopt.ZORankSGD([1.0, -2.0], m=4, k=2, smoothing=0.25, learning_rate=0.5, line_search_points=0, seed=3)
    query = search.ask()
    assert search.ask() is query and not query.candidates.flags.writeable and query.current is None
    perturbations = (query.candidates - np.array([1.0, -2.0])) / 0.25
    answer = Ranking([[2], [0]], [1, 3])
    outcome = search.tell(answer)
    expected = np.array([1.0, -2.0]) - 0.5 * brute_gradient(edges_of(answer), perturbations)
    np.testing.assert_allclose(search.point, expected, rtol=1e-10)
    assert outcome.moved and outcome.edges == 5 and search.oracle_points == 4 and search.iteration == 1
    assert outcome.step_norm == pytest.approx(np.linalg.norm(expected - [1.0, -2.0]))
    assert search.ask().kind == "gradient"


def test_line_search_spans_three_decades_and_has_the_current_point() -> None:
    for points in (3, 5, 10):
        search = rlopt.ZORankSGD(np.zeros(3), m=3, k=3, line_search_points=points, learning_rate=2.0)
        perturbations = search.ask().candidates / search.smoothing
        search.tell(Ranking([[0], [1], [2]]))
        query = search.ask()
        assert query.kind == "line_search" and query.k == 1 and query.current == points - 1
        assert np.array_equal(query.candidates[-1], search.point)
        direction = brute_gradient([(0, 1), (0, 2), (1, 2)], perturbations)
        sizes = np.linalg.norm(query.candidates[:-1], axis=1) / np.linalg.norm(direction)
        np.testing.assert_allclose(sizes, 2.0 * np.logspace(0, -3, points - 1), rtol=1e-10)
        assert search.line_search.decades == pytest.approx(3)
        np.testing.assert_allclose(query.candidates[0], -2.0 * direction)
    assert rlopt.ZORankSGD(np.zeros(3), line_search_points=5, line_search_decay=0.3).line_search.decades < 2


def test_best_query_is_a_candidate_of_the_line_search_if_wanted() -> None:
    search = rlopt.ZORankSGD(np.zeros(3), m=4, k=2, line_search_points=5, best_query_in_line_search=True)
    best = search.ask().candidates[2].copy()
    search.tell(Ranking([[2], [1]], [0, 3]))
    query = search.ask()
    assert len(query.candidates) == 5 and np.array_equal(query.candidates[3], best)
    outcome = search.tell(Ranking([[3]], [0, 1, 2, 4]))
    assert outcome.moved and np.array_equal(search.point, best)


@pytest.mark.parametrize("accumulate", [True, False])
def test_directions_are_averaged_over_failed_rounds(accumulate: bool) -> None:
    search = rlopt.ZORankSGD(np.zeros(4), m=3, k=1, line_search_points=2, learning_rate=1.0, accumulate=accumulate)
    stay = Ranking([[1]], [0])
    found = []
    for _ in range(3):
        perturbations = search.ask().candidates / search.smoothing
        search.tell(Ranking([[0]], [1, 2]))
        found.append(brute_gradient([(0, 1), (0, 2)], perturbations))
        step = search.ask().candidates[0]
        np.testing.assert_allclose(step, -np.mean(found, axis=0) if accumulate else -found[-1], rtol=1e-9)
        assert not search.tell(stay).moved and not search.point.any()
    search.ask()
    search.tell(Ranking([[0]], [1, 2]))
    search.ask()
    assert search.tell(Ranking([[0]], [1])).moved
    at = search.point
    perturbations = (search.ask().candidates - at) / search.smoothing
    search.tell(Ranking([[0]], [1, 2]))
    fresh = brute_gradient([(0, 1), (0, 2)], perturbations)
    np.testing.assert_allclose(search.ask().candidates[0] - at, -fresh, rtol=1e-6)


NOTHING: dict[str, tuple[list[Ranking], str]] = {
    "all tied": ([Ranking([[0, 1, 2]])], "nothing was said to be better"),
    "all unranked": ([Ranking([], [0, 1, 2])], "nothing was said to be better"),
    "all abstain": ([Ranking([], abstain=True)] * 2, "nothing was said to be better"),
    "contradiction": ([Ranking([[0], [1], [2]]), Ranking([[2], [1], [0]])], "cancel"),
}


@pytest.mark.parametrize("name", NOTHING)
@pytest.mark.parametrize("points", [0, 3])
def test_answers_that_say_nothing_change_nothing_and_say_so(name: str, points: int) -> None:
    answers, message = NOTHING[name]
    search = rlopt.ZORankSGD(np.ones(2), m=3, k=3, line_search_points=points)
    query = search.ask()
    outcome = search.tell(answers)
    assert not outcome.moved and outcome.step_norm == 0 and message in outcome.message
    assert np.array_equal(search.point, np.ones(2)) and search.iteration == 1 and search.oracle_points == 3
    after = search.ask()
    assert after.kind == "gradient" and not np.array_equal(after.candidates, query.candidates)


def test_line_search_stays_without_evidence() -> None:
    for answers in (
        Ranking([], abstain=True),
        Ranking([[0, 2]], [1]),
        [Ranking([[0]], [1, 2]), Ranking([[2]], [0, 1])],
    ):
        search = rlopt.ZORankSGD(np.ones(2), m=3, k=3, line_search_points=3)
        search.ask()
        search.tell(Ranking([[0], [1], [2]]))
        search.ask()
        assert not search.tell(answers).moved and np.array_equal(search.point, np.ones(2))
    search.ask()
    search.tell(Ranking([[0], [1], [2]]))
    longest = search.ask().candidates[0]
    assert search.tell(Ranking([[1, 0]], [2])).moved and np.array_equal(search.point, longest)


def test_one_who_abstains_leaves_the_others_answer() -> None:
    answer = Ranking([[2], [0]], [1])
    weights, edges = total_weights([answer, Ranking([], abstain=True)], 3)
    assert edges == 3 and np.array_equal(weights, answer.edge_weights(3)[0])


def test_schedules() -> None:
    start = np.zeros(3)
    settings = {"m": 3, "k": 3, "smoothing": 0.5, "learning_rate": 2.0, "line_search_points": 2, "seed": 5}
    for kind, factors in (
        ("constant", [1, 1, 1, 1]),
        ("inverse_sqrt", [1, 2**-0.5, 3**-0.5, 0.5]),
        ("linear", [1, 1 - 0.99 / 2, 0.01, 0.01]),
    ):
        scheduled = rlopt.ZORankSGD(
            start, smoothing_schedule=kind, learning_rate_schedule=kind, schedule_rounds=2, **settings
        )
        plain = rlopt.ZORankSGD(start, **settings)
        for factor in factors:
            np.testing.assert_allclose(scheduled.ask().candidates, factor * plain.ask().candidates, rtol=1e-12)
            for search in (scheduled, plain):
                search.tell(Ranking([[0], [1], [2]]))
            np.testing.assert_allclose(scheduled.ask().candidates, factor * plain.ask().candidates, rtol=1e-12)
            for search in (scheduled, plain):
                search.tell(Ranking([[1]], [0]))


def test_search_stays_in_its_subspace() -> None:
    x0 = np.arange(8.0)
    search = rlopt.ZORankSGD(x0, m=5, k=5, subspace=3, seed=1)
    same = rlopt.ZORankSGD(x0, m=5, k=5, subspace=3, seed=1)
    differences = []
    for _ in range(20):
        query = search.ask()
        assert np.array_equal(query.candidates, same.ask().candidates)
        for each in (search, same):
            each.tell(Ranking.from_values(sphere(query.candidates), query.k))
        differences += list(query.candidates - x0)
    singular = np.linalg.svd(np.array(differences), compute_uv=False)
    assert singular[2] > 1e-3 and singular[3] < 1e-12
    basis = search.state_dict()[1]["basis"]
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-12)
    optimum = x0 - basis @ (basis.T @ x0)
    assert sphere(search.point) - sphere(optimum) < 0.5 * (sphere(x0) - sphere(optimum))
    given = np.array([[1.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
    moves = rlopt.ZORankSGD(np.zeros(3), subspace=given).ask().candidates
    assert np.all(moves[:, 2] == 0) and np.linalg.matrix_rank(moves) == 2
