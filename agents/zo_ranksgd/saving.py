"""The state of a search as values for JSON and arrays."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from rlopt.agents.zo_ranksgd.query import GRADIENT, LINE_SEARCH, Query, read_only
from rlopt.errors import CheckpointError, one_line
from rlopt.state.generator import capture
from rlopt.state.generator import restore as restore_generator
from rlopt.storage.json import dump_json

if TYPE_CHECKING:
    from rlopt.agents.zo_ranksgd.optimizer import ZORankSGD

FORMAT, VERSION = "rlopt-zo-ranksgd", 1
_COUNTERS = ("iteration", "rounds", "oracle_points", "averaged")


def settings_of(search: ZORankSGD) -> dict[str, Any]:
    """What a search was made with, for JSON."""
    return {
        "dimension": search.dimension,
        "subspace": None if search._basis is None else search._basis.shape[1],
        "m": search.m,
        "k": search.k,
        "smoothing": search.smoothing,
        "learning_rate": search.learning_rate,
        "line_search_points": search.line_search.points,
        "line_search_decay": search.line_search.decay,
        "accumulate": search.accumulate,
        "best_query_in_line_search": search.line_search.best_query,
        "smoothing_schedule": search.smoothing_schedule,
        "learning_rate_schedule": search.learning_rate_schedule,
        "schedule_rounds": search.schedule_rounds,
    }


def state_of(search: ZORankSGD) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """See :meth:`rlopt.agents.zo_ranksgd.optimizer.ZORankSGD.state_dict`."""
    state = {
        "format": FORMAT,
        "version": VERSION,
        "settings": settings_of(search),
        **{name: getattr(search, f"_{name}") for name in _COUNTERS},
        "phase": search._phase,
        "asked": search._query is not None,
        "random": capture(search._rng),
    }
    arrays = {"point": search._point, "direction": search._direction, "best_query": search._best_query}
    if search._basis is not None:
        arrays["basis"] = search._basis
    if search._query is not None:
        # Not computed again from the random state: another BLAS rounds a product with the basis differently.
        arrays["candidates"] = search._query.candidates
    if search._perturbations is not None:
        arrays["perturbations"] = search._perturbations
    return state, {name: array.copy() for name, array in arrays.items()}


def restore(search: ZORankSGD, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """See :meth:`rlopt.agents.zo_ranksgd.optimizer.ZORankSGD.load_state_dict`."""
    own = {"format", "version", "settings", *_COUNTERS, "phase", "asked", "random"}
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError("this is no state of ZORankSGD")
    if state.get("version") != VERSION:
        raise CheckpointError(f"the state has version {one_line(repr(state.get('version')))}, rlopt reads {VERSION}")
    if set(state) != own:
        raise CheckpointError(f"the state of ZORankSGD is malformed: {sorted(own ^ set(state), key=str)[0]}")
    check_settings("ZORankSGD", settings_of(search), state["settings"])
    counters = [state[name] for name in _COUNTERS]
    if not all(type(value) is int and value >= 0 for value in counters) or type(state["asked"]) is not bool:
        raise CheckpointError("the state of ZORankSGD is malformed: a counter is not a whole number")
    phase = state["phase"]
    if phase not in (GRADIENT, LINE_SEARCH) or (phase == LINE_SEARCH and not search.line_search.points):
        raise CheckpointError(f"the state of ZORankSGD is malformed: phase {one_line(repr(phase))}")
    found = checked_arrays("ZORankSGD", arrays, _shapes(search, phase == GRADIENT, state["asked"]))
    rng = np.random.Generator(np.random.PCG64(0))
    try:
        restore_generator(rng, state["random"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the state of ZORankSGD is malformed: {one_line(error)}") from None

    search._rng, search._phase = rng, phase
    search._iteration, search._rounds, search._oracle_points, search._averaged = counters
    search._point, search._direction = read_only(found["point"]), found["direction"]
    search._best_query, search._basis = found["best_query"], found.get("basis")
    search._perturbations, search._query = found.get("perturbations"), None
    if state["asked"]:
        candidates = read_only(found["candidates"])
        gradient = phase == GRADIENT
        current = None if gradient else len(candidates) - 1
        search._query = Query(phase, search._iteration, candidates, search.k if gradient else 1, current)


def digest(state: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of a state in hexadecimal digits; of names, types, shapes and contents."""
    found = hashlib.sha256(dump_json(dict(sorted(state.items()))).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def check_settings(name: str, own: dict[str, Any], saved: Any) -> None:
    """Refuses a state that was saved by a search ``name`` with other settings.

    :raises CheckpointError: it was, or there are none
    """
    if not isinstance(saved, dict) or set(saved) != set(own):
        raise CheckpointError(f"the state of {name} is malformed: settings")
    for setting, value in own.items():
        if saved[setting] != value or type(saved[setting]) is not type(value):
            raise CheckpointError(
                f"the state was saved with {setting}={one_line(repr(saved[setting]))}, this search has {value!r}: "
                "make it with the settings of the state"
            )


def checked_arrays(name: str, arrays: Any, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Copies of the arrays that a state of a search ``name`` must have, and no others, each of its shape and finite.

    :raises CheckpointError: they are others
    """
    if not isinstance(arrays, dict) or set(arrays) != set(shapes):
        raise CheckpointError(f"the state of {name} needs exactly the arrays {', '.join(shapes)}")
    for key, shape in shapes.items():
        array = arrays[key]
        if not isinstance(array, np.ndarray) or array.dtype != np.float64 or array.shape != shape:
            raise CheckpointError(f"the state of {name} is malformed: {key} is not a float64 array of shape {shape}")
        if not np.isfinite(array).all():
            raise CheckpointError(f"the state of {name} is malformed: {key} is not finite")
    return {key: np.array(arrays[key]) for key in shapes}


def _shapes(search: ZORankSGD, gradient: bool, asked: bool) -> dict[str, tuple[int, ...]]:
    d, basis = search.dimension, search._basis
    shapes: dict[str, tuple[int, ...]] = {"point": (d,), "direction": (d,), "best_query": (d,)}
    if basis is not None:
        shapes["basis"] = basis.shape
    if asked:
        shapes["candidates"] = (search.m if gradient else search.line_search.points, d)
    if asked and gradient:
        shapes["perturbations"] = (search.m, d if basis is None else basis.shape[1])
    return shapes
