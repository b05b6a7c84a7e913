"""Optimistic policy iteration: the best policy and the best distributions of a set, in turn, until neither changes."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rlopt.agents.loop.confidence_sets.counts import OptimisticValues
from rlopt.agents.loop.confidence_sets.outcomes import Optimum, Table, largest_means
from rlopt.average_reward.mdp import Array

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
RESTART = 1e-9
"""Probability of a jump to the best state that makes every chain have one recurrent class."""
PATIENCE = 10
"""Rounds without a narrower bracket after which sweeps take the place of exact evaluation."""
DENSE_STATES = 150
"""Up to as many states a policy is evaluated by solving its equations, beyond by sweeps."""


class Plan(NamedTuple):
    """A solution of J + V = max_a max_q E_q(r + V(s'))."""

    policy: Indices
    """[S]."""
    values: Array
    """[S] V, its smallest 0."""
    targets: Array
    """[S A], one backup of V, the gain included."""
    low: float
    """The gain is at least this: the least that a sweep adds."""
    high: float
    """And at most this."""
    rounds: int


def optimistic_plan(
    table: Table,
    radii: Array,
    largest_rewards: Array,
    values: Array,
    policy: Indices,
    tolerance: float,
    max_rounds: int,
    seen: Mask | None = None,
    familiar: Mask | None = None,
) -> Plan:
    """The gain-optimal policy of the processes whose distributions are within the divergence ``radii`` of the data.

    The policy and the distributions are improved together, which is policy iteration in a process whose actions choose
    both (Jaksch, Ortner and Auer 2010, section 3.1), and evaluated exactly or, for many states, by damped sweeps. What
    a pair has not shown leads to the best state of ``seen``. A pair without data pays its largest reward and leads to
    the best state of ``familiar``.

    :param radii: [S A]
    :param largest_rewards: [S A] no reward of the pair is larger
    :param values: [S] to start from
    :param policy: [S] to start from: an action is only changed for a better one
    :param tolerance: half the width of the bracket of the gain that is enough
    :param seen: [S], some of them true; None takes all states
    :param familiar: the same
    """
    states = len(values)
    everywhere = np.ones(states, bool)
    seen, familiar = (everywhere if mask is None else mask for mask in (seen, familiar))
    actions = len(radii) // states
    rows, scale = np.arange(states), max(float(np.abs(largest_rewards).max()), 1e-12)
    values = values - values.min()
    best_low, stalled = -np.inf, 0
    rounds = 0
    while True:
        rounds += 1
        best = int(np.where(seen, values, -np.inf).argmax())
        leads = np.where(table.visits > 0, best, np.where(familiar, values, -np.inf).argmax())
        top = largest_rewards + values[leads]
        optimum = largest_means(table.shares, table.rewards + values[table.following], top, radii)
        backup = optimum.mean.reshape(states, actions)
        largest = backup.max(axis=1)
        margin = 1e-9 * max(float(np.ptp(values)), scale)
        policy = np.where(backup[rows, policy] >= largest - margin, policy, backup.argmax(axis=1))
        change = largest - values
        low, high = float(change.min()), float(change.max())
        if high - low <= 2 * tolerance or rounds == max_rounds:
            break
        if low > best_low:
            best_low, stalled = low, 0
        else:
            stalled += 1
        pairs = rows * actions + policy
        evaluated = None
        if states <= DENSE_STATES:
            evaluated = _evaluated(table, optimum, pairs, leads, largest_rewards, best)
        if evaluated is None or stalled > PATIENCE:
            values = values + 0.5 * change
            for _ in range(20):
                values = _sweep(table, optimum, values, leads, largest_rewards)
            values = values - values.min()
        else:
            values = evaluated - evaluated.min()
    return Plan(policy, values, optimum.mean, low, high, rounds)


def _sweep(table: Table, optimum: Optimum, values: Array, leads: Indices, largest_rewards: Array) -> Array:
    """A damped sweep with the distributions as they are."""
    outcomes = table.rewards + values[table.following]
    means = np.einsum("nk,nk->n", optimum.shares, outcomes) + optimum.rest * (largest_rewards + values[leads])
    damped: Array = 0.5 * (values + means.reshape(len(values), -1).max(axis=1))
    return damped - damped.min()


def _evaluated(
    table: Table, optimum: Optimum, pairs: Indices, leads: Indices, largest_rewards: Array, best: int
) -> Array | None:
    """[S] the bias of the policy that takes ``pairs`` under the distributions of ``optimum``; None if it has none."""
    states, rows = len(pairs), np.arange(len(pairs))
    shares, rest = optimum.shares[pairs], optimum.rest[pairs]
    chain = np.zeros((states, states))
    np.add.at(chain, (rows[:, None], table.following[pairs]), shares)
    np.add.at(chain, (rows, leads[pairs]), rest)
    rewards = np.einsum("nk,nk->n", shares, table.rewards[pairs]) + rest * largest_rewards[pairs]
    return _bias(chain, rewards, best)


def _bias(chain: Array, rewards: Array, best: int) -> Array | None:
    """[S] the bias of a chain that jumps to ``best`` now and then, where it is 0; None if it has none."""
    matrix = np.eye(len(chain)) - (1.0 - RESTART) * chain
    # The gain takes the place of the value of that state.
    matrix[:, best] = 1.0
    try:
        solved = np.linalg.solve(matrix, rewards)
    except np.linalg.LinAlgError:
        return None
    solved[best] = 0.0
    return np.asarray(solved, np.float64) if np.all(np.isfinite(solved)) else None


def kernel_plan(
    kernel_of: Callable[[Array], Array], rewards: Array, values: Array, accuracy: float, max_rounds: int
) -> OptimisticValues:
    """Optimistic policy iteration over dense distributions: the best for the values, then the bias of the best policy.

    :param kernel_of: values [S] to the distributions [S, A, S] that are best for them
    :param rewards: [S, A]
    :param values: [S] to start from
    :param accuracy: half the width of the bracket of the gain that is enough
    """
    states = len(values)
    rows, values = np.arange(states), values - values.min()
    policy, rounds, stalled, best_width = np.zeros(states, np.int64), 0, 0, np.inf
    while True:
        rounds += 1
        kernel = kernel_of(values)
        backup = rewards + kernel @ values
        largest = backup.max(axis=1)
        margin = 1e-9 * (float(np.ptp(values)) + float(np.abs(rewards).max()) + 1e-12)
        policy = np.where(backup[rows, policy] >= largest - margin, policy, backup.argmax(axis=1))
        change = largest - values
        low, high = float(change.min()), float(change.max())
        if high - low <= 2 * accuracy or rounds >= max_rounds:
            return OptimisticValues(values, backup, (low + high) / 2, (high - low) / 2, rounds)
        stalled = 0 if high - low < best_width else stalled + 1
        best_width = min(best_width, high - low)
        bias = None
        if states <= DENSE_STATES and stalled <= PATIENCE:
            bias = _bias(kernel[rows, policy], rewards[rows, policy], int(values.argmax()))
        values = values + 0.5 * change if bias is None else bias
        values = values - values.min()
