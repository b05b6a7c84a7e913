"""The squared Bellman loss of LOOP and its discrepancy: pure functions of arrays.

Notation: a hypothesis f has action values Q [.., A], state values V = max_a Q and a gain J. A transition z =
(s, a, r, s') has the loss l((f, g), z) = Q_g(s, a) + J_g - r - V_f(s'), and the data D the sum L_D(f, g) of squared
losses. The *discrepancy* L_D(f, f) - min_g L_D(f, g) measures the Bellman error of f on the data, without the noise of
the next states.
"""

import numpy as np

from rlopt.average_reward.mdp import Array


def pair_errors(targets: Array, counts: Array, reward_sums: Array, transitions: Array, state_values: Array) -> Array:
    """Sums of losses of each pair, u(s, a) = sum_i [Q_f + J_f - r_i - V_f(s'_i)] over its visits.

    :param targets: [S, A], Q_f + J_f
    :param counts: [S, A] visits
    :param reward_sums: [S, A]
    :param transitions: [S, A, S] visits by next state
    :param state_values: [S], V_f
    :returns: [S, A]
    """
    return np.asarray(counts * targets - reward_sums - transitions @ state_values, np.float64)


def tabular_discrepancy(errors: Array, counts: Array) -> float:
    """L_D(f, f) - min_g L_D(f, g) over all functions g of the pair: sum u^2 / n.

    The best g is the mean of r + V_f(s') over the visits of a pair, whose distance from Q_f + J_f is u / n.

    :param errors: [S, A], of :func:`pair_errors`
    :param counts: [S, A]; pairs with none count 0
    """
    return float(np.sum(errors**2 / np.maximum(counts, 1)))


def projected_discrepancy(target_square_sum: float, mixed_features: Array, regression: Array, ridge: float) -> float:
    """sum_i [Q_f(z_i) + J_f - phi_i . w]^2, the squared distance of f on the data from its own linear regression w.

    If Q_f is linear in the features and the regression has no ridge, this is L_D(f, f) - min_g L_D(f, g) over linear g,
    by the normal equations. It is never negative, and it stays meaningful for a plan with a bonus or clipped values,
    which is not linear.

    :param target_square_sum: sum_i (Q_f + J_f)^2
    :param mixed_features: [d], sum_i [2 (Q_f + J_f) - y_i] phi_i with y_i = r_i + V_f(s'_i)
    :param regression: [d], w, which solves (ridge + sum_i phi_i phi_i^T) w = sum_i y_i phi_i
    """
    # w . (sum phi phi^T) w = w . (sum y phi - ridge w), so the Gram matrix is not needed.
    return max(target_square_sum - float(regression @ (mixed_features + ridge * regression)), 0.0)


def ellipsoid_residual(direction: Array, widths: Array, beta: float) -> Array:
    """The b with sum b^2 / widths <= beta that maximises sum direction b (Cauchy-Schwarz); 0 for a zero direction.

    :param direction: [...] gradient of the gain, such as the long-run frequencies of pairs
    :param widths: [...] one over the (prior and observed) visits
    """
    norm = float(np.sqrt(np.sum(direction**2 * widths)))
    return np.asarray(np.sqrt(beta) * direction * widths / norm if norm > 0 else np.zeros_like(direction), np.float64)
