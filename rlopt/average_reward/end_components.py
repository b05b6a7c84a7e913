"""The structure of a process: where a policy can stay for ever, and how to come to a set of states."""

import numpy as np
import numpy.typing as npt

from rlopt.average_reward.pairs import Pairs

Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]


def strong_components(n_states: int, source: Indices, target: Indices) -> Indices:
    """[S] the number of each state's strongly connected component in the graph with these edges."""
    from scipy.sparse import coo_array  # slow to import
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(source), np.int8), (source, target)), shape=(n_states, n_states))
    return np.asarray(connected_components(graph.tocsr(), directed=True, connection="strong")[1], np.int64)


def chain_classes(chain: Pairs) -> Indices:
    """[S] the number of each state's recurrent class, by their first states; -1 where it is transient."""
    return closed_components(chain.n_states, chain.source, chain.column)


def closed_components(n_states: int, source: Indices, target: Indices) -> Indices:
    """[S] likewise, of the chain whose possible transitions are these edges."""
    labels = strong_components(n_states, source, target)
    closed = np.ones(n_states, bool)  # by label
    closed[labels[source[labels[source] != labels[target]]]] = False
    return _numbered(np.where(closed[labels], labels, -1))


def end_components(pairs: Pairs) -> tuple[Indices, Mask]:
    """The maximal sets of states in which some actions keep a policy for ever and lead from every state to every other.

    Every policy's recurrent classes lie in such sets (de Alfaro, Formal verification of probabilistic systems, 1997,
    section 3.3).

    :returns: [S] the number of each state's set, by their first states, -1 outside of all; [m] the pairs that stay
    """
    alive = np.ones(pairs.n_pairs, bool)
    while True:
        entries = alive[pairs.row]
        labels = strong_components(pairs.n_states, pairs.source[entries], pairs.column[entries])
        leaving = labels[pairs.source] != labels[pairs.column]
        stays = alive.copy()
        stays[pairs.row[leaving]] = False
        if np.array_equal(stays, alive):
            break
        alive = stays
    kept = np.zeros(pairs.n_states, bool)
    kept[pairs.state[alive]] = True
    return _numbered(np.where(kept, labels, -1)), alive


def lead_to(pairs: Pairs, chosen: Indices, target: Mask) -> Indices:
    """``chosen`` [S] changed where it never comes to ``target`` [S] and another choice can: there by a shortest way."""
    chain = pairs.chain(chosen)
    reached, _ = back_from(pairs.n_states, chain.source, chain.column, target)
    if reached.all():
        return chosen
    all_reached, after = back_from(pairs.n_states, pairs.source, pairs.column, reached)
    hits = np.flatnonzero(pairs.column == after[pairs.source])[::-1]
    found = chosen.copy()
    found[pairs.source[hits]] = pairs.row[hits]
    return np.where(all_reached & ~reached, found, chosen)


def back_from(n_states: int, source: Indices, column: Indices, target: Mask) -> tuple[Mask, Indices]:
    """[S] which states come to ``target``, and the state after each on a shortest way; -1 in ``target``."""
    from scipy.sparse import coo_array  # slow to import
    from scipy.sparse.csgraph import breadth_first_order

    goals = np.flatnonzero(target)
    # One more node, from which the search goes into the targets and then against the edges.
    begin = np.concatenate([column, np.full(len(goals), n_states)])
    end = np.concatenate([source, goals])
    graph = coo_array((np.ones(len(begin), np.int8), (begin, end)), shape=(n_states + 1, n_states + 1)).tocsr()
    order, after = breadth_first_order(graph, n_states, directed=True, return_predecessors=True)
    reached = np.zeros(n_states + 1, bool)
    reached[order] = True
    following = np.asarray(after[:n_states], np.int64)
    return reached[:n_states], np.where(reached[:n_states] & ~target, following, -1)


def _numbered(labels: Indices) -> Indices:
    """``labels`` renumbered 0, 1, ... in the order of their first states; -1 stays."""
    found, first = np.unique(labels[labels >= 0], return_index=True)
    number = np.full(int(labels.max(initial=-1)) + 2, -1)
    number[found[np.argsort(first)]] = np.arange(len(found))
    return number[labels]
