"""The share of states outside the support of data, where it is known."""

import numpy as np
import pytest

from rlopt.data.checks import RADIUS, share_outside


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_states_count_by_their_distance_in_standard_deviations(scale: float) -> None:
    generator = np.random.default_rng(0)
    data = np.zeros((500, 4))
    data[:, 0] = 10 * np.arange(500)  # one row every 10 deviations
    directions = generator.standard_normal((500, 4))
    directions[:, 0] = 0
    directions *= np.sqrt(4) * RADIUS / np.linalg.norm(directions, axis=1, keepdims=True)
    near, far = data + 0.99 * directions, data + 1.01 * directions
    states = np.concatenate((near, far[:125]))
    assert share_outside(scale * data, scale * states, np.full(4, scale)) == 0.2


def test_large_data_are_thinned_and_a_constant_column_counts() -> None:
    data = np.zeros((200_000, 2))
    data[:, 0] = np.linspace(0, 1, 200_000)
    states = data[::1000] + np.array([0, 1.0])
    assert share_outside(data, data[::1000], data.std(axis=0)) == 0
    assert share_outside(data, states, data.std(axis=0)) == 1
