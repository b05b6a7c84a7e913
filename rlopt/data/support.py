"""Which states a data set says something about: the share of others that lie farther from it than a given distance."""

from __future__ import annotations

import numpy as np

LARGEST = 50_000
"""Rows of the data that are looked at, drawn at random from more."""
RADIUS = 0.1
"""Root mean square over the columns, in standard deviations, within which data tell of a state."""


def share_outside(data: np.ndarray, states: np.ndarray, spread: np.ndarray, seed: int = 0) -> float:
    """The share of ``states`` outside the support of ``data``, in [0, 1]: no row of the data within ``RADIUS``.

    :param data: [N, d] observations
    :param states: [M, d]
    :param spread: [d] standard deviations in which distances are measured; 0 leaves a column in its own unit
    :param seed: seed of the rows that are drawn where there are more than 50,000
    """
    if len(data) > LARGEST:
        data = data[np.random.default_rng(seed).choice(len(data), LARGEST, replace=False)]
    scale = np.where(spread > 0, spread, 1.0) * np.sqrt(data.shape[1])
    data, states = data / scale, states / scale
    squares = (data**2).sum(axis=1)
    outside = 0
    for start in range(0, len(states), 100):
        part = states[start : start + 100]
        nearest = ((part**2).sum(axis=1)[:, None] - 2 * part @ data.T + squares).min(axis=1)
        outside += int((nearest > RADIUS**2).sum())
    return outside / len(states)
