"""Demonstrations in folders of HuggingFace's ``datasets``, in the layout that the ``imitation`` library writes today.

A row is a trajectory: ``obs`` (T + 1), ``acts``, ``terminal``, and ``rews`` where they are known. ``infos``, texts in
which ``imitation`` keeps pickled objects as JSON, are written empty and never looked at. rlopt's metadata are in the
data set's description, as the library accepts no further column.
"""

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.data.dataset import Dataset
from rlopt.data.demonstrations import Demonstrations
from rlopt.data.formats.foreign_demonstrations import METADATA_KEY, ForeignOptions, flags, metadata_text
from rlopt.data.formats.imitation_files import join, trajectory_arrays
from rlopt.errors import DataError, one_line, resource_error
from rlopt.storage.budget import file_inside, open_plain
from rlopt.storage.json import dump_json, parse_json

_OWN = "terminations"
_MAX_JSON = 16 * 2**20
_VALUES = ("Value", "Array2D", "Array3D", "Array4D", "Array5D")
_LISTS = ("Sequence", "List", "LargeList")


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
        if not (path / "state.json").exists():
            raise DataError(f"{path} holds several splits ({_splits(path)}): give the folder of one of them")
        _check_files(path)
        stored = datasets.load_from_disk(str(path))
        stored.data.table.validate(full=True)
        rows, columns = stored.with_format("numpy"), list(stored.features)
    except DataError:
        raise
    except Exception as error:  # Arrow and the library raise errors of many kinds for damaged files
        if (lack := resource_error(error, f"{path} cannot be read")) is not None:
            raise lack from None
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise DataError(f"{path} is damaged, empty or was cut ({reason}): make it again") from None
    if missing := [name for name in ("obs", "acts", "terminal") if name not in columns]:
        raise DataError(f"{path} has no column {', '.join(missing)}: it is not of the imitation library's layout")
    try:
        return _demonstrations(rows, columns, str(stored.info.description or ""), path, options)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _splits(path: Path) -> str:
    return one_line(", ".join(map(str, _json(path / "dataset_dict.json")["splits"])))


def _check_files(path: Path) -> None:
    """Checks what the library would do as the files say, before it reads them: which it opens, and as what.

    :raises ValueError: files outside the folder, columns that are read from other files, or of no size on disk
    """
    import pyarrow

    state, info = (_json(path / name) for name in ("state.json", "dataset_info.json"))
    if state.get("_format_type") not in (None, "numpy") or state.get("_format_kwargs"):
        raise ValueError("it asks for another library to be imported")
    features = info.get("features")
    if not isinstance(features, dict) or not all(_is_plain(feature) for feature in features.values()):
        raise ValueError("it has columns that are not numbers or texts")
    for entry in state["_data_files"]:
        with pyarrow.memory_map(str(file_inside(path, entry["filename"]))) as file:
            messages = pyarrow.ipc.MessageReader.open_stream(file)
            schema = pyarrow.ipc.read_schema(messages.read_next_message())
            if any(_unpacks(message) for message in messages):
                raise ValueError("its values are compressed or not where they belong, which the library never writes")
        stored = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        if not all(_is_plain(feature) for feature in (stored.get("info", {}).get("features") or {}).values()):
            raise ValueError("it has columns that are not numbers or texts")
        if not all(_takes_bytes(field.type) for field in schema):
            raise ValueError("it has columns that say one thing many times")


def _json(path: Path) -> Any:
    with open_plain(path) as file:
        if os.fstat(file.fileno()).st_size > _MAX_JSON:
            raise ValueError(f"{path.name} is over {_MAX_JSON} bytes")
        return parse_json(file.read())


def _is_plain(feature: Any) -> bool:
    """Whether a feature holds its values itself; images and sounds are opened from wherever their path says."""
    if isinstance(feature, list):
        return all(_is_plain(part) for part in feature)
    kind = feature.get("_type")
    return kind in _VALUES or (kind in _LISTS and _is_plain(feature["feature"]))


def _unpacks(message: Any) -> bool:
    """Whether a message of Arrow's stream is not a plain batch of rows, or says that its values are compressed.

    Values of some bytes may unpack to gigabytes, and Arrow would unpack them before anything can be asked of it. The
    message is a FlatBuffer: a table with the batch in its third field, which names a compression in its fourth.
    """
    if message.type != "record batch":
        return True
    content = message.metadata.to_pybytes()

    def field(table: int, index: int) -> int:
        entries = table - struct.unpack_from("<i", content, table)[0]
        known = 4 + 2 * index < struct.unpack_from("<H", content, entries)[0]
        return struct.unpack_from("<H", content, entries + 4 + 2 * index)[0] if known else 0

    root = struct.unpack_from("<I", content)[0]
    batch = root + field(root, 2)
    return field(batch + struct.unpack_from("<I", content, batch)[0], 3) != 0


def _takes_bytes(kind: Any) -> bool:
    """Whether every value of a column has bytes of its own in the file, as those of dictionaries and views have not."""
    import pyarrow
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind):
        return _takes_bytes(kind.value_type)
    if types.is_fixed_size_list(kind):
        return kind.list_size > 0 and _takes_bytes(kind.value_type)
    if isinstance(kind, pyarrow.BaseExtensionType):
        return _takes_bytes(kind.storage_type)
    plain = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    return plain or types.is_string(kind) or types.is_large_string(kind)


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
        raise DataError(f"{path} exists and is not a HuggingFace data set: choose another folder, or delete it first")
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
