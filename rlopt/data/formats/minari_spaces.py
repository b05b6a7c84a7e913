"""Minari's declared spaces, against which its arrays are checked. They are read as JSON; nothing is imported."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from rlopt.data.checks import check_actions, float32
from rlopt.errors import DataError, one_line

ID = re.compile(r"(?:(?:hf|gcp)://[\w.-]+/)?((?:[\w-]+/)*[\w-]+-v\d+)")


RLOPT_KEY = "rlopt_metadata"
"""Entry of Minari's metadata in which :func:`rlopt.data.formats.minari.write_minari` keeps ours."""


def minari_folder(local_id: str) -> Path:
    """Where Minari keeps a data set on this machine."""
    root = os.environ.get("MINARI_DATASETS_PATH")
    return (Path(root) if root else Path.home() / ".minari" / "datasets") / local_id


_DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")


def observation_column(array: np.ndarray, key: str) -> np.ndarray:
    """Observations as float32, uint8 or int64, which data sets hold; not finite ones raise as :func:`float32` does."""
    if array.dtype.kind == "f":
        return float32(f"observations {key}".strip(), array)
    return array if array.dtype == np.uint8 else array.astype(np.uint8 if array.dtype == bool else np.int64)


def read_space(text: str) -> spaces.Space:
    """The space that Minari wrote as JSON; parts of nested dictionaries get keys with slashes, texts are left out.

    :raises rlopt.errors.DataError: malformed, or of another kind
    """
    try:
        return _space(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, OverflowError, RecursionError) as error:
        raise DataError(f"its spaces are malformed ({one_line(error) or type(error).__name__})") from None


def _space(entry: Mapping[str, Any]) -> spaces.Space:
    kind = entry["type"]
    if kind == "Box":
        return _box(entry)
    if kind == "Discrete":
        return spaces.Discrete(int(entry["n"]), start=int(entry.get("start", 0)))
    if kind == "MultiDiscrete":
        nvec = np.array(entry["nvec"], np.int64)
        return spaces.MultiDiscrete(nvec, start=np.array(entry.get("start", np.zeros_like(nvec)), np.int64))
    if kind == "MultiBinary":
        shape = entry["n"] if isinstance(entry["n"], list) else [entry["n"]]
        return spaces.Box(0, 1, tuple(map(int, shape)), np.uint8)
    if kind not in ("Dict", "Tuple"):
        raise ValueError(f"a {one_line(kind)} space")
    parts = entry["subspaces"]
    named = parts.items() if kind == "Dict" else [(f"_index_{index}", part) for index, part in enumerate(parts)]
    flat: dict[str, spaces.Space] = {}
    for key, part in named:
        if part["type"] == "Text":
            continue
        space = _space(part)
        inner = space.spaces.items() if isinstance(space, spaces.Dict) else [("", space)]
        flat |= {f"{key}/{path}" if path else key: leaf for path, leaf in inner}
    return spaces.Dict(flat)


def _box(entry: Mapping[str, Any]) -> spaces.Box:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"numbers of dtype {one_line(entry['dtype'])}")
    dtype, shape = np.dtype(entry["dtype"]), tuple(map(int, entry["shape"]))
    low, high = (np.array(entry[side], dtype) for side in ("low", "high"))
    if low.shape != shape or high.shape != shape:
        raise ValueError(f"bounds of shape {low.shape} and {high.shape} do not fit the bounds of their space {shape}")
    return spaces.Box(low, high, shape, dtype.type)


def check_shapes(observations: dict[str, np.ndarray], space: spaces.Space) -> None:
    """Makes sure that the arrays have the shapes that the metadata declare.

    :raises rlopt.errors.DataError: if they do not
    """
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    for key, array in observations.items():
        if key not in parts:
            raise DataError(f"its spaces have no entry {one_line(repr(key))} or are malformed")
        if array.shape[1:] != parts[key].shape:
            raise DataError(
                f"observations {key} have shape {array.shape[1:]}, their space {parts[key].shape}: images that minari "
                "stored as JPEG are not read (write them with jpeg_encoding=False), anything else is damaged"
            )


def checked_actions(actions: np.ndarray, space: spaces.Space, clip: bool) -> tuple[np.ndarray, list[str]]:
    """Actions in the data set's dtype, checked against the space that the metadata declare, and notes.

    :raises rlopt.errors.DataError: for actions outside that space, or a space that is not supported
    """
    if isinstance(space, spaces.Discrete) and actions.dtype.kind in "iu":
        actions = actions.reshape(len(actions), -1)[:, 0].astype(np.int64)
    elif isinstance(space, spaces.MultiDiscrete) and actions.dtype.kind in "iu":
        actions = actions.astype(np.int64)
    elif isinstance(space, spaces.Box) and actions.dtype.kind == "f" and len(space.shape) == 1:
        actions = float32("actions", actions)
    else:
        raise DataError(f"{actions.dtype} actions in a {type(space).__name__} space {space.shape} are not supported")
    return check_actions(actions, space, "the data set's action space", "the bounds are the data set's own", clip)
