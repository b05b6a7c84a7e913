"""Simulated rankers: their distributions in closed form, and how they are composed."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest

from rlopt.errors import ConfigError, UnknownNameError
from rlopt.feedback.oracles import (
    AbstainingOracle,
    LazyOracle,
    NearTieOracle,
    OracleFiles,
    PlackettLuceOracle,
    ReturnOracle,
    person,
    shortened,
)
from rlopt.feedback.ranking import Ranking

RETURNS = np.array([1.0, 3.0, 2.0, np.nan, -np.inf])


def order(answer: Ranking) -> tuple[int, ...]:
    assert all(len(tier) == 1 for tier in answer.tiers)
    return tuple(tier[0] for tier in answer.tiers)


def drawn(oracle: Any, returns: np.ndarray, k: int, count: int) -> Counter[tuple[int, ...]]:
    rng = np.random.default_rng(0)
    return Counter(order(oracle.rank(returns, k, rng)) for _ in range(count))


def close_to(count: int, probability: float, total: int) -> bool:
    """Within four standard deviations of a binomial."""
    return abs(count - probability * total) <= 4 * np.sqrt(total * probability * (1 - probability)) + 1e-9


@pytest.mark.parametrize("oracle", [ReturnOracle(), PlackettLuceOracle(0.5), person()])
def test_returns_that_are_not_finite_are_never_ranked_above_finite_ones(oracle: Any) -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        answer = oracle.rank(RETURNS, 5, rng)
        answer.check(5)
        assert answer.abstain or {3, 4} <= set(answer.unranked)
    assert order(ReturnOracle().rank(RETURNS, 2, rng)) == (1, 2)
    assert ReturnOracle().rank(RETURNS, 2, rng).unranked == (0, 3, 4)


def test_ties() -> None:
    rng = np.random.default_rng(0)
    assert ReturnOracle().rank(np.array([1.0, 2.0, 2.0]), 3, rng).tiers == ((1, 2), (0,))
    assert ReturnOracle(0.5).rank(np.array([1.0, 2.0, 1.6]), 3, rng).tiers == ((1, 2), (0,))


@pytest.mark.parametrize("relative", [True, False])
def test_plackett_luce_has_its_probabilities(relative: bool) -> None:
    returns, total, temperature = np.array([0.0, 1.0, 1.5, -0.5]), 20_000, 0.8
    scale = temperature * (returns.std() if relative else 1.0)
    counts = drawn(PlackettLuceOracle(temperature, relative), returns, 4, total)
    strength = np.exp(returns / scale)
    for places in itertools.permutations(range(4)):
        left, probability = set(range(4)), 1.0
        for item in places:
            probability *= strength[item] / sum(strength[other] for other in left)
            left.remove(item)
        assert close_to(counts[places], probability, total), places
    best = drawn(PlackettLuceOracle(temperature, relative), returns, 1, total)
    assert all(close_to(best[(item,)], strength[item] / strength.sum(), total) for item in range(4))
    assert drawn(PlackettLuceOracle(0.0), returns, 4, 20) == {(2, 1, 0, 3): 20}


def test_near_ties_are_exchanged_and_others_are_not() -> None:
    returns, total = np.array([10.0, 0.0, 10.1]), 5000
    counts = drawn(NearTieOracle(ReturnOracle(), 0.1, 0.3), returns, 3, total)
    assert set(counts) == {(2, 0, 1), (0, 2, 1)} and close_to(counts[(0, 2, 1)], 0.3, total)
    # Across the k-th place, too.
    best = drawn(NearTieOracle(ReturnOracle(), 0.1, 0.3), returns, 1, total)
    assert close_to(best[(0,)], 0.3, total) and best[(0,)] + best[(2,)] == total
    # From the top down: the first pair with p, else the second with p, for a candidate is exchanged once at most.
    chain = drawn(NearTieOracle(ReturnOracle(), 10.0, 0.3), np.array([3.0, 2.0, 1.0]), 3, total)
    assert close_to(chain[(1, 0, 2)], 0.3, total) and close_to(chain[(0, 2, 1)], 0.7 * 0.3, total)


def test_lazy_and_abstaining() -> None:
    returns, total = np.arange(6.0), 6000
    lengths = Counter(len(key) for key in drawn(LazyOracle(ReturnOracle(), 0.4), returns, 4, total).elements())
    assert close_to(lengths[4], 0.6, total)
    assert all(close_to(lengths[length], 0.4 / 3, total) for length in (1, 2, 3))
    rng = np.random.default_rng(0)
    answers = [AbstainingOracle(ReturnOracle(), 0.2).rank(returns, 6, rng) for _ in range(total)]
    assert close_to(sum(answer.abstain for answer in answers), 0.2, total)
    assert {order(answer) for answer in answers if not answer.abstain} == {(5, 4, 3, 2, 1, 0)}


def test_the_same_generator_gives_the_same_answers() -> None:
    first, second = ([person().rank(RETURNS, 3, np.random.default_rng(seed)) for seed in range(50)] for _ in range(2))
    assert first == second and len(set(first)) > 2


def test_shortened_keeps_a_tie_across_the_last_place() -> None:
    full = Ranking(((4,), (0, 1), (2,)), (3,))
    assert shortened(full, 1) == Ranking(((4,),), (0, 1, 2, 3))
    assert shortened(full, 2) == Ranking(((4,), (0, 1)), (2, 3))
    assert shortened(full, 5) == full


def test_oracles_as_json() -> None:
    oracle = person(0.3, 0.1, 0.2, 0.4, 0.0)
    assert OracleFiles.decode(OracleFiles.encode(oracle)) == oracle

    class Mine(ReturnOracle):
        pass

    assert OracleFiles.encode(Mine()) is None and OracleFiles.encode(LazyOracle(Mine())) is None
    with pytest.raises(UnknownNameError, match="did you mean 'ReturnOracle'"):
        OracleFiles.decode({"oracle": "ReturnOracel"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlackettLuceOracle(-1.0), "temperature is -1.0"),
        (lambda: NearTieOracle(probability=1.5), r"\[0, 1\]"),
        (lambda: LazyOracle(probability=float("nan")), "probability is nan"),
        (lambda: AbstainingOracle(probability=True), "probability is True"),
        (lambda: ReturnOracle(float("inf")), "tie_tolerance is inf"),
    ],
)
def test_settings_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
