"""The mathematics of ZO-RankSGD (arXiv 2303.03751): pure functions of arrays, numpy only.

An answer is a graph with an edge i -> j wherever candidate i is said to be better than j. With candidates x_i = x +
mu xi_i the estimate of a direction of ascent is the mean over all edges E of xi_j - xi_i,

    g = 1/|E| sum_{(i, j) in E} (xi_j - xi_i) = 1/|E| sum_i w_i xi_i,     w_i = indegree - outdegree.      (1)
"""

import numpy as np


def edge_count(m: int, k: int) -> int:
    """(2) |E| = k m - (k^2 + k) / 2 of an answer without ties that orders the k best of m."""
    return k * m - (k * k + k) // 2


def neighbouring_edge_pairs(m: int, k: int) -> int:
    """(3) |N(E)|, ordered pairs of different edges with a common candidate: m^2 k + m k^2 - k^3 + k^2 - 4 m k + 2 k."""
    return m * m * k + m * k * k - k**3 + k * k - 4 * m * k + 2 * k


def rank_gradient(weights: np.ndarray, edges: int, perturbations: np.ndarray) -> np.ndarray:
    """(1) The estimated direction of ascent, [d]. It has the size of a perturbation, whatever the slope of f.

    :param weights: [m], of :func:`rlopt.feedback.ranking.tier_weights`, summed over annotators
    :param edges: their number, at least 1
    :param perturbations: [m, d], xi_i, standard normal
    """
    return np.asarray(weights @ perturbations / edges, np.float64)


def second_moment(m: int, k: int, dimension: int, neighbour_moment: float, mean_square: float) -> float:
    """(5) E |g|^2 from the moments of single edges: the same edge twice, neighbouring edges, edges apart.

    Exact for k = m, where any two edges are distributed like any other two of their kind; too small for k < m, whose
    edges depend on the whole order.

    :param neighbour_moment: M2 = E[S12 S13 <xi_1 - xi_2, xi_1 - xi_3>], S the signs of the differences of f
    :param mean_square: M1 = |E ghat|^2 of a single edge; 4 / pi for a linear f
    """
    edges, neighbours = edge_count(m, k), neighbouring_edge_pairs(m, k)
    apart = edges * edges - edges - neighbours
    return (2 * dimension * edges + neighbours * neighbour_moment + apart * mean_square) / edges**2
