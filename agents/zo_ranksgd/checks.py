"""Numbers that are given to a search, checked: each error says what is wrong and what to give. Knows numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlopt.errors import ConfigError, NonFiniteError, one_line

MOST_NUMBERS = 2**30
"""Numbers in all candidates of a query at most: 8 GiB."""


def whole(name: str, value: Any, least: int | None = None) -> int:
    """``value`` as a whole number, >= ``least``."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise ConfigError(f"{name}={one_line(repr(value))} must be a whole number")
    if least is not None and value < least:
        raise ConfigError(f"{name}={value} must be at least {least}")
    return int(value)


def positive(name: str, value: Any) -> float:
    """``value`` as a finite number > 0."""
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name}={one_line(repr(value))} must be a positive number")
    return float(value)


def checked_seed(seed: Any) -> int | None:
    """A seed of random numbers; None stays None."""
    if seed is None:
        return None
    try:
        return whole("seed", seed, 0)
    except ConfigError as error:
        raise ConfigError(f"{error}: give one of at least 0, or None for another one each time") from None


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
