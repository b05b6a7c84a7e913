"""Step sizes and smoothing that fall over the rounds of a search."""

from __future__ import annotations

import math

LAST_LINEAR_FACTOR = 0.01
"""The share of the first value that is left at the end: a smoothing of 0 would leave nothing to rank."""


def schedule_factor(kind: str, index: int, rounds: int | None) -> float:
    """What a first value is multiplied with in the round ``index`` = 0, 1, ..

    ``linear`` falls from 1 to .01 in the round ``rounds`` and stays there; ``inverse_sqrt`` is 1 / sqrt(index + 1), the
    paper's rate where the number of rounds is not known beforehand.
    """
    if kind == "linear":
        assert rounds is not None
        return 1.0 - (1.0 - LAST_LINEAR_FACTOR) * min(index / rounds, 1.0)
    return 1.0 / math.sqrt(index + 1) if kind == "inverse_sqrt" else 1.0
