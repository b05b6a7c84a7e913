"""Aggregates and intervals against hand-computed values, scipy and rliable."""

import subprocess
import sys
from itertools import product
from statistics import mean as exact_mean

import numpy as np
import pytest
from scipy import stats

from rlopt.errors import ConfigError, NonFiniteError
from rlopt.statistics.aggregates import bootstrap_band, bootstrap_interval, iqm, mean, median


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 2.0, 6.0], 3.0),  # floor(3/4) = 0 dropped at each end
        ([100.0, 1.0, 3.0, -50.0], 2.0),  # one dropped at each end: (1 + 3) / 2
        ([5, 4, 3, 2, 1], 3.0),  # one dropped at each end: (2 + 3 + 4) / 3
        ([0, 0, 10, 20, 30, 40, 900, 900], 25.0),  # two at each end: (10 + 20 + 30 + 40) / 4
        ([[0, 10], [900, 20]], 15.0),  # pooled over seeds and tasks
    ],
)
def test_iqm_by_hand(scores: object, expected: float) -> None:
    assert iqm(scores) == pytest.approx(expected)


@pytest.mark.parametrize("n", range(1, 42))
def test_iqm_equals_scipys_trimmed_mean_for_every_n(n: int) -> None:
    scores = np.random.default_rng(n).standard_cauchy(n)
    assert iqm(scores) == pytest.approx(stats.trim_mean(scores, 0.25), rel=1e-12)


def test_iqm_over_chosen_axes() -> None:
    scores = np.random.default_rng(0).normal(size=(3, 9, 4))
    assert np.allclose(iqm(scores, axis=1), stats.trim_mean(scores, 0.25, axis=1))
    assert np.allclose(iqm(scores, axis=(1, 2)), [stats.trim_mean(part.ravel(), 0.25) for part in scores])
    assert np.allclose(iqm(scores, axis=(0, 1)), stats.trim_mean(scores.reshape(27, 4), 0.25, axis=0))


def test_mean_and_median_by_hand() -> None:
    assert mean([[1, 2], [3, 6]]) == 3.0
    assert median([1.0, 9.0, 2.0]) == 2.0
    # per-task means 2, 20, 200 -> 20, whereas the plain median of the nine values would be 10
    assert median([[1, 10, 100], [1, 10, 100], [4, 40, 400]]) == 20.0


def test_aggregates_equal_rliable() -> None:
    metrics = pytest.importorskip("rliable.metrics", reason="rliable is not installed")
    for shape in [(10, 6), (3, 5), (7, 1)]:
        scores = np.random.default_rng(shape[0]).gamma(2.0, size=shape)
        assert iqm(scores) == pytest.approx(metrics.aggregate_iqm(scores), rel=1e-12)
        assert mean(scores) == pytest.approx(metrics.aggregate_mean(scores), rel=1e-12)
        assert median(scores) == pytest.approx(metrics.aggregate_median(scores), rel=1e-12)


def test_intervals_agree_with_rliable() -> None:
    library = pytest.importorskip("rliable.library", reason="rliable is not installed")
    metrics = pytest.importorskip("rliable.metrics", reason="rliable is not installed")
    # tasks on different scales: an unstratified bootstrap would give a far wider interval
    scores = np.random.default_rng(3).normal(size=(10, 6)) + 20 * np.arange(6)
    for ours, theirs in [
        (iqm, metrics.aggregate_iqm),
        (mean, metrics.aggregate_mean),
        (median, metrics.aggregate_median),
    ]:
        state = np.random.RandomState(0)
        _, wanted = library.get_interval_estimates(
            {"a": scores}, lambda x, f=theirs: np.array([f(x)]), reps=2000, random_state=state
        )
        low, high = bootstrap_interval(scores, ours, n_resamples=20_000)
        width = wanted["a"][1, 0] - wanted["a"][0, 0]
        assert abs(low - wanted["a"][0, 0]) < 0.1 * width
        assert abs(high - wanted["a"][1, 0]) < 0.1 * width


def test_interval_equals_all_resamples_by_brute_force() -> None:
    scores = [1.0, 4.0, 13.0]
    every = [exact_mean(sample) for sample in product(scores, repeat=3)]  # 27 equally likely resamples
    low, high = bootstrap_interval(scores, mean, confidence=0.8, n_resamples=50_000)
    assert low == pytest.approx(np.quantile(every, 0.1, method="inverted_cdf"))
    assert high == pytest.approx(np.quantile(every, 0.9, method="inverted_cdf"))


def test_stratified_resampling_stays_within_tasks() -> None:
    # no spread within a task: every stratified replicate is the same matrix
    assert bootstrap_interval([[0.0, 100.0]] * 4, mean) == (50.0, 50.0)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(300):
        low, high = bootstrap_interval(rng.normal(3.0, 2.0, size=40), mean, confidence=0.9, n_resamples=400, seed=trial)
        hits += low <= 3.0 <= high
    # 0.9 nominal, about 0.885 for the percentile bootstrap at n = 40; the standard error of 300 trials is 0.018
    assert 0.82 < hits / 300 < 0.95


def test_interval_is_seeded_and_leaves_numpys_global_generator() -> None:
    scores = np.random.default_rng(1).normal(size=(10, 6))
    before = np.random.get_state()[1].tolist()
    first = bootstrap_interval(scores, seed=4)
    assert first == bootstrap_interval(scores, seed=4)
    assert first != bootstrap_interval(scores, seed=5)
    assert np.random.get_state()[1].tolist() == before
    low, high = first
    assert low < iqm(scores) < high


def test_many_scores_are_resampled_in_chunks() -> None:
    scores = np.random.default_rng(0).normal(size=30_000)  # 100 x 30,000 is more than one chunk
    low, high = bootstrap_interval(scores, mean, n_resamples=100)
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(30_000), rel=0.35)  # 2.5% tails of 100 replicates are rough
    assert low < scores.mean() < high


def test_numpy_functions_serve_as_statistics() -> None:
    scores = [1.0, 2.0, 3.0, 10.0]
    assert bootstrap_interval(scores, np.mean) == bootstrap_interval(scores, mean)
    assert bootstrap_interval(scores, np.max).high == 10.0


def test_band_is_the_interval_of_each_point() -> None:
    curves = np.array([[0.0, 1.0, 5.0], [2.0, 1.0, -5.0], [4.0, 1.0, 0.0], [6.0, 1.0, 1.0]])
    low, high = bootstrap_band(curves, mean, n_resamples=20_000)
    for point in range(3):
        single = bootstrap_interval(curves[:, point], mean, n_resamples=20_000)
        assert low[point] == pytest.approx(single.low, abs=0.26)  # one step of the discrete bootstrap distribution
        assert high[point] == pytest.approx(single.high, abs=0.26)
    assert low[1] == high[1] == 1.0


def test_a_single_score_has_an_interval_of_no_width() -> None:
    assert bootstrap_interval([3.5]) == (3.5, 3.5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: iqm([]), "no scores"),
        (lambda: bootstrap_interval([1.0], confidence=1.0), "confidence"),
        (lambda: bootstrap_interval([1.0], n_resamples=0), "n_resamples"),
        (lambda: bootstrap_interval(np.zeros((2, 2, 2))), "shape"),
        (lambda: bootstrap_band([1.0, 2.0]), "points"),
        (lambda: median(np.zeros((2, 2, 2))), "axes"),
    ],
)
def test_bad_arguments_are_named(call: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        call()  # type: ignore[operator]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_scores_are_refused(bad: float) -> None:
    with pytest.raises(NonFiniteError):
        iqm([1.0, bad])
    with pytest.raises(NonFiniteError):
        bootstrap_interval([1.0, bad])


def test_importing_needs_no_torch() -> None:
    code = (
        "import sys, rlopt.statistics.aggregates;"
        "assert 'torch' not in sys.modules and 'scipy' not in sys.modules; print('ok')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "ok", done.stderr
