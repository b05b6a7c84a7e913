"""D4RL-layout files that rlopt writes: readable by others, and read back here exactly, every byte verified."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.data.dataset import Dataset
from rlopt.data.formats.hdf5 import has, import_h5py, open_hdf5, read_array
from rlopt.data.formats.limits import budget_of
from rlopt.data.metadata import Metadata
from rlopt.errors import DataError, one_line
from rlopt.storage.budget import Budget
from rlopt.storage.json import dump_json, parse_json
from rlopt.storage.replacing import replacing

MANIFEST = "rlopt/manifest"
"""JSON text as bytes: format, metadata, the array names with their SHA-256."""
FORMAT, VERSION = "rlopt-d4rl", 1
_GOAL_KEYS = {"observation", "achieved_goal", "desired_goal"}
_MAX_MANIFEST = 4 * 2**20


def is_own(path: Path) -> bool:
    """Whether ``path`` is an HDF5 file that :func:`write_own` wrote, sound or damaged."""
    with open_hdf5(path) as file:
        return has(file, "rlopt")


def write_own(data: Dataset, path: Path) -> Path:
    """Writes ``data``; see :func:`rlopt.data.formats.d4rl.write_d4rl`."""
    h5py = import_h5py()
    arrays = _arrays(data)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "metadata": dataclasses.asdict(data.metadata),
        "extras": sorted(data.extras),
        "goal_dictionary": isinstance(data.observations, dict),
        "arrays": {name: _digest(array) for name, array in arrays.items()},
    }
    manifest["sha256"] = _digest_of_manifest(manifest)
    path = Path(os.path.abspath(path))
    with replacing(path, DataError, "free space there or write elsewhere") as place:
        with h5py.File(place, "w") as file:
            for name, array in arrays.items():
                file.create_dataset(name, data=array, **_compression(array))
            file.create_dataset(MANIFEST, data=np.frombuffer(dump_json(manifest).encode(), np.uint8))
        with open(place, "rb+") as written:
            os.fsync(written.fileno())
    return path


def _compression(array: np.ndarray) -> dict[str, Any]:
    return {"compression": "gzip", "compression_opts": 4, "shuffle": True} if array.size > 1000 else {}


def _arrays(data: Dataset) -> dict[str, np.ndarray]:
    terminal = data.discounts == 0
    observations, following = data.observations, data.next_observations
    arrays = {
        "actions": data.actions,
        "rewards": data.rewards,
        "terminals": terminal,
        "timeouts": data.episode_ends & ~terminal,
    }
    if isinstance(observations, dict) or isinstance(following, dict):
        if not isinstance(observations, dict) or not isinstance(following, dict) or set(observations) != _GOAL_KEYS:
            keys = ", ".join(sorted(observations)) if isinstance(observations, dict) else "none"
            raise DataError(
                f"the D4RL layout holds flat observations or goal dictionaries, not the keys {keys}: "
                "use the minari or rlopt format"
            )
        for key in ("achieved_goal", "desired_goal"):
            arrays[f"rlopt/observations/{key}"] = observations[key]
            arrays[f"rlopt/next_observations/{key}"] = following[key]
        if "goal" not in data.extras:
            arrays["infos/goal"] = observations["desired_goal"]
        observations, following = observations["observation"], following["observation"]
    arrays |= {"observations": observations, "next_observations": following}
    for name, column in data.extras.items():
        if "/" in name or name.startswith("."):
            raise DataError(f"the column name {name!r} cannot be an HDF5 name: rename it")
        arrays[f"infos/{name}"] = column
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def read_own(path: Path) -> Dataset:
    """Reads what :func:`write_own` wrote; every byte of every array is verified."""
    budget = budget_of(path)
    with open_hdf5(path) as file:
        text = read_array(file, MANIFEST, Budget(_MAX_MANIFEST))
        if text is None or text.dtype != np.uint8 or text.ndim != 1:
            raise DataError(f"it is damaged: {MANIFEST} is missing or malformed")
        manifest = _parsed(text.tobytes())
        arrays = {name: read_array(file, name, budget) for name in manifest["arrays"]}
        for name, array in arrays.items():
            if array is None or _digest(array) != manifest["arrays"][name]:
                raise DataError(f"it is damaged: {name} is {'missing' if array is None else 'not what was written'}")
    try:
        return _rebuilt(arrays, manifest)
    except KeyError as error:
        raise DataError(f"{path} is damaged: {error.args[0]} is missing") from None
    except DataError as error:
        raise DataError(f"{path} holds no valid data set: {error}") from None


def _rebuilt(arrays: Mapping[str, Any], manifest: Mapping[str, Any]) -> Dataset:
    terminal = arrays["terminals"]
    sides: list[Any] = []
    for name in ("observations", "next_observations"):
        side: Any = arrays[name]
        if manifest["goal_dictionary"]:
            side = {"observation": side} | {
                key: arrays[f"rlopt/{name}/{key}"] for key in ("achieved_goal", "desired_goal")
            }
        sides.append(side)
    if terminal.dtype != bool or arrays["timeouts"].dtype != bool or terminal.shape != arrays["timeouts"].shape:
        raise DataError("terminals and timeouts are not alike and bool")
    return Dataset(
        observations=sides[0],
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        next_observations=sides[1],
        discounts=1 - terminal.astype(np.float32),
        episode_ends=terminal | arrays["timeouts"],
        metadata=_metadata(manifest["metadata"]),
        extras={name: arrays[f"infos/{name}"] for name in manifest["extras"]},
    )


def _metadata(values: dict[str, Any]) -> Metadata:
    try:
        reference = values["reference_returns"]
        return Metadata(**{**values, "reference_returns": None if reference is None else tuple(reference)})
    except (TypeError, KeyError, AttributeError):
        raise DataError("its metadata are malformed") from None


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        manifest = parse_json(text)
    except ValueError as error:
        raise DataError(f"it is damaged: {MANIFEST}: {one_line(error)}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"it is damaged: {MANIFEST} is none of rlopt's")
    if manifest.get("version") != VERSION:
        raise DataError(f"it has format version {one_line(repr(manifest.get('version')))}, this rlopt reads {VERSION}")
    if manifest.pop("sha256", None) != _digest_of_manifest(manifest):
        raise DataError(f"it is damaged: {MANIFEST} is not what was written")
    kinds = {"metadata": dict, "extras": list, "goal_dictionary": bool, "arrays": dict}
    if any(not isinstance(manifest.get(name), kind) for name, kind in kinds.items()):
        raise DataError(f"it is damaged: {MANIFEST} is malformed")
    if not all(isinstance(name, str) for name in manifest["extras"]):
        raise DataError(f"it is damaged: {MANIFEST} is malformed")
    return manifest


def _digest_of_manifest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(dump_json(dict(sorted(manifest.items()))).encode()).hexdigest()


def _digest(array: np.ndarray) -> str:
    """SHA-256 of dtype, shape and content."""
    array = np.ascontiguousarray(array)
    head = f"{array.dtype.str} {array.shape} ".encode()
    return hashlib.sha256(head + array.tobytes()).hexdigest()
