"""Replay weights against their closed forms, the distribution of the draws, and uniform replay as a special case."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from rlopt.errors import CheckpointError, ConfigError, UnknownNameError
from rlopt.replay.mixture import WeightedRows
from rlopt.storage.tree import TreeWriter, decode

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: draws there cannot be tried")


def boosted(learners: int, rollout: int = 2, **settings: Any) -> WeightedRows:
    """Learners with ``rollout`` rows each, one after the other."""
    mixture = WeightedRows(**settings)
    for learner in range(learners):
        assert mixture.add_learner(np.arange(learner * rollout, (learner + 1) * rollout)) == learner
    return mixture


def closed_form(learners: int, weight: float) -> np.ndarray:
    """(1 - a)^(T - 1) for the first learner, a (1 - a)^(T - i) for the i-th."""
    powers = (1 - weight) ** (learners - np.arange(1, learners + 1))
    return np.where(np.arange(learners) == 0, powers, weight * powers)


@pytest.mark.parametrize("learners", [1, 2, 3, 60, 100])
@pytest.mark.parametrize("weight", [0.05, 0.3, 1.0])
def test_constant_weights_are_the_closed_form(learners: int, weight: float) -> None:
    mixture = boosted(learners, mixture_weight=weight, truncated_mass=0.0, max_learners=None)
    expected = closed_form(learners, weight)
    kept = expected[-len(mixture.weights) :]
    np.testing.assert_allclose(mixture.weights, kept, rtol=1e-12)
    assert mixture.weights.dtype == np.float64 and mixture.dropped_mass == expected.sum() - kept.sum() == 0
    assert mixture.learner_ids == list(range(learners))[-len(kept) :]
    assert len(kept) == (1 if weight == 1 else learners)


def test_the_untrained_learner_weighs_more_than_the_newest_until_the_sixtieth() -> None:
    """0.95^(T - 1) < 0.05 first at T = 1 + 59: ln 0.05 / ln 0.95 = 58.4."""
    assert boosted(59).weights[0] > 0.05 > boosted(60).weights[0]


@pytest.mark.parametrize("learners", [1, 7, 20, 21, 45])
def test_bias_corrected_weights_are_uniform_until_they_would_fall_below_the_mixture_weight(learners: int) -> None:
    mixture = boosted(learners, rule="bias_corrected", truncated_mass=0.0)
    # Equal for T <= 1 / a = 20; then every round takes 5 % from all before.
    after = max(learners - 20, 0)
    first = np.full(min(learners, 20), 1 / min(learners, 20)) * 0.95**after
    expected = np.append(first, 0.05 * 0.95 ** np.arange(after - 1, -1, -1))
    np.testing.assert_allclose(mixture.weights, expected, rtol=1e-12)


@pytest.mark.parametrize("rule", ["constant", "bias_corrected"])
def test_truncation_keeps_the_stated_mass_and_no_more_learners_than_needed(rule: Any) -> None:
    mixture = boosted(0, rule=rule, mixture_weight=0.1, truncated_mass=0.02)
    exact = boosted(0, rule=rule, mixture_weight=0.1, truncated_mass=0.0, max_learners=None)
    for learner in range(150):
        for either in (mixture, exact):
            either.add_learner(np.array([learner]))
        kept = len(mixture.weights)
        before, after = exact.weights[: learner + 1 - kept], exact.weights[learner + 1 - kept :]
        assert mixture.learner_ids == exact.learner_ids[-kept:]
        assert mixture.dropped_mass == pytest.approx(before.sum(), abs=1e-12)
        assert before.sum() <= 0.02 and before.sum() + after[0] > 0.02
        np.testing.assert_allclose(mixture.weights, after / after.sum(), rtol=1e-9)
    # a (1 - a)^k summed from k on is (1 - a)^k <= 0.02 first at k = 38.
    assert len(mixture.weights) == 38


def test_the_cap_drops_more_and_says_so() -> None:
    mixture = boosted(30, max_learners=10, truncated_mass=0.0)
    assert mixture.learner_ids == list(range(20, 30))
    assert mixture.dropped_mass == pytest.approx(1 - closed_form(30, 0.05)[20:].sum(), rel=1e-12)
    np.testing.assert_allclose(
        mixture.weights, 0.95 ** np.arange(9, -1, -1) / (0.95 ** np.arange(10)).sum(), rtol=1e-12
    )


def test_uniform_weights_are_in_proportion_to_rows() -> None:
    mixture = WeightedRows("uniform")
    for rows in ([0, 1, 2], [3], [4, 5, 6, 7]):
        mixture.add_learner(np.array(rows))
    np.testing.assert_array_equal(mixture.weights, np.array([3, 1, 4]) / 8)
    rows, weights = mixture.row_weights()
    np.testing.assert_array_equal(rows, np.arange(8))
    np.testing.assert_array_equal(weights, np.full(8, 1 / 8))
    mixture.forget(np.array([0, 4]))
    np.testing.assert_array_equal(mixture.weights, np.array([2, 1, 3]) / 6)
    assert mixture.dropped_mass == 2 / 8


def test_a_uniform_cap_is_a_window_of_the_newest_rollouts() -> None:
    mixture = boosted(30, rollout=5, rule="uniform", max_learners=4)
    np.testing.assert_array_equal(mixture.row_weights()[0], np.arange(130, 150))
    np.testing.assert_array_equal(mixture.row_weights()[1], np.full(20, 1 / 20))


@pytest.mark.parametrize("sizes", [[1], [7, 1, 3, 1000, 64], [500] * 80, [3] * 999 + [12345]])
def test_uniform_weights_are_uniform_replay_on_the_same_random_numbers(sizes: list[int]) -> None:
    mixture, n = WeightedRows("uniform", truncated_mass=0.0, max_learners=None), 0
    for size in sizes:
        mixture.add_learner(np.arange(n, n + size))
        n += size
    np.random.seed(3)
    drawn = mixture.sample(20_000)
    np.random.seed(3)
    np.testing.assert_array_equal(drawn.numpy(), np.floor(np.random.random_sample(20_000) * n))
    assert drawn.dtype == torch.int64
    # At every boundary between rows, from both sides.
    edges = np.arange(n) / n
    edges = np.concatenate([edges, np.nextafter(edges[1:], 0), np.nextafter(edges, 1), [np.nextafter(1, 0)]])
    np.testing.assert_array_equal(mixture.rows_at(torch.from_numpy(edges)).numpy(), np.floor(edges * n))


@pytest.mark.parametrize("rule", ["constant", "bias_corrected", "uniform"])
def test_draws_follow_the_row_weights(rule: Any) -> None:
    mixture = WeightedRows(rule, mixture_weight=0.2)
    order = np.random.default_rng(0).permutation(100)
    for rows in np.split(order, [4, 5, 25, 31]):
        mixture.add_learner(rows)
    mixture.forget(order[[1, 30, 99]])
    rows, weights = mixture.row_weights()
    assert set(rows) == set(order) - set(order[[1, 30, 99]]) and weights.sum() == pytest.approx(1, abs=1e-12)
    np.random.seed(0)
    counts = np.bincount(mixture.sample(200_000).numpy(), minlength=100)
    assert counts.sum() == counts[rows].sum()
    assert stats.chisquare(counts[rows], 200_000 * weights).pvalue > 1e-3
    # And the test has the power to reject: rows drawn without weights, or learners without regard to their rows.
    other = np.random.default_rng(1).choice(rows, 200_000) if rule != "uniform" else np.repeat(rows[:50], 4000)
    assert stats.chisquare(np.bincount(other, minlength=100)[rows], 200_000 * weights).pvalue < 1e-6


def test_learners_are_drawn_by_their_weights_and_rows_evenly_within() -> None:
    """The inverse distribution function by hand: weights 0.7, 0.3; two rows and three."""
    mixture = WeightedRows(mixture_weight=0.3)
    mixture.add_learner(np.array([8, 5]))
    mixture.add_learner(np.array([2, 0, 9]))
    uniforms = torch.tensor([0.0, 0.34, 0.36, 0.69, 0.71, 0.79, 0.81, 0.89, 0.91, 0.999], dtype=torch.float64)
    assert mixture.rows_at(uniforms).tolist() == [8, 8, 5, 5, 2, 2, 0, 0, 9, 9]
    assert mixture.rows_at(torch.tensor([np.nextafter(1, 0)])).tolist() == [9]


@pytest.mark.parametrize(("weight", "learners", "rollout"), [(0.77, 4, 68), (0.85, 2, 920), (0.73, 2, 1121)])
def test_the_largest_uniform_number_gives_the_last_row(weight: float, learners: int, rollout: int) -> None:
    """Masses whose rounding would lead one row beyond it."""
    mixture = boosted(learners, rollout, mixture_weight=weight)
    assert mixture.rows_at(torch.tensor([np.nextafter(1, 0)])).tolist() == [learners * rollout - 1]


def test_draws_know_at_once_what_was_added_and_forgotten() -> None:
    mixture = boosted(1, 4)
    assert set(mixture.sample(200).tolist()) == {0, 1, 2, 3}
    mixture.forget(np.array([1, 2]))
    assert set(mixture.sample(200).tolist()) == {0, 3}
    mixture.add_learner(np.array([9]))
    assert set(mixture.sample(1000).tolist()) == {0, 3, 9}
    mixture.set_state(boosted(1, 2).get_state())
    assert set(mixture.sample(200).tolist()) == {0, 1}


def test_many_uneven_learners_never_give_a_row_of_another() -> None:
    mixture = WeightedRows(mixture_weight=0.5, truncated_mass=0.0, max_learners=None)
    generator, start = np.random.default_rng(4), 0
    owner: dict[int, int] = {}
    for learner in range(1500):  # the first ones weigh less than the smallest float64
        rows = np.arange(start, start + generator.integers(1, 9))
        owner |= dict.fromkeys(rows.tolist(), learner)
        mixture.add_learner(rows)
        start += len(rows)
    uniforms = torch.from_numpy(np.concatenate([[0.0, 5e-324, 1e-300], generator.random(10_000)]))
    ends = np.cumsum(mixture.weights)
    for row, u in zip(mixture.rows_at(uniforms).tolist(), uniforms.tolist(), strict=True):
        index = mixture.learner_ids.index(owner[row])
        assert ends[index] - mixture.weights[index] - 1e-15 <= u <= ends[index] + 1e-15


def test_forgotten_rows_leave_and_a_learner_without_rows_gives_its_weight_to_the_others() -> None:
    mixture = boosted(3, rollout=4, mixture_weight=0.5)  # 0.25, 0.25, 0.5
    mixture.forget(np.array([0, 1, 2, 77]))
    np.testing.assert_allclose(mixture.weights, [0.25, 0.25, 0.5])
    rows, weights = mixture.row_weights()
    assert rows.tolist() == list(range(3, 12))
    np.testing.assert_allclose(weights, [0.25] + [0.0625] * 4 + [0.125] * 4)
    mixture.forget(np.array([3]))
    assert mixture.learner_ids == [1, 2] and mixture.dropped_mass == 0.25 and mixture.n_rows == 8
    np.testing.assert_allclose(mixture.weights, [1 / 3, 2 / 3])
    # The exact distribution goes on: 0.125 of 0.25 is missing after the next learner.
    mixture.add_learner(np.array([0, 1, 2, 3]))
    np.testing.assert_allclose(mixture.weights, np.array([0.125, 0.25, 0.5]) / 0.875)
    assert mixture.learner_ids == [1, 2, 3] and mixture.dropped_mass == 0.125


def test_a_new_learner_takes_rows_that_it_overwrote() -> None:
    mixture = boosted(2, rollout=4, mixture_weight=0.5)
    mixture.add_learner(np.array([2, 3, 4, 5, 6, 7]))
    assert mixture.learner_ids == [0, 2] and mixture.row_weights()[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    mixture.add_learner(np.arange(8))
    assert mixture.learner_ids == [3] and mixture.weights.tolist() == [1.0]
    mixture.forget(np.arange(8))
    assert (
        mixture.learner_ids == []
        and mixture.weights.shape == (0,)
        and mixture.n_rows == 0
        and mixture.dropped_mass == 1.0
    )
    with pytest.raises(ConfigError, match="add one first"):
        mixture.sample(4)


def test_arrays_of_the_caller_are_not_kept() -> None:
    rows = np.arange(3)
    mixture = WeightedRows()
    mixture.add_learner(rows)
    rows[:] = 50
    mixture.row_weights()[0][:] = 50
    assert mixture.row_weights()[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "constnat"}, "did you mean 'constant'"),
        ({"mixture_weight": 0.0}, "mixture_weight = 0.0 is outside"),
        ({"mixture_weight": float("nan")}, "mixture_weight = nan is outside"),
        ({"mixture_weight": 1.5}, "mixture_weight"),
        ({"truncated_mass": 1.0}, "truncated_mass"),
        ({"truncated_mass": -0.1}, "truncated_mass"),
        ({"max_learners": 0}, "max_learners = 0 is outside"),
    ],
)
def test_settings_outside_their_ranges_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        WeightedRows(**settings)
    assert isinstance(caught.value, UnknownNameError) == ("rule" in settings)


BAD_ROWS = [np.zeros(0, np.int64), np.array([1, 1]), np.array([-1]), np.array([0.5]), np.zeros((2, 1), np.int64)]


@pytest.mark.parametrize("rows", BAD_ROWS)
def test_rows_that_are_no_rollout_are_refused_and_change_nothing(rows: np.ndarray) -> None:
    mixture = boosted(2)
    with pytest.raises(ConfigError):
        mixture.add_learner(rows)
    assert mixture.learner_ids == [0, 1] and mixture.n_rows == 4


def through_a_file(state: Any) -> Any:
    writer = TreeWriter()
    encoded = writer.encode(state)
    return decode(encoded, lambda name: writer.tensors[name].clone())


@pytest.mark.parametrize("rule", ["constant", "bias_corrected", "uniform"])
@pytest.mark.parametrize("learners", [0, 1, 40])
def test_a_saved_mixture_goes_on_as_the_unsaved_one(rule: Any, learners: int) -> None:
    settings: dict[str, Any] = {"rule": rule, "mixture_weight": 0.1, "truncated_mass": 0.05}
    mixture, loaded = boosted(learners, 3, **settings), boosted(5, 2, **settings)
    mixture.forget(np.array([1, 100]))
    state = through_a_file(mixture.get_state())
    loaded.set_state(state)
    for part in (state["masses"], state["rows"], state["counts"]):
        part[...] = 77  # the state that was given stays the caller's
    for added in range(2):
        assert loaded.learner_ids == mixture.learner_ids and loaded.dropped_mass == mixture.dropped_mass
        np.testing.assert_array_equal(loaded.weights, mixture.weights)
        assert [either.add_learner(np.array([700])) for either in (mixture, loaded)] == [learners + added] * 2
        np.random.seed(0)
        drawn = mixture.sample(50)
        np.random.seed(0)
        assert torch.equal(loaded.sample(50), drawn)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rule", "uniform"),
        ("added", 2),
        ("added", 3.0),
        ("added", 2**70),
        ("missing", float("nan")),
        ("missing", 0.5),
        ("learner_ids", np.array([0, 2, 1])),
        ("learner_ids", np.array([0, 1])),
        ("learner_ids", [0, 1, 2]),
        ("masses", np.array([0.9, 0.05, np.nan])),
        ("masses", np.array([1.1, -0.15, 0.05])),
        ("masses", np.array([0.5, 0.2, 0.1])),
        ("masses", np.array([0.9, 0.05, 0.05], np.float32)),
        ("counts", np.array([2, 2, 3])),
        ("counts", np.array([6, 0, 0])),
        ("rows", np.array([0, 1, 2, 3, 4, 4])),
        ("rows", np.array([0, 1, 2, 3, 4, -5])),
        ("rows", np.arange(6.0)),
        ("rows", None),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(name: str, value: Any) -> None:
    mixture = boosted(3)
    with pytest.raises(CheckpointError):
        mixture.set_state(mixture.get_state() | {name: value})
    state = mixture.get_state()
    del state[name]
    with pytest.raises(CheckpointError, match="malformed"):
        mixture.check_state(state)
    with pytest.raises(CheckpointError, match="malformed"):
        mixture.check_state(None)
    with pytest.raises(CheckpointError, match="malformed"):
        mixture.set_state(mixture.get_state(), buffer_rows=5)
    np.testing.assert_allclose(mixture.weights, closed_form(3, 0.05))
    mixture.check_state(mixture.get_state(), buffer_rows=6)


@needs_cuda
def test_draws_on_a_gpu_follow_the_weights_and_wait_for_nothing() -> None:
    mixture = boosted(5, rollout=7, mixture_weight=0.3, device="cuda")
    mixture.sample(1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        drawn = mixture.sample(200_000)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    counts = np.bincount(drawn.cpu().numpy(), minlength=35)
    assert stats.chisquare(counts, 200_000 * mixture.row_weights()[1]).pvalue > 1e-3
