"""Minari's declared spaces, against which its arrays are checked. They are read as JSON; no space is made."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from rlopt.data.checks import CLIP_ACTIONS, check_bounds, check_discrete_actions, float32
from rlopt.errors import DataError, one_line


def observation_column(array: np.ndarray, key: str) -> np.ndarray:
    """Observations as float32, uint8 or int64, which data sets hold; not finite ones raise as :func:`float32` does."""
    if array.dtype.kind == "f":
        return float32(f"observations {key}".strip(), array)
    return array if array.dtype == np.uint8 else array.astype(np.uint8 if array.dtype == bool else np.int64)


def _space(text: str, path: str = "") -> tuple[str, tuple[int, ...], dict[str, Any]]:
    """(type, shape, entry) of the space at ``path`` in Minari's JSON; the shape of what is no Box is ().

    :raises rlopt.errors.DataError: malformed, or no such entry
    """
    try:
        entry = json.loads(text)
        for part in path.split("/") if path else ():
            entry = entry["subspaces"][part]
        kind = entry["type"]
        shape = entry["shape"] if kind == "Box" else []
        if not isinstance(kind, str) or not all(type(size) is int and size >= 0 for size in shape):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError(f"its spaces have no entry {path!r} or are malformed") from None
    return kind, tuple(shape), entry


def check_shapes(observations: dict[str, np.ndarray], space_text: str) -> None:
    """Makes sure that the arrays have the shapes that the metadata declare.

    :raises rlopt.errors.DataError: if they do not
    """
    for key, array in observations.items():
        kind, shape, _ = _space(space_text, key)
        if kind in ("Box", "Discrete") and array.shape[1:] != shape:
            raise DataError(
                f"observations {key} have shape {array.shape[1:]}, their space {one_line(shape)}: images that minari "
                "stored as JPEG are not read (write them with jpeg_encoding=False), anything else is damaged"
            )


def checked_actions(actions: np.ndarray, space_text: str, clip: bool) -> tuple[np.ndarray, list[str]]:
    """Actions in the data set's dtype, checked against the space that the metadata declares, and notes.

    :raises rlopt.errors.DataError: for actions outside that space, or a space that is malformed or not supported
    """
    kind, shape, entry = _space(space_text)
    try:
        if kind == "Discrete":
            start, number = int(entry.get("start", 0)), int(entry["n"])
        elif kind == "Box":
            low, high = (np.asarray(entry[side], np.float64) for side in ("low", "high"))
    except (ValueError, KeyError, TypeError, OverflowError, AttributeError):
        raise DataError("the bounds of its action space are malformed") from None
    if kind == "Discrete" and actions.dtype.kind in "iu":
        actions = actions.reshape(len(actions), -1)[:, 0].astype(np.int64)
        check_discrete_actions(actions, start, start + number - 1, "the data set's action space")
        return actions, []
    if kind != "Box" or actions.dtype.kind != "f" or len(shape) != 1:
        raise DataError(f"{actions.dtype} actions in a {one_line(kind)} space of shape {shape} are not supported")
    if not actions.shape[1:] == shape == low.shape == high.shape:
        raise DataError(f"actions of shape {actions.shape[1:]} do not fit the bounds of their space: damaged")
    actions = float32("actions", actions)
    if not clip:
        check_bounds(actions, low, high, f"the bounds are the data set's own; {CLIP_ACTIONS}")
        return actions, []
    clipped = np.clip(actions, low.astype(np.float32), high.astype(np.float32))
    changed = int((clipped != actions).any(axis=1).sum())
    return clipped, [f"actions of {changed} rows clipped to the action space"] if changed else []
