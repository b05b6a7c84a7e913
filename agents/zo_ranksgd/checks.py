"""Checks of the numbers given to a search; each error says what is wrong and what to give. Uses numpy only."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from rlopt.errors import ConfigError, NonFiniteError, one_line
from rlopt.settings.fields import Range, check_setting

MOST_NUMBERS = 2**30
"""Numbers in all candidates of a query at most: 8 GiB."""


def checked_seed(seed: Any) -> int | None:
    """A seed of random numbers; None stays None."""
    checked: int | None = check_setting("seed", seed, Annotated[int, Range(ge=0)] | None)
    return checked


def checked_point(initial: Sequence[float] | np.ndarray) -> np.ndarray:
    """A read-only float64 copy of a first point, [d]; raises for what is none."""
    try:
        point = np.array(initial, np.float64)
    except (TypeError, ValueError):
        raise ConfigError(
            f"the first point must be a vector of numbers, such as numpy.zeros(20), not {one_line(repr(initial))}"
        ) from None
    if point.ndim != 1 or not len(point):
        raise ConfigError(f"the first point must be a vector of at least one number, not shape {point.shape}")
    if not np.isfinite(point).all():
        where = int(np.flatnonzero(~np.isfinite(point))[0])
        raise NonFiniteError(f"the first point is not finite in dimension {where}: start from finite numbers")
    point.flags.writeable = False
    return point


def check_size(name: str, count: int, dimension: int) -> None:
    """Refuses queries that fit into no usual memory."""
    if count * dimension > MOST_NUMBERS:
        size = f"{count * dimension / 2**27:,.0f} GiB"
        most = max(MOST_NUMBERS // dimension, 2)
        raise ConfigError(f"{name}={count} candidates of {dimension} numbers take {size}: give at most {name}={most}")
