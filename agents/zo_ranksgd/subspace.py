"""The subspace to which a search is confined."""

from __future__ import annotations

import numpy as np

from rlopt.errors import ConfigError, NonFiniteError, one_line


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
