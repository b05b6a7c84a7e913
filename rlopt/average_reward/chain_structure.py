"""What kind of process it is: communicating, weakly communicating or multichain, and whether it is unichain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rlopt.average_reward.end_components import Indices, chain_classes, end_components
from rlopt.average_reward.pairs import Pairs

if TYPE_CHECKING:
    from rlopt.average_reward.mdp import DecisionProcess

UNICHAIN_STATES = 500
"""Larger processes are not searched for a state that no policy can avoid: :attr:`Structure.unichain` is None."""


@dataclass(frozen=True, eq=False)
class Structure:
    """The classification of Puterman (1994, section 8.3); see :func:`structure`."""

    kind: str
    """``communicating``: every state can be reached from every other. ``weakly communicating``: so can those of one
    set, and the others are left for good whatever is done. ``multichain``: neither, so that the gain can depend on the
    first state."""
    unichain: bool | None
    """Whether every policy has one recurrent class; None where that was not found out, which is hard in general
    (Tsitsiklis 2007)."""
    components: Indices
    """[S] the number of the maximal end component of each state: the set in which a policy can keep it for ever and
    lead it everywhere; -1 for a state that is left for good whatever is done."""


def structure(mdp: DecisionProcess) -> Structure:
    """Classifies a process by which transitions are possible, however improbable."""
    pairs = mdp.pairs
    labels, _ = end_components(pairs)
    if labels.max() > 0:
        return Structure("multichain", False, labels)
    kind = "communicating" if (labels == 0).all() else "weakly communicating"
    return Structure(kind, _is_unichain(pairs, labels), labels)


def _is_unichain(pairs: Pairs, labels: Indices) -> bool | None:
    """Two policies' recurrent classes must meet (else one policy has both): True if all of them share a state."""
    if pairs.n_states > UNICHAIN_STATES:
        return None
    classes = chain_classes(pairs.chain(pairs.best(pairs.rewards)))
    own = classes == 0
    if classes.max() > 0 or _apart_from(pairs, own):
        return False
    for state in np.flatnonzero(own):
        alone = np.zeros(pairs.n_states, bool)
        alone[state] = True
        others = _apart_from(pairs, alone)
        if not others:
            return True
        if others > 1:
            return False
    return None


def _apart_from(pairs: Pairs, avoided: np.ndarray) -> int:
    """How many end components there are that the states ``avoided`` [S] are not in."""
    keeps_out = np.ones(pairs.n_pairs, bool)
    keeps_out[avoided[pairs.state]] = False
    keeps_out[pairs.row[avoided[pairs.column]]] = False
    left = keeps_out
    # States whose pairs are all gone take those that lead to them along.
    while True:
        has = np.zeros(pairs.n_states, bool)
        has[pairs.state[left]] = True
        following = left.copy()
        following[pairs.row[~has[pairs.column]]] = False
        if np.array_equal(following, left):
            break
        left = following
    if not left.any():
        return 0
    return int(end_components(pairs.only(left).inside(np.flatnonzero(has)))[0].max()) + 1


def require_constant_gain(mdp: DecisionProcess) -> None:
    """Raises :class:`rlopt.errors.ModelError` if the optimal gain depends on the first state."""
    if end_components(mdp.pairs)[0].max() > 0:
        mdp.solution.gain  # noqa: B018  raises where there is no single gain
