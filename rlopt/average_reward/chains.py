"""The structure of Markov chains and processes: classes, stationary distributions, and whether one gain exists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rlopt.errors import ModelError

if TYPE_CHECKING:
    from rlopt.average_reward.mdp import Array, FiniteMDP


def recurrent_classes(chain: Array) -> list[np.ndarray]:
    """The closed communicating classes of a chain [S, S], each a sorted array of states; by their first states."""
    from scipy.sparse.csgraph import connected_components  # slow to import

    edges = chain > 0
    count, labels = connected_components(edges, directed=True, connection="strong")
    leaves = np.zeros(count, bool)
    sources, targets = np.nonzero(edges)
    leaves[labels[sources][labels[sources] != labels[targets]]] = True
    classes = [np.flatnonzero(labels == label) for label in range(count) if not leaves[label]]
    return sorted(classes, key=lambda states: int(states[0]))


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
        absorbed = np.linalg.solve(np.eye(len(inside)) - chain[np.ix_(inside, inside)], into)
        for states, distribution, share in zip(classes, distributions, absorbed.T, strict=True):
            limit[np.ix_(inside, states)] = share[:, None] * distribution
    return limit


def require_one_gain(mdp: FiniteMDP) -> None:
    """Raises :class:`rlopt.errors.ModelError` unless ``mdp`` is weakly communicating (Puterman 1994, section 8.3).

    That is: some states can all be reached from each other, and every other state is left for good whatever is done.
    Exactly then the structure alone makes the optimal gain the same from every state. Unichain and communicating
    processes are of this kind.
    """
    union = mdp.P.max(axis=1)
    closed = recurrent_classes(union)
    if len(closed) > 1:
        raise ModelError(
            f"the process is multichain: once in one of the {len(closed)} sets of states {_shown(closed)} no action "
            "leads out of it, so the gain depends on the first state; keep one set with the states that lead to it, or "
            "add a reset to a common state"
        )
    outside = np.ones(mdp.n_states, bool)
    outside[closed[0]] = False
    while outside.any():
        # An action stays outside if it leads to no state of the closed set; a state without one is transient.
        stays = mdp.P[:, :, ~outside].sum(axis=2) == 0
        kept = outside & stays.any(axis=1)
        if np.array_equal(kept, outside):
            raise ModelError(
                f"the process is reducible: a policy can stay in the states {_shown([np.flatnonzero(outside)])}, which "
                f"cannot be reached from {_shown(closed)}, so the gain may depend on the first state; remove them, or "
                "make them reachable"
            )
        outside = kept


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
