"""D4RL-layout files that rlopt writes: readable by others, and read back here exactly, every byte verified."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.data.dataset import Dataset
from rlopt.data.demonstrations import as_recorded
from rlopt.data.formats.hdf5 import has, import_h5py, open_hdf5, read_array
from rlopt.data.formats.limits import budget_of
from rlopt.data.metadata import metadata_from
from rlopt.errors import DataError, one_line
from rlopt.storage.budget import Budget
from rlopt.storage.json import dump_json, parse_json
from rlopt.storage.replacing import replacing

MANIFEST = "rlopt/manifest"
"""JSON text as bytes: format, metadata, the array names with their SHA-256."""
FORMAT, VERSION = "rlopt-d4rl", 1
_MARK = "rlopt"
_COMPRESSION: dict[str, Any] = {"compression": "gzip", "compression_opts": 4, "shuffle": True}
_GOAL_KEYS = {"observation", "achieved_goal", "desired_goal"}
_MAX_MANIFEST = 4 * 2**20


def is_own(path: Path) -> bool:
    """Whether ``path`` is an HDF5 file that :func:`write_own` wrote, sound or damaged."""
    with open_hdf5(path) as file:
        return has(file, "rlopt") or _MARK in file.attrs


def write_own(data: Dataset, path: Path) -> Path:
    """Writes ``data``; see :func:`rlopt.data.formats.d4rl.write_d4rl`."""
    h5py = import_h5py()
    arrays = _arrays(data)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "metadata": dataclasses.asdict(data.metadata),
        "extras": sorted(data.extras),
        "goal_dictionary": isinstance(data.observations, dict) and set(data.observations) == _GOAL_KEYS,
        "keys": sorted(data.observations) if isinstance(data.observations, dict) else [],
        "arrays": {name: _digest(array) for name, array in arrays.items()},
    }
    manifest["sha256"] = _digest_of_manifest(manifest)
    path = Path(os.path.abspath(path))
    with replacing(path, DataError, "free space there or write elsewhere") as place:
        with h5py.File(place, "w") as file:
            file.attrs[_MARK] = VERSION  # so that a file that lost its manifest is not taken for another's
            for name, array in arrays.items():
                file.create_dataset(name, data=array, **(_COMPRESSION if array.size > 1000 else {}))
            file.create_dataset(MANIFEST, data=np.frombuffer(dump_json(manifest).encode(), np.uint8))
        with open(place, "rb+") as written:
            os.fsync(written.fileno())
    return path


def _arrays(data: Dataset) -> dict[str, np.ndarray]:
    terminal = data.discounts == 0
    observations, following = data.observations, data.next_observations
    arrays = {
        "actions": data.actions,
        "rewards": data.rewards,
        "terminals": terminal,
        "timeouts": data.episode_ends & ~terminal,
    }
    if isinstance(observations, dict) and isinstance(following, dict):
        goal = set(observations) == _GOAL_KEYS
        place = "rlopt/" if goal else ""
        for key in observations:
            arrays[f"{place}observations/{key}"] = observations[key]
            arrays[f"{place}next_observations/{key}"] = following[key]
        if goal:
            if "goal" not in data.extras:
                arrays["infos/goal"] = observations["desired_goal"]
            for name in ("observations", "next_observations"):
                arrays[name] = arrays.pop(f"rlopt/{name}/observation")
    else:
        arrays |= {"observations": np.asarray(observations), "next_observations": np.asarray(following)}
    arrays |= {f"infos/{name}": column for name, column in data.extras.items()}
    for name in arrays:
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise DataError(f"the name {name!r} cannot be an HDF5 name: rename it")
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
        if not manifest["keys"]:
            sides.append(arrays[name])
        elif manifest["goal_dictionary"]:
            goals = {key: arrays[f"rlopt/{name}/{key}"] for key in ("achieved_goal", "desired_goal")}
            sides.append({"observation": arrays[name]} | goals)
        else:
            sides.append({key: arrays[f"{name}/{key}"] for key in manifest["keys"]})
    if terminal.dtype != bool or arrays["timeouts"].dtype != bool or terminal.shape != arrays["timeouts"].shape:
        raise DataError("terminals and timeouts are not alike and bool")
    columns = {
        "observations": sides[0],
        "actions": arrays["actions"],
        "rewards": arrays["rewards"],
        "next_observations": sides[1],
        "discounts": 1 - terminal.astype(np.float32),
        "episode_ends": terminal | arrays["timeouts"],
        "extras": {name: arrays[f"infos/{name}"] for name in manifest["extras"]},
    }
    return as_recorded(columns, metadata_from(manifest["metadata"]))


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
    # Version 0.1 wrote no other dictionaries than those with a goal, and no keys.
    manifest.setdefault("keys", sorted(_GOAL_KEYS) if manifest.get("goal_dictionary") else [])
    kinds = {"metadata": dict, "extras": list, "goal_dictionary": bool, "arrays": dict, "keys": list}
    if any(not isinstance(manifest.get(name), kind) for name, kind in kinds.items()):
        raise DataError(f"it is damaged: {MANIFEST} is malformed")
    if not all(isinstance(name, str) for name in [*manifest["extras"], *manifest["keys"]]):
        raise DataError(f"it is damaged: {MANIFEST} is malformed")
    return manifest


def _digest_of_manifest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(dump_json(dict(sorted(manifest.items()))).encode()).hexdigest()


def _digest(array: np.ndarray) -> str:
    """SHA-256 of dtype, shape and content."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
