"""The structure of Markov chains: recurrent classes, stationary distributions, long-run shares of time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rlopt.average_reward.elimination import TransientSystem
from rlopt.average_reward.end_components import closed_components
from rlopt.errors import ModelError

if TYPE_CHECKING:
    from rlopt.average_reward.mdp import Array


def recurrent_classes(chain: Array) -> list[np.ndarray]:
    """The closed communicating classes of a chain [S, S], each a sorted array of states; by their first states."""
    labels = closed_components(len(chain), *np.nonzero(chain > 0))
    return [np.flatnonzero(labels == number) for number in range(labels.max() + 1)]


def stationary_distribution(chain: Array) -> Array:
    """[S] the stationary distribution of a chain with one recurrent class. Periodic chains have one too.

    The elimination of Grassmann, Taksar and Heyman (1985) subtracts nothing, so that small probabilities are as
    accurate as large ones.

    :raises ModelError: if there are several recurrent classes
    """
    classes = recurrent_classes(chain)
    if len(classes) > 1:
        raise ModelError(
            f"the chain has {len(classes)} recurrent classes ({_shown(classes)}), so its long-run behaviour depends on "
            "the first state: keep the states of one class"
        )
    distribution = np.zeros(len(chain))
    distribution[classes[0]] = _irreducible_distribution(chain[np.ix_(classes[0], classes[0])])
    return distribution


def limiting_matrix(chain: Array) -> Array:
    """[S, S] the long-run fraction of time in each state from each state, P* (Puterman 1994, appendix A.4)."""
    limit = np.zeros_like(chain)
    transient = np.ones(len(chain), bool)
    classes = recurrent_classes(chain)
    distributions = []
    for states in classes:
        distributions.append(_irreducible_distribution(chain[np.ix_(states, states)]))
        limit[np.ix_(states, states)] = distributions[-1]
        transient[states] = False
    inside = np.flatnonzero(transient)
    if len(inside):
        into = np.stack([chain[np.ix_(inside, states)].sum(axis=1) for states in classes], axis=1)
        among = chain[np.ix_(inside, inside)]
        np.fill_diagonal(among, 0.0)
        row, column = np.nonzero(among)
        system = TransientSystem(row, column, among[row, column], into.sum(axis=1))
        absorbed = np.stack([system.solve(share) for share in into.T], axis=1)
        for states, distribution, share in zip(classes, distributions, absorbed.T, strict=True):
            limit[np.ix_(inside, states)] = share[:, None] * distribution
    return limit


def _irreducible_distribution(chain: Array) -> Array:
    work = np.array(chain)
    size = len(work)
    for last in range(size - 1, 0, -1):
        work[:last, last] /= work[last, :last].sum()
        work[:last, :last] += np.outer(work[:last, last], work[last, :last])
    distribution = np.ones(size)
    for state in range(1, size):
        distribution[state] = distribution[:state] @ work[:state, state]
    return distribution / distribution.sum()


def _shown(classes: list[np.ndarray]) -> str:
    def states(members: np.ndarray) -> str:
        return "{" + ", ".join(str(int(s)) for s in members[:5]) + (", ..." if len(members) > 5 else "") + "}"

    return ", ".join(states(members) for members in classes[:3]) + (", ..." if len(classes) > 3 else "")
