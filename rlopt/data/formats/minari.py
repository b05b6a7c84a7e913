"""Minari data sets: reading with h5py alone, importing nothing that the files name, and writing with minari.

A Minari episode has T + 1 observations for T steps, so that successors are always known. Minari's own reader makes the
environment that a file names where spaces are missing, which imports what the file says; this one refuses such a file.
"""

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.data.checks import float32
from rlopt.data.dataset import Dataset
from rlopt.data.demonstrations import as_recorded
from rlopt.data.environment import encoded
from rlopt.data.formats.hdf5 import has, import_h5py, open_hdf5, read_array, read_group
from rlopt.data.formats.limits import budget_of
from rlopt.data.formats.minari_spaces import (
    ID,
    RLOPT_KEY,
    check_shapes,
    checked_actions,
    minari_folder,
    observation_column,
    read_space,
)
from rlopt.data.metadata import Metadata, metadata_from
from rlopt.errors import DataError, one_line, resource_error
from rlopt.storage.budget import Budget, open_plain
from rlopt.storage.json import check_size, parse_json

_STATES = ("qpos", "qvel", "goal")
_MAX_METADATA = 64 * 2**20


@dataclass
class _Columns:
    """Columns under construction, a list of one array for each episode."""

    observations: dict[str, list[np.ndarray]] = field(default_factory=dict)
    next_observations: dict[str, list[np.ndarray]] = field(default_factory=dict)
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[np.ndarray] = field(default_factory=list)
    discounts: list[np.ndarray] = field(default_factory=list)
    ends: list[np.ndarray] = field(default_factory=list)
    extras: dict[str, list[np.ndarray]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


def read_minari(dataset_id: str, download: bool = False, clip_actions: bool = False, drop_nan: bool = False) -> Dataset:
    """Reads a Minari data set.

    :param dataset_id: such as ``D4RL/pointmaze/umaze-v2``, looked up in ``MINARI_DATASETS_PATH`` or
        ``~/.minari/datasets``; with ``download`` also ``hf://farama-minari/D4RL/door/human-v2``
    :param download: fetch it with the minari package if it is not there
    :param clip_actions: clip actions to the bounds of the action space instead of refusing others
    :param drop_nan: leave out episodes that hold NaN or infinity instead of refusing them
    :raises rlopt.errors.DataError: not there, damaged, incomplete, without spaces, images stored as JPEG, actions out
        of bounds, or observations of T instead of T + 1 rows
    """
    match = ID.fullmatch(dataset_id)
    if not match:
        raise DataError(f"{dataset_id!r} is not a Minari id: write namespace/name-v0, as in D4RL/pointmaze/umaze-v2")
    folder = minari_folder(match[1])
    if not (folder / "data").is_dir():
        if not download:
            raise DataError(
                f"{dataset_id}: no folder {folder / 'data'}: fetch it with rlopt data info minari:{dataset_id} "
                "--download, or set MINARI_DATASETS_PATH"
            )
        _download(dataset_id, folder)
    return read_minari_folder(folder / "data", clip_actions, drop_nan)


def _download(dataset_id: str, folder: Path) -> None:
    try:
        import minari
    except ModuleNotFoundError:
        raise DataError("downloading Minari data sets needs minari: pip install 'rlopt[d4rl]'") from None
    try:
        minari.download_dataset(dataset_id)
    except Exception as error:
        raise DataError(
            f"{dataset_id} cannot be downloaded ({one_line(error) or type(error).__name__}): try again, or put the "
            f"data set at {folder}"
        ) from None
    if not (folder / "data" / "main_data.hdf5").is_file():
        raise DataError(f"{dataset_id}: the download left no data at {folder}: check its name and try again")


def read_minari_folder(folder: Path, clip_actions: bool = False, drop_nan: bool = False) -> Dataset:
    """Reads the ``data`` folder of a Minari data set; see :func:`read_minari`."""
    metadata = _metadata(folder)
    file_path = folder / "main_data.hdf5"
    columns = _Columns()
    total = metadata.get("total_episodes")
    if type(total) is not int or total < 1:
        raise DataError(f"{folder}: metadata.json counts {total!r} episodes: the data set is empty or was cut")
    budget = budget_of(file_path) if file_path.is_file() else Budget(0)
    with open_hdf5(file_path) as file:
        for number in range(total):
            name = f"episode_{number}"
            try:
                _read_episode(read_group(file, name, budget), budget, columns)
            except DataError as error:
                raise DataError(f"{name}: {error}") from None
    try:
        return _build(columns, metadata, clip_actions, drop_nan)
    except DataError as error:
        raise DataError(f"{folder}: {error}") from None


def _metadata(folder: Path) -> dict[str, Any]:
    path = folder / "metadata.json"
    if not path.is_file():
        raise DataError(f"{path} is not a file: give the folder of a Minari data set")
    try:
        with open_plain(path, follow=True) as file:
            if os.fstat(file.fileno()).st_size > _MAX_METADATA:
                raise ValueError("it is too large")
            text = file.read()
        check_size(text)
        values = json.loads(text)
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        if (lack := resource_error(error, f"{path} cannot be read")) is not None:
            raise lack from None
        raise DataError(f"{path} is damaged: {one_line(error)}") from None
    if not isinstance(values, dict) or not isinstance(values.get("dataset_id"), str):
        raise DataError(f"{path} is not Minari's: it names no dataset_id")
    if values.get("data_format", "hdf5") != "hdf5":
        raise DataError(f"{path}: format {values['data_format']!r} is not read: convert it to Minari's hdf5 format")
    for key in ("observation_space", "action_space"):
        if not isinstance(values.get(key), str):
            raise DataError(f"{path} has no {key}: write it with minari 0.5 or newer")
    return values


def _read_episode(file: Any, budget: Budget, columns: _Columns) -> None:
    """Adds one episode, from its group."""
    arrays = {key: read_array(file, key, budget) for key in ("rewards", "terminations", "truncations")}
    missing = [key for key, array in arrays.items() if array is None or array.ndim != 1]
    if missing:
        raise DataError(f"{', '.join(missing)} missing or not (T,): the data set is damaged or was cut")
    rewards, terminations, truncations = (np.asarray(array) for array in arrays.values())
    steps = len(rewards)
    if steps == 0:
        raise DataError("it has no steps: leave out empty episodes")
    if len(terminations) != steps or len(truncations) != steps:
        raise DataError(f"{len(terminations)} terminations and {len(truncations)} truncations for {steps} rewards")
    if terminations[:-1].any():
        raise DataError("it continues after a termination: split it there")
    for key, array in _leaves(file, "observations", budget, columns).items():
        if len(array) != steps + 1:
            raise DataError(f"{len(array)} observations for {steps} steps: Minari has one more (T + 1), make it anew")
        columns.observations.setdefault(key, []).append(array[:-1])
        columns.next_observations.setdefault(key, []).append(array[1:])
    actions = read_array(file, "actions", budget)
    if actions is None or len(actions) != steps:
        raise DataError(f"{0 if actions is None else len(actions)} actions for {steps} steps")
    ends = truncations.astype(bool)
    columns.counts["cut"] += not (terminations[-1] or truncations[-1])
    columns.counts["inner truncation"] += bool(ends[:-1].any())
    ends = np.zeros(steps, bool)
    ends[-1] = True
    discounts = np.ones(steps, np.float32)
    discounts[-1] = 0.0 if terminations[-1] else 1.0
    columns.actions.append(actions)
    columns.rewards.append(rewards)
    columns.discounts.append(discounts)
    columns.ends.append(ends)
    _read_infos(file, steps, budget, columns)


def _leaves(file: Any, name: str, budget: Budget, columns: _Columns) -> dict[str, np.ndarray]:
    """The arrays below ``name`` by path; the key is empty for observations that are one array."""
    h5py = import_h5py()
    if not has(file, name):
        raise DataError("its observations are missing")
    if isinstance(file[name], h5py.Dataset):
        array = read_array(file, name, budget)
        return {"": array} if array is not None else {}
    found: dict[str, np.ndarray] = {}
    group = read_group(file, name, budget)
    for key in group:
        item = group[key] if has(group, key) else None
        if isinstance(item, h5py.Group):
            inner = _leaves(group, key, budget, columns)
            found |= {f"{key}/{path}": array for path, array in inner.items()}
        elif isinstance(item, h5py.Dataset) and h5py.check_string_dtype(item.dtype) is not None:
            columns.counts[f"text {key}"] += 1
        else:
            array = read_array(group, key, budget)
            if array is not None:
                found[key] = array
    return found


def _read_infos(file: Any, steps: int, budget: Budget, columns: _Columns) -> None:
    h5py = import_h5py()
    if not has(file, "infos"):
        return
    group = read_group(file, "infos", budget)
    for key in group:
        item = group[key] if has(group, key) else None
        if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "biuf" or not item.shape:
            continue
        rows = item.shape[0]
        if rows == steps or (rows == steps + 1 and key in _STATES):
            array = read_array(group, key, budget)
            if array is not None:
                columns.extras.setdefault(key, []).append(array[:steps])


def _build(columns: _Columns, metadata: dict[str, Any], clip_actions: bool, drop_nan: bool) -> Dataset:
    notes: list[str] = []
    if columns.counts["cut"]:
        notes.append(f"{columns.counts['cut']} episodes neither terminated nor truncated: taken as truncated")
    if columns.counts["inner truncation"]:
        notes.append(
            f"{columns.counts['inner truncation']} episodes continue after a truncation mark, which is ignored"
        )
    notes += [f"text observations left out: {key[5:]}" for key in columns.counts if key.startswith("text ")]
    observation_space, action_space = (read_space(metadata[name]) for name in ("observation_space", "action_space"))
    episodes = len(columns.rewards)
    sides: list[Any] = []
    for side in (columns.observations, columns.next_observations):
        if not side or any(len(parts) != episodes for parts in side.values()):
            raise DataError("the episodes have different observations, or none: the data set is damaged")
        joined = {key: observation_column(_join(f"observations {key}", parts), key) for key, parts in side.items()}
        check_shapes(joined, observation_space)
        sides.append(joined.get("", joined))
    actions, note = checked_actions(_join("actions", columns.actions), action_space, clip_actions)
    extras = {key: _join(key, parts) for key, parts in columns.extras.items() if len(parts) == episodes}
    return as_recorded(
        {
            "observations": sides[0],
            "actions": actions,
            "rewards": float32("rewards", _join("rewards", columns.rewards)),
            "next_observations": sides[1],
            "discounts": np.concatenate(columns.discounts),
            "episode_ends": np.concatenate(columns.ends),
            "extras": {
                key: float32(key, value) if value.dtype == np.float64 else value for key, value in extras.items()
            },
        },
        _our_metadata(metadata, [*notes, *note], encoded(observation_space), encoded(action_space)),
        drop_nan,
    )


def _join(name: str, parts: list[np.ndarray]) -> np.ndarray:
    if len({(part.shape[1:], part.dtype) for part in parts}) > 1:
        raise DataError(f"{name} differ in shape or dtype between episodes: the data set is damaged")
    return np.concatenate(parts)


def _our_metadata(values: dict[str, Any], notes: list[str], observation_space: Any, action_space: Any) -> Metadata:
    stored = values.get(RLOPT_KEY)
    if isinstance(stored, str):
        try:
            return metadata_from(parse_json(stored)).noted(*notes)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"its {RLOPT_KEY} is malformed ({one_line(error)})") from None
    references = (values.get("ref_min_score"), values.get("ref_max_score"))
    known = all(isinstance(value, (int, float)) and np.isfinite(value) for value in references)
    version = values.get("minari_version")
    spec = _env_spec(values.get("env_spec"))
    steps = spec.get("max_episode_steps")
    return Metadata(
        env=spec.get("id") or f"minari:{values['dataset_id']}",
        generator=str(values.get("algorithm_name") or values["dataset_id"]),
        generation="minari",
        reference_returns=(float(references[0]), float(references[1])) if known else None,  # type: ignore[arg-type]
        versions={"minari": version} if isinstance(version, str) else {},
        notes=tuple(notes),
        env_kwargs={name: value for name, value in _table(spec.get("kwargs")).items() if name != "render_mode"},
        wrappers={one_line(each["name"]): _table(each.get("kwargs")) for each in spec.get("additional_wrappers") or ()},
        max_episode_steps=steps if type(steps) is int and steps > 0 else None,
        observation_space=observation_space,
        action_space=action_space,
    )


def _env_spec(text: Any) -> dict[str, Any]:
    """Gymnasium's EnvSpec as it lies in the file: only read, never made; empty where there is none."""
    try:
        spec = parse_json(text) if isinstance(text, str) else {}
        if not isinstance(spec.get("id", ""), str) or not all(
            isinstance(each["name"], str) for each in spec.get("additional_wrappers") or ()
        ):
            raise TypeError("its entries have odd types")
        return dict(spec)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"its env_spec is malformed ({one_line(error)})") from None


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def write_minari(data: Dataset, dataset_id: str, report: Callable[[str], None] = lambda line: None) -> Path:
    """Writes a data set as the Minari data set ``dataset_id``; see :mod:`rlopt.data.formats.minari_writing`."""
    from rlopt.data.formats.minari_writing import write

    return write(data, dataset_id, report)
