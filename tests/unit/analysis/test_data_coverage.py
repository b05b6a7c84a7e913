"""The plane in which the states of a data set are drawn."""

from typing import Any

import numpy as np

from rlopt.analysis.dataset_coverage import coordinates, draw_coverage
from rlopt.data import Dataset, Metadata

N = 400
RNG = np.random.default_rng(0)


def holding(observations: Any, env: str = "Unregistered-v0") -> Dataset:
    return Dataset(
        observations=observations,
        actions=np.zeros((N, 1), np.float32),
        rewards=np.zeros(N, np.float32),
        next_observations=observations,
        discounts=np.ones(N, np.float32),
        episode_ends=np.arange(N) % 100 == 99,
        metadata=Metadata(env=env),
    )


def states(columns: int) -> np.ndarray:
    return RNG.normal(size=(N, columns)).astype(np.float32)


def test_positions_and_goals_are_drawn_as_they_are() -> None:
    seen = states(4)
    points, labels, positions = coordinates(holding(seen, "rlopt/PointMaze_UMaze-v0"))  # type: ignore[misc]
    assert np.array_equal(points, seen[:, :2]) and positions
    reached = {"observation": states(4), "achieved_goal": states(3), "desired_goal": states(3)}
    points, labels, positions = coordinates(holding(reached))  # type: ignore[misc]
    assert np.array_equal(points, reached["achieved_goal"][:, :2]) and labels == ("x", "y") and positions
    two = states(2)
    points, _, positions = coordinates(holding(two))  # type: ignore[misc]
    assert np.array_equal(points, two) and not positions


def test_other_states_are_drawn_in_their_principal_components() -> None:
    """Three columns share one signal; two, another one: standardised, the first plane spans these two signals."""
    one, two = RNG.normal(size=(2, N))
    columns = np.stack([one, 5 * one, -one, two, 0.1 * two, np.zeros(N)], axis=1).astype(np.float32)
    parts = {"joints": columns[:, :3], "touch": columns[:, 3:], "mode": np.zeros((N, 1), np.int64)}
    for observations in (columns, parts):
        points, labels, positions = coordinates(holding(observations))  # type: ignore[misc]
        assert labels[0] == "first principal component" and not positions
        found = np.abs(np.corrcoef(points.T, np.stack([one, two]))[:2, 2:])
        assert found[0, 0] > 0.95 and found[1, 1] > 0.95
        # Three standardised columns of variance 1 add up to a variance of 3, two to 2.
        np.testing.assert_allclose(points.var(axis=0), [3, 2], rtol=0.1)


def test_images_and_single_numbers_have_no_plane() -> None:
    images = RNG.integers(0, 255, (N, 3, 8, 8)).astype(np.uint8)
    for observations in (images, {"camera": images}, states(1)):
        assert coordinates(holding(observations)) is None
    (panel, *_) = draw_coverage(holding(states(1))).axes
    assert panel.texts[0].get_text() == "no state coordinates to draw"
