"""Discounted returns of recorded episodes, against which learned values can be held."""

import itertools

import numpy as np

from rlopt.data.dataset import Dataset

_TAIL = 0.1


def discounted_returns(data: Dataset, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """G_t = r_t + gamma G_{t+1} of each transition within its episode, and where it is nearly the whole return.

    Behind a cut nothing is known, so that G is too small there by up to gamma^k of the value, k steps before the cut.

    :param gamma: in [0, 1]
    :returns: (N,) float64, and (N,) bool: the episode truly ends, or is cut so late that gamma^k < 0.1
    """
    stops = np.flatnonzero(data.episode_ends)
    starts = np.concatenate(([0], stops[:-1] + 1))
    left = np.repeat(stops, stops - starts + 1) - np.arange(len(data))
    returns = data.rewards.astype(np.float64)
    order = np.argsort(left, kind="stable")  # all last rows, then all next to last ones, ...
    edges = np.searchsorted(left[order], np.arange(1, int(left.max()) + 2))
    for first, last in itertools.pairwise(edges):
        rows = order[first:last]
        returns[rows] += gamma * returns[rows + 1]
    ends_truly = np.repeat(data.discounts[stops] == 0, stops - starts + 1)
    return returns, ends_truly | (gamma ** (left + 1) < _TAIL)


def first_rows(data: Dataset) -> np.ndarray:
    """The first row of each episode."""
    stops = np.flatnonzero(data.episode_ends)
    return np.concatenate(([0], stops[:-1] + 1))
