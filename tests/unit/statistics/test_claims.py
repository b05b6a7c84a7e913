"""The number of seeds of a claim: textbook sample sizes, and simulated experiments of that size."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from rlopt.errors import ConfigError, NonFiniteError
from rlopt.statistics.aggregates import iqm, mean, median
from rlopt.statistics.sample_size import MOST_SEEDS, fewest_seeds, seeds_needed

# 400 scores whose mean is 0 and whose standard deviation is 1, spread as a normal distribution's
NORMAL = stats.norm.ppf((np.arange(400) + 0.5) / 400)
NORMAL = NORMAL / NORMAL.std(ddof=1)


@pytest.mark.parametrize(("effect", "textbook"), [(0.5, 64), (0.8, 26), (1.0, 17), (2.0, 6)])
def test_means_need_cohens_sample_sizes(effect: float, textbook: int) -> None:
    # Cohen 1988, table 2.4.1: two-sided t-test at 5 % with 80 % power
    found = seeds_needed(NORMAL + effect, NORMAL, mean, n_resamples=10_000)
    assert found is not None
    assert abs(found - textbook) <= max(1, 0.04 * textbook)


def found_differences(draw: Any, count: int, statistic: Any, shift: float, axis: Any) -> float:
    """How often experiments of ``count`` seeds find ``shift``, at the level that equal groups exceed in 5 %."""
    rng = np.random.default_rng(0)
    level = np.quantile(np.abs(statistic(draw(rng, count), axis=axis) - statistic(draw(rng, count), axis=axis)), 0.95)
    differences = statistic(draw(rng, count) + shift, axis=axis) - statistic(draw(rng, count), axis=axis)
    return float(np.mean(np.abs(differences) > level))


@pytest.mark.parametrize("statistic", [iqm, mean])
@pytest.mark.parametrize("family", ["normal", "two kinds of runs", "heavy tails"])
@pytest.mark.parametrize("shift", [0.7, 1.2])
def test_simulated_experiments_of_that_size_find_the_difference(statistic: Any, family: str, shift: float) -> None:
    def scores(rng: np.random.Generator, size: Any) -> np.ndarray:
        if family == "normal":
            return rng.normal(size=size)
        if family == "heavy tails":
            return rng.standard_t(4, size=size) / np.sqrt(2)
        return np.where(rng.random(size) < 0.3, -1.2, 0.5) + 0.5 * rng.normal(size=size)

    pilot = scores(np.random.default_rng(1), 2_000)
    count = seeds_needed(pilot + shift, pilot, statistic)
    assert count is not None and 4 <= count < 60

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        return scores(rng, (6_000, n))

    assert 0.74 < found_differences(draw, count, statistic, shift, 1) < 0.9
    # half of them would not do
    assert found_differences(draw, max(2, count // 2), statistic, shift, 1) < 0.72


def test_several_tasks_need_fewer_seeds_each() -> None:
    spread = np.array([0.5, 1.0, 1.5])
    pilot = np.random.default_rng(0).normal(size=(2_000, 3)) * spread
    count = seeds_needed(pilot + 0.6, pilot, mean)
    # variance of a mean over tasks: (0.25 + 1 + 2.25) / 9 a seed; n = 2 v (1.96 + 0.8416)^2 / 0.36 = 17.0, and 0.96
    assert count is not None and 16 <= count <= 20

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        return rng.normal(size=(6_000, n, 3)) * spread

    assert 0.74 < found_differences(draw, count, mean, 0.6, (1, 2)) < 0.88
    ragged = {"a": pilot[:, 0], "b": pilot[:1000, 1], "c": pilot[:500, 2]}
    other = seeds_needed({task: values + 0.6 for task, values in ragged.items()}, ragged, mean)
    assert other is not None and abs(other - count) <= 2


def test_the_estimate_from_few_seeds_is_right_on_average() -> None:
    # the spread of four seeds, not only their bootstrap's, which is too small by a quarter
    rng, found = np.random.default_rng(0), []
    for trial in range(300):
        first, second = rng.normal(size=(2, 4))
        first = first - first.mean() + 1.0  # the difference is 1 in every trial; only the spread is estimated
        count = seeds_needed(first, second - second.mean(), mean, n_resamples=400, seed=trial)
        assert count is not None
        found.append(count)
    # t-test for an effect of 1: 16.7 + 1 seeds; the standard error of the mean over 300 trials is 0.5
    assert 15 < np.mean(found) < 19


def test_fewest_seeds_are_those_of_a_permutation_test() -> None:
    # 2 of (2n choose n) divisions are the most extreme: 2/20 for three seeds, 2/70 for four
    assert fewest_seeds() == 4
    assert fewest_seeds(1, 0.99) == 5  # 2 of 252
    assert fewest_seeds(2) == 3  # 2 of 20 x 20; two seeds have 2 of 6 x 6
    assert fewest_seeds(3) == 2  # 2 of 6 x 6 x 6
    for n_seeds in (3, 4):
        pooled = np.arange(2.0 * n_seeds)  # as far apart as can be
        test = stats.permutation_test(
            (pooled[:n_seeds], pooled[n_seeds:]), lambda x, y: np.mean(x) - np.mean(y), n_resamples=np.inf
        )
        assert (test.pvalue <= 0.05) == (n_seeds >= fewest_seeds())


def test_nothing_is_said_where_nothing_can_be_said() -> None:
    assert seeds_needed([1.0, 2.0], [3.0]) is None  # one seed has no spread
    assert seeds_needed([1.0, 2.0], [2.0, 1.0]) is None  # no difference
    assert seeds_needed([1.0, 1.0], [2.0, 2.0]) == fewest_seeds()  # no spread
    assert seeds_needed(NORMAL + 1e-6, NORMAL, mean) == MOST_SEEDS
    assert seeds_needed([1.0, 2.0, 9.0], [5.0, 6.0, 7.0], median) is not None  # of one task, the median of the runs


def test_bad_arguments_are_named() -> None:
    for arguments, options, words in [
        (([1.0], [1.0]), {"power": 0.3}, "power"),
        (([1.0], [1.0]), {"confidence": 1.0}, "confidence"),
        ((np.zeros((2, 2)), np.zeros((2, 3))), {}, "2 tasks"),
        (([], [1.0]), {}, "no scores"),
    ]:
        with pytest.raises(ConfigError, match=words):
            seeds_needed(*arguments, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="n_tasks"):
        fewest_seeds(0)
    with pytest.raises(NonFiniteError):
        seeds_needed([1.0, np.nan], [1.0, 2.0])
