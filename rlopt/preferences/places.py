"""Answers as places: one whole number for each fragment of a question."""

from __future__ import annotations

import numpy as np

from rlopt.feedback.ranking import Ranking

WORST = 2**30
"""Place of a fragment that an answer leaves unranked: worse than every place, and never chosen."""
ABSENT = -1
"""Place of what is not a fragment, where a question has fewer than others."""


def places_of(answer: Ranking, m: int) -> np.ndarray:
    """(m,) int64: the tier of each candidate from 0, the best; :data:`WORST` for the unranked.

    :raises rlopt.errors.AnswerError: the answer does not fit, or abstains
    """
    answer.check(m)
    places = np.full(m, WORST, np.int64)
    for place, tier in enumerate(answer.tiers):
        places[list(tier)] = place
    return places


def ranking_of(places: np.ndarray) -> Ranking:
    """The inverse of :func:`places_of`."""
    tiers = [tuple(np.flatnonzero(places == place).tolist()) for place in np.unique(places[places != WORST])]
    return Ranking(tuple(tiers), tuple(np.flatnonzero(places == WORST).tolist()))
