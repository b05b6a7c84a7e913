"""Replay of a ranking study of policies: its search is rebuilt from the study."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlopt.errors import StudyError
from rlopt.feedback.store import Study, StudyStore
from rlopt.feedback.study import Part
from rlopt.feedback.trainer import OptimizerState, read_state


def optimizer_of(store: StudyStore, study: Study) -> tuple[Any, Part | None]:
    """A new search with the settings of the study's, and what takes its state out of the study's, for a replay.

    :raises StudyError: the study is of another optimiser: call :func:`rlopt.feedback.study.replay` with it in Python
    """
    from rlopt.agents.zo_ranksgd.methods import search_of_state

    kind = study.algorithm.rpartition(" ")[0]
    if kind not in _PARTS:
        raise StudyError(f"study {study.name!r} is of {study.algorithm}: replay it in Python with that optimiser")
    part, first = _PARTS[kind], read_state(store, study, 0)
    try:
        state, arrays = (first.state, first.arrays) if part is None else part(first)
        return search_of_state(state, arrays), part
    except (KeyError, TypeError, ValueError) as error:
        raise StudyError(
            f"the first state of study {study.name!r} is malformed or of another version ({error})"
        ) from None


def _search_of_policies(state: OptimizerState) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The optimiser's part of a policy search, which also keeps statistics of observations and counters."""
    prefix = "optimizer."
    own = {name.removeprefix(prefix): array for name, array in state.arrays.items() if name.startswith(prefix)}
    return state.state["optimizer"], own


_PARTS: dict[str, Part | None] = {
    "ZORankSGD": None, "RankedCMAES": None, "MirroredCMAES": None, "ElitistCMAES": None,
    "OnePlusLambda": None, "ParallelSearch": None,
    "StudiedSearch": _search_of_policies, "ParallelStudiedSearch": _search_of_policies,
}  # fmt: skip
