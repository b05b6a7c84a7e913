"""Step sizes and smoothing that fall over the rounds of a search."""

from __future__ import annotations

import math

from rlopt.errors import ConfigError, unknown_name

SCHEDULES = ("constant", "linear", "inverse_sqrt")
LAST_LINEAR_FACTOR = 0.01
"""The share of the first value that is left at the end: a smoothing of 0 would leave nothing to rank."""


def check_schedule(name: str, kind: str, rounds: int | None) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for an unknown kind, or a linear schedule without its length."""
    if kind not in SCHEDULES:
        raise unknown_name(name, str(kind), SCHEDULES)
    if kind == "linear" and rounds is None:
        raise ConfigError(f"{name} 'linear' needs schedule_rounds, the number of rounds over which it falls")


def schedule_factor(kind: str, index: int, rounds: int | None) -> float:
    """What a first value is multiplied with in the round ``index`` = 0, 1, ..

    ``linear`` falls from 1 to .01 in the round ``rounds`` and stays there; ``inverse_sqrt`` is 1 / sqrt(index + 1), the
    paper's rate where the number of rounds is not known beforehand.
    """
    if kind == "linear":
        assert rounds is not None
        return 1.0 - (1.0 - LAST_LINEAR_FACTOR) * min(index / rounds, 1.0)
    return 1.0 / math.sqrt(index + 1) if kind == "inverse_sqrt" else 1.0
