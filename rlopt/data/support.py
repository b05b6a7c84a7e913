"""Which states a data set says something about: the share of others that lie farther from it than its own do."""

from __future__ import annotations

import numpy as np

LARGEST = 50_000
"""Rows of the data that are looked at, drawn at random from more."""
PROBES = 1_000
"""Rows whose distance to the other episodes tells what is far."""
QUANTILE = 0.99


def share_outside(data: np.ndarray, episode_ends: np.ndarray, states: np.ndarray, seed: int = 0) -> float:
    """The share of ``states`` outside the support of ``data``, in [0, 1].

    A state is outside if the nearest row of the data is farther from it than 99 % of the data's rows are from the
    nearest row of another episode (of another row, where there is one episode). Columns are divided by their standard
    deviation in the data; one that never changes there counts in its own unit.

    :param data: [N, d] observations
    :param episode_ends: [N] bool
    :param states: [M, d]
    :param seed: of the rows that are drawn where there are more than 50,000
    """
    generator = np.random.default_rng(seed)
    episode = np.cumsum(episode_ends) - episode_ends
    if len(data) > LARGEST:
        rows = generator.choice(len(data), LARGEST, replace=False)
        data, episode = data[rows], episode[rows]
    spread = data.std(axis=0, dtype=np.float64)
    scale = np.where(spread > 0, spread, 1.0)
    data, states = data / scale, states / scale
    if len(np.unique(episode)) == 1:
        episode = np.arange(len(data))
    probes = generator.choice(len(data), min(PROBES, len(data)), replace=False)
    own = _nearest(data[probes], data, episode[probes], episode)
    return float((_nearest(states, data, None, episode) > np.quantile(own, QUANTILE)).mean())


def _nearest(points: np.ndarray, data: np.ndarray, own: np.ndarray | None, episode: np.ndarray) -> np.ndarray:
    """Squared distance of each point to the nearest row of the data, [M]; rows of its own episode left out."""
    squares = (data**2).sum(axis=1)
    nearest = np.empty(len(points))
    for start in range(0, len(points), 100):
        part = slice(start, start + 100)
        distances = (points[part] ** 2).sum(axis=1)[:, None] - 2 * points[part] @ data.T + squares
        if own is not None:
            distances[own[part][:, None] == episode] = np.inf
        nearest[part] = distances.min(axis=1)
    return np.maximum(nearest, 0)
