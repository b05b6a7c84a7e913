"""Comparisons, profiles, several tasks with unequal seeds: against rliable, brute force and what is known by hand."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from rlopt.errors import ConfigError, NonFiniteError
from rlopt.statistics.aggregates import (
    bootstrap_band,
    bootstrap_interval,
    bootstrap_replicates,
    improvement_interval,
    iqm,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    profile_band,
    stacked,
)


def both_sides(seed: int, n: int, m: int, tasks: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores ``[n, tasks]`` and ``[m, tasks]``, rounded so that some are equal."""
    rng = np.random.default_rng(seed)
    return np.round(rng.normal(0.4, 1.0, (n, tasks)), 1), np.round(rng.normal(0.0, 1.5, (m, tasks)), 1)


def by_name(scores: np.ndarray) -> dict[str, np.ndarray]:
    return {f"task {index}": column for index, column in enumerate(scores.T)}


def test_optimality_gap_by_hand_and_as_rliable() -> None:
    assert optimality_gap([0.25, 0.75, 3.0]) == pytest.approx(1 - (0.25 + 0.75 + 1.0) / 3)
    assert optimality_gap([[0.0, 10.0], [2.0, 4.0]], target=4.0) == pytest.approx(4 - (0 + 4 + 2 + 4) / 4)
    metrics = pytest.importorskip("rliable.metrics", reason="rliable is not installed")
    for seed in range(5):
        scores = np.random.default_rng(seed).gamma(2.0, 0.5, size=(seed + 2, 5))
        assert optimality_gap(scores) == pytest.approx(metrics.aggregate_optimality_gap(scores), rel=1e-12)
        assert optimality_gap(scores, target=0.6) == pytest.approx(metrics.aggregate_optimality_gap(scores, 0.6))
        assert optimality_gap(scores, axis=0) == pytest.approx([optimality_gap(column) for column in scores.T])


@pytest.mark.parametrize(("n", "m", "tasks"), [(10, 10, 6), (3, 5, 4), (7, 2, 1), (1, 9, 3)])
def test_probability_of_improvement_equals_rliable(n: int, m: int, tasks: int) -> None:
    metrics = pytest.importorskip("rliable.metrics", reason="rliable is not installed")
    for seed in range(5):
        ours, theirs = both_sides(seed, n, m, tasks)
        wanted = metrics.probability_of_improvement(ours, theirs)
        assert probability_of_improvement(ours, theirs) == pytest.approx(wanted, rel=1e-12)
        assert probability_of_improvement(by_name(ours), by_name(theirs)) == pytest.approx(wanted, rel=1e-12)
        assert probability_of_improvement(theirs, ours) == pytest.approx(1 - wanted, rel=1e-12)


def test_probability_of_improvement_counts_pairs_with_every_number_of_seeds() -> None:
    # 2 > 1; 2 = 2 one half; 5 beats both: (1 + 0.5 + 1 + 1) / 4; the other task: 0 of 3
    ours = {"a": [2.0, 5.0], "b": [0.0]}
    theirs = {"b": [1.0, 2.0, 3.0], "a": [1.0, 2.0]}
    assert probability_of_improvement(ours, theirs) == pytest.approx((3.5 / 4 + 0) / 2)


def test_improvement_interval_equals_all_resamples_by_brute_force() -> None:
    ours, theirs = [1.0, 4.0], [0.0, 3.0, 5.0]
    every = [
        np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b])
        for a in product(ours, repeat=2)
        for b in product(theirs, repeat=3)
    ]
    low, high = improvement_interval(ours, theirs, confidence=0.7, n_resamples=50_000)
    assert low == pytest.approx(np.quantile(every, 0.15, method="inverted_cdf"))
    assert high == pytest.approx(np.quantile(every, 0.85, method="inverted_cdf"))


def test_improvement_interval_agrees_with_rliable() -> None:
    library = pytest.importorskip("rliable.library", reason="rliable is not installed")
    metrics = pytest.importorskip("rliable.metrics", reason="rliable is not installed")
    ours, theirs = both_sides(3, 8, 5, 4)
    np.random.seed(0)

    def wanted_of(x: Any, y: Any) -> Any:
        return np.array([metrics.probability_of_improvement(x, y)])

    _, wanted = library.get_interval_estimates({"pair": [ours, theirs]}, wanted_of, reps=800)
    low, high = improvement_interval(ours, theirs, n_resamples=20_000)
    width = wanted["pair"][1, 0] - wanted["pair"][0, 0]
    assert abs(low - wanted["pair"][0, 0]) < 0.1 * width
    assert abs(high - wanted["pair"][1, 0]) < 0.1 * width


def test_profiles_and_their_bands_agree_with_rliable() -> None:
    library = pytest.importorskip("rliable.library", reason="rliable is not installed")
    scores, taus = np.random.default_rng(0).normal(size=(6, 4)), np.linspace(-2, 2, 9)
    np.random.seed(0)
    wanted, edges = library.create_performance_profile({"a": scores}, taus, reps=2000)
    for ours in (scores, by_name(scores)):
        assert performance_profile(ours, taus) == pytest.approx(wanted["a"], rel=1e-12)
        low, high = profile_band(ours, taus, n_resamples=20_000)
        # the share of 24 runs changes in steps of 1 / 24: a quantile may fall on the next
        assert low == pytest.approx(edges["a"][0], abs=1 / 24 + 1e-9)
        assert high == pytest.approx(edges["a"][1], abs=1 / 24 + 1e-9)


def test_profile_by_hand_gives_every_task_the_same_weight() -> None:
    scores = {"a": [0.0, 1.0, 2.0, 3.0], "b": [1.0]}
    # above 1, strictly: 2 of 4 and 0 of 1; above 0.5: 3 of 4 and 1 of 1
    assert performance_profile(scores, [0.5, 1.0]).tolist() == [(0.75 + 1) / 2, 0.25]
    low, high = profile_band(scores, [-1.0, 0.5, 5.0])
    assert (low[0], high[0], low[2], high[2]) == (1.0, 1.0, 0.0, 0.0)
    assert low[1] < (0.75 + 1) / 2 < high[1] == 1.0


def test_stacked_scores_weigh_tasks_alike() -> None:
    assert stacked({"a": [1.0, 3.0], "b": [2.0, 5.0]}).tolist() == [[1, 2], [3, 5]]  # equal numbers: as they are
    matrix = stacked({"a": [1.0, 3.0], "b": [0.0, 6.0, 9.0]})
    assert matrix.tolist() == [[1, 0], [1, 0], [1, 6], [3, 6], [3, 9], [3, 9]]
    assert mean(matrix) == pytest.approx((2 + 5) / 2)  # the mean of the tasks' means
    assert median(stacked({"a": [1, 3], "b": [0, 6, 9], "c": [7]})) == pytest.approx(5.0)
    # 12 values, three cut at each end: of 0 0 1 1 1 3 3 3 6 6 9 9 are left 1 1 3 3 3 6
    assert iqm(matrix) == pytest.approx(17 / 6)
    assert stacked({"a": [[1, 2]], "b": [[3, 4], [5, 6]]}).shape == (2, 2, 2)


@pytest.mark.parametrize("statistic", [iqm, mean, median, optimality_gap])
def test_unequal_seeds_are_resampled_as_all_resamples_by_brute_force(statistic: Any) -> None:
    scores = {"a": [0.1, 0.9], "b": [0.3, 0.5, 1.4]}
    every = [
        statistic(stacked({"a": list(a), "b": list(b)}))
        for a in product(scores["a"], repeat=2)
        for b in product(scores["b"], repeat=3)
    ]
    replicates = bootstrap_replicates(scores, statistic, n_resamples=50_000)
    assert replicates.mean() == pytest.approx(np.mean(every), abs=0.01)
    assert np.std(replicates) == pytest.approx(np.std(every), rel=0.02)
    low, high = bootstrap_interval(scores, statistic, confidence=0.8, n_resamples=50_000)
    probability = [np.mean(np.asarray(every) <= edge + 1e-9) for edge in (low, high)]
    below = [np.mean(np.asarray(every) < edge - 1e-9) for edge in (low, high)]
    assert below[0] <= 0.1 + 0.01 and probability[0] >= 0.1 - 0.01
    assert below[1] <= 0.9 + 0.01 and probability[1] >= 0.9 - 0.01


def test_equal_seeds_in_a_mapping_are_the_matrix() -> None:
    scores = np.random.default_rng(2).normal(size=(9, 4))
    from_matrix = bootstrap_interval(scores, n_resamples=40_000)
    from_mapping = bootstrap_interval(by_name(scores), n_resamples=40_000)
    assert from_mapping == pytest.approx(from_matrix, abs=0.02 * (from_matrix.high - from_matrix.low))


def test_another_number_of_draws_scatters_as_it_would() -> None:
    scores = np.random.default_rng(0).normal(2.0, 3.0, size=50)
    for draws in (5, 200):
        spread = np.std(bootstrap_replicates(scores, mean, 20_000, n_draws=draws))
        assert spread == pytest.approx(np.std(scores) / np.sqrt(draws), rel=0.03)
    two = bootstrap_replicates({"a": scores, "b": [1.0, 1.0]}, mean, 20_000, n_draws=10)
    assert np.std(two) == pytest.approx(np.std(scores) / np.sqrt(10) / 2, rel=0.03)


def test_bands_over_tasks_and_seeds_agree_with_rliable() -> None:
    library = pytest.importorskip("rliable.library", reason="rliable is not installed")
    metrics = pytest.importorskip("rliable.metrics", reason="rliable is not installed")
    curves = np.random.default_rng(4).normal(size=(8, 3, 5)).cumsum(axis=2)
    np.random.seed(1)

    def wanted_of(x: Any) -> Any:
        return np.array([metrics.aggregate_iqm(x[..., point]) for point in range(5)])

    _, wanted = library.get_interval_estimates({"a": curves}, wanted_of, reps=2000)
    low, high = bootstrap_band(curves, n_resamples=10_000)
    width = wanted["a"][1] - wanted["a"][0]
    assert np.all(np.abs(low - wanted["a"][0]) < 0.12 * width)
    assert np.all(np.abs(high - wanted["a"][1]) < 0.12 * width)


def test_bands_of_unequal_seeds_are_the_interval_of_each_point() -> None:
    rng = np.random.default_rng(0)
    curves = {"a": rng.normal(size=(4, 3)), "b": rng.normal(size=(6, 3))}
    low, high = bootstrap_band(curves, mean, n_resamples=30_000)
    for point in range(3):
        single = bootstrap_interval({task: value[:, point] for task, value in curves.items()}, mean, n_resamples=30_000)
        assert (low[point], high[point]) == pytest.approx(single, abs=0.03)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: stacked({}), "no scores"),
        (lambda: stacked({"a": []}), "no scores"),
        (lambda: stacked({"a": [1.0], "b": [[1.0]]}), r"b \(1, 1\)"),
        (lambda: stacked({"a": [[1.0, 2.0]], "b": [[1.0]]}), "common grid"),
        (lambda: bootstrap_interval({"a": [[1.0]]}), "shape"),
        (lambda: bootstrap_band({"a": [1.0]}), "points"),
        (lambda: bootstrap_band(np.zeros((2, 2, 2, 2))), "points"),
        (lambda: bootstrap_replicates([1.0], n_draws=0), "n_draws"),
        (lambda: stacked({str(n): np.zeros(n) for n in (97, 89, 83)}), "common multiple"),
        (lambda: probability_of_improvement({"a": [1.0]}, {"b": [1.0]}), "'a'"),
        (lambda: probability_of_improvement(np.zeros((2, 3)), np.zeros((2, 2))), "3 tasks"),
        (lambda: probability_of_improvement([], [1.0]), "no scores"),
        (lambda: probability_of_improvement(np.zeros((2, 2, 2)), [1.0]), "for each task"),
        (lambda: improvement_interval([1.0], [1.0], confidence=0.0), "confidence"),
        (lambda: improvement_interval([1.0], [1.0], n_resamples=0), "n_resamples"),
        (lambda: performance_profile([1.0], []), "no scores"),
        (lambda: profile_band([1.0], [1.0], confidence=1.0), "confidence"),
    ],
)
def test_bad_arguments_are_named(call: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        call()


def test_non_finite_scores_are_refused() -> None:
    for call in (
        lambda: probability_of_improvement([1.0], [np.nan]),
        lambda: bootstrap_interval({"a": [1.0], "b": [np.inf]}),
        lambda: performance_profile([1.0], [np.nan]),
        lambda: optimality_gap([np.nan]),
    ):
        with pytest.raises(NonFiniteError):
            call()
