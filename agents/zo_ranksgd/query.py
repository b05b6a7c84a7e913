"""Shared parts of every search by ask and tell: queries, a current point, and counts. Uses numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlopt.agents.zo_ranksgd.checks import checked_point, checked_seed
from rlopt.errors import ConfigError, NonFiniteError, one_line
from rlopt.state.generator import generator

GRADIENT, LINE_SEARCH, POPULATION = "gradient", "line_search", "population"
"""Kinds of queries: two of ZO-RankSGD, and that of evolution strategies and peers."""
NO_EDGES = "nothing was said to be better than anything else"


@dataclass(frozen=True)
class Query:
    """What an oracle is to rank, best (lowest f) first."""

    kind: str
    """``gradient``: points around the current one; ``line_search``: steps along the estimated direction;
    ``population``: a generation of an evolution strategy or a peer."""
    iteration: int
    """Number of queries answered before."""
    candidates: np.ndarray
    """[m, d] float64, read-only."""
    k: int
    """How many best are asked for, 1 <= k <= m; answers that tell more or less are taken too."""
    current: int | None
    """Index of the candidate that is the current point, None if it is not among them."""


@dataclass(frozen=True)
class Outcome:
    """What an answer changed."""

    kind: str
    """The kind of the query."""
    moved: bool
    """Whether the current point changed."""
    edges: int
    """Edges in the graphs of all annotators' answers."""
    step_norm: float
    """Distance from the former point to the new one."""
    message: str
    """The same for people."""


class Search:
    """A search with a current point, before anything is asked.

    :param initial: [d], the first point
    :param seed: seed of its random numbers, at least 0; None for new ones each time
    :raises rlopt.errors.ConfigError: either is something else
    """

    def __init__(self, initial: Sequence[float] | np.ndarray, seed: int | None) -> None:
        self._point = checked_point(initial)
        self._rng = generator(checked_seed(seed))
        self._query: Query | None = None
        self._iteration = self._oracle_points = 0

    @property
    def point(self) -> np.ndarray:
        """The current point, [d] float64, read-only."""
        return self._point

    @property
    def dimension(self) -> int:
        """d."""
        return len(self._point)

    @property
    def iteration(self) -> int:
        """Number of queries answered, gradient queries and line searches alike."""
        return self._iteration

    @property
    def oracle_points(self) -> int:
        """Candidates of all queries answered."""
        return self._oracle_points


def read_only(array: np.ndarray) -> np.ndarray:
    """The array itself, from now on closed to writing."""
    array.flags.writeable = False
    return array


def make_basis(subspace: int | np.ndarray | None, dimension: int, rng: np.random.Generator) -> np.ndarray | None:
    """[d, s] of the searched subspace; None for all dimensions."""
    if subspace is None:
        return None
    if isinstance(subspace, (int, np.integer)) and not isinstance(subspace, bool):
        if not 1 <= subspace <= dimension:
            raise ConfigError(f"subspace={subspace} is outside 1..{dimension}, the dimensions of the point")
        return np.ascontiguousarray(np.linalg.qr(rng.standard_normal((dimension, int(subspace))))[0])
    try:
        basis = np.array(subspace, np.float64)
    except (TypeError, ValueError):
        raise ConfigError(f"subspace={one_line(repr(subspace))} must be a number of dimensions, or a basis") from None
    if basis.ndim != 2 or basis.shape[0] != dimension or not 1 <= basis.shape[1] <= dimension:
        raise ConfigError(f"subspace must be a basis of shape ({dimension}, 1..{dimension}), not {basis.shape}")
    if not np.isfinite(basis).all():
        raise NonFiniteError("the basis of the subspace is not finite")
    if np.linalg.matrix_rank(basis) < basis.shape[1]:
        raise ConfigError("the columns of the subspace's basis are linearly dependent: leave out what repeats others")
    return basis
