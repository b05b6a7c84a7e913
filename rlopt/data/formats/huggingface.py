"""Demonstrations in folders of HuggingFace's ``datasets``, in the layout that the ``imitation`` library writes today.

A row is a trajectory: ``obs`` (T + 1), ``acts``, ``terminal``, and ``rews`` where they are known. ``infos``, texts in
which ``imitation`` keeps pickled objects as JSON, are written empty and never looked at. rlopt's metadata are in the
data set's description, as the library accepts no further column.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.data.dataset import Dataset
from rlopt.data.demonstrations import Demonstrations
from rlopt.data.formats.foreign_demonstrations import METADATA_KEY, ForeignOptions, flags, metadata_text
from rlopt.data.formats.imitation_files import join, trajectory_arrays
from rlopt.errors import DataError, one_line
from rlopt.storage.json import dump_json, parse_json

_OWN = "terminations"


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError("HuggingFace data sets need the package datasets: pip install 'rlopt[hf]'") from None
    datasets.disable_progress_bars()
    return datasets


def read_huggingface(path: Path, options: ForeignOptions) -> Demonstrations:
    """Reads a folder; see :func:`rlopt.data.load_demonstrations`."""
    datasets = _import_datasets()
    try:
        stored = datasets.load_from_disk(str(path))
        rows = stored.with_format("numpy") if isinstance(stored, datasets.Dataset) else None
        columns = list(stored.features) if rows is not None else []
    except Exception as error:  # Arrow and the library raise errors of many kinds for damaged files
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise DataError(f"{path} is damaged, empty or was cut ({reason}): make it again") from None
    if rows is None:
        raise DataError(f"{path} holds several splits ({', '.join(stored)}): give the folder of one of them")
    if missing := [name for name in ("obs", "acts", "terminal") if name not in columns]:
        raise DataError(f"{path} has no column {', '.join(missing)}: it is not of the imitation library's layout")
    try:
        return _demonstrations(rows, columns, str(stored.info.description or ""), path, options)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _demonstrations(
    rows: Any, columns: list[str], description: str, path: Path, options: ForeignOptions
) -> Demonstrations:
    if len(rows) == 0:
        raise DataError("it holds no trajectory: record or fetch demonstrations")
    obs = [_array("obs", rows, index) for index in range(len(rows))]
    acts = [_array("acts", rows, index) for index in range(len(rows))]
    rews = [_array("rews", rows, index) for index in range(len(rows))] if "rews" in columns else None
    for index, (seen, done) in enumerate(zip(obs, acts, strict=True)):
        if len(done) == 0 or len(seen) != len(done) + 1:
            raise DataError(
                f"trajectory {index} has {len(seen)} observations for {len(done)} actions: there must be one more, and "
                "at least one action"
            )
    metadata, terminations = _own(description)
    return join(
        [_joined("obs", [part[:-1] for part in obs]), _joined("obs", [part[1:] for part in obs])],
        _joined("acts", acts),
        None if rews is None else _joined("rews", rews),
        np.cumsum([len(part) for part in acts]),
        flags("terminal", [bool(rows[index]["terminal"]) for index in range(len(rows))]),
        terminations,
        metadata,
        f"{path.name}, of the imitation library's HuggingFace layout",
        options,
    )


def _array(name: str, rows: Any, index: int) -> np.ndarray:
    feature = rows.features[name]
    while (inner := getattr(feature, "feature", None)) is not None:
        feature = inner
    try:
        array = np.asarray(rows[index][name])
        if array.dtype == object:
            array = np.stack([np.asarray(part) for part in array])
        if array.dtype.kind in "iu":  # the library gives int64, whatever is stored
            array = array.astype(feature.dtype)
    except Exception as error:  # ragged or damaged rows fail within Arrow in many ways
        raise DataError(f"{name} of trajectory {index} cannot be read ({one_line(error)}): make it again") from None
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        raise DataError(f"{name} of trajectory {index} holds {array.dtype} and not plain numbers: make it again")
    return array


def _joined(name: str, parts: list[np.ndarray]) -> np.ndarray:
    if len({part.shape[1:] for part in parts}) > 1:
        raise DataError(f"{name} differ in shape between trajectories: make the data set again")
    return np.concatenate(parts)


def _own(description: str) -> tuple[str | None, np.ndarray | None]:
    """rlopt's metadata as JSON and the terminations, of a data set that rlopt wrote."""
    if METADATA_KEY not in description:
        return None, None
    try:
        content = parse_json(description)
        return dump_json(content[METADATA_KEY]), flags(_OWN, content[_OWN])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"its description is malformed ({one_line(error)}): make the data set again") from None


def write_huggingface(data: Dataset, path: Path) -> Path:
    """Writes ``data`` as a folder that ``imitation`` and :func:`rlopt.data.load_demonstrations` read.

    A data set that was there is replaced once the new one is whole.

    :raises rlopt.errors.DataError: dictionary observations, transitions that do not follow one another, something
        else at ``path``, the package ``datasets`` is missing, or a full disk
    """
    datasets = _import_datasets()
    if os.path.lexists(path) and not (path / "state.json").is_file():
        raise DataError(f"{path} exists and is no HuggingFace data set: choose another folder, or delete it first")
    arrays = trajectory_arrays(data)
    stops = np.flatnonzero(data.episode_ends) + 1
    whole = np.split(arrays["obs"], stops[:-1] + np.arange(1, len(stops)))
    steps: dict[str, Any] = {name: np.split(arrays[name], stops[:-1]) for name in ("acts", "rews") if name in arrays}
    rows: dict[str, Any] = {"obs": whole, **steps, "terminal": [True] * len(stops)}
    rows["infos"] = [["{}"] * int(length) for length in np.diff(stops, prepend=0)]
    own = {METADATA_KEY: parse_json(metadata_text(data)), _OWN: (data.discounts[stops - 1] == 0).tolist()}
    temporary = path.with_name(f".{path.name}.writing")
    try:
        info = datasets.DatasetInfo(description=dump_json(own))
        datasets.Dataset.from_dict(rows, info=info).save_to_disk(str(temporary))
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}): free space there or write elsewhere") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path
