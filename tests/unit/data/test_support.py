"""The share of states outside the support of data, where it is known."""

import numpy as np
import pytest

from rlopt.data.support import share_outside


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_copies_of_the_data_are_inside_and_what_is_far_is_outside(scale: float) -> None:
    generator = np.random.default_rng(0)
    data = generator.random((2000, 3)).astype(np.float32) * np.float32(scale)
    far = data[:300] + np.float32(5 * scale)
    ends = np.ones(len(data), bool)
    assert share_outside(data, ends, np.concatenate((data[:700], far))) == 0.3
    assert share_outside(data, ends, far) == 1


def test_an_episode_is_compared_with_other_episodes() -> None:
    """Steps of 0.01 along lines that are 1 apart: what lies 0.5 from a line is inside, what lies 2 from all is not."""
    x, line = np.meshgrid(np.arange(100) * 0.01, np.arange(20.0))
    data = np.stack((x.reshape(-1), line.reshape(-1)), axis=1)
    ends = np.arange(2000) % 100 == 99
    between, away = data + np.array([0, 0.5]), np.array([[0.5, 22.0]] * 2000)
    assert share_outside(data, ends, np.concatenate((between, away))) == 0.5
    # Of one episode, each row is near its neighbours in time.
    assert share_outside(data, np.arange(2000) == 1999, between[:1900]) == 1


def test_a_column_that_never_changes_counts() -> None:
    data = np.random.default_rng(0).random((500, 2))
    data[:, 1] = 3.0
    moved = data + np.array([0, 2.0])
    assert share_outside(data, np.ones(500, bool), np.concatenate((data, moved))) == 0.5
