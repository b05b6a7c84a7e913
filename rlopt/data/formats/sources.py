"""Files of named columns as people have them: npz, HDF5, parquet, CSV, JSON lines and safetensors behind one face."""

import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.data.formats.hdf5 import import_h5py, open_hdf5, read_array, read_group
from rlopt.data.formats.limits import budget_of, refuse_pickle
from rlopt.data.formats.npz import names_in, read_npz
from rlopt.errors import DataError, RloptError, one_line, resource_error
from rlopt.storage.budget import Budget
from rlopt.storage.json import parse_json

_CURE = {
    ".tfrecord": "TensorFlow's records are not read: write the steps as .npz, HDF5 or parquet",
    ".npy": "a single array has no names: put observations, actions, rewards and dones into one .npz file",
    ".mat": "MATLAB's files are not read: write the arrays as .npz with scipy.io.loadmat and numpy.savez",
    ".gz": "it is compressed as a whole: unpack it first",
    ".xlsx": "spreadsheets are not read: save it as .csv",
}


@dataclass
class Source:
    """The columns of one file, or of several that continue one another."""

    names: list[str]
    """In their order; parts of HDF5 groups with slashes."""
    read: Callable[[str], Any]
    """A column by its name: an array, or a list of one array a row, where the rows are of different lengths."""
    notes: list[str] = field(default_factory=list)


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Opens a file by what it holds, whatever its name is.

    :raises rlopt.errors.DataError: a pickle, a pointer of git-LFS, damaged, or of a kind that is not read
    :raises rlopt.errors.ResourceError: memory, permissions or the disk are to blame
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4)
        refuse_pickle(path)
    except OSError as error:
        raise resource_error(error, f"{path} cannot be read") or DataError(f"{path}: {one_line(error)}") from None
    suffix = path.suffix.lower()
    if suffix in (".hdf5", ".h5", ".hdf") or head.startswith(b"\x89HDF"):
        with _hdf5(path) as source:
            yield source
        return
    if suffix == ".npz" or head.startswith(b"PK"):
        yield _npz(path)
    elif head.startswith(b"PAR1") or suffix == ".parquet":
        yield parquet([path])
    elif suffix in (".csv", ".tsv", ".txt"):
        yield _csv(path)
    elif suffix in (".jsonl", ".json", ".ndjson"):
        yield _json_lines(path)
    elif suffix == ".safetensors":
        yield _safetensors(path)
    else:
        known = "give an .npz, HDF5, parquet, CSV, JSON lines or safetensors file"
        raise DataError(f"{path} is of no kind that is read: {_CURE.get(suffix, known)}")


@contextmanager
def _hdf5(path: Path) -> Iterator[Source]:
    h5py = import_h5py()
    with open_hdf5(path) as file:
        budget = budget_of(path)
        names: list[str] = []

        def walk(group: Any, prefix: str) -> None:
            for name in group:
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    continue
                if isinstance(group[name], h5py.Group):
                    walk(read_group(group, name, budget), f"{prefix}{name}/")
                elif group[name].dtype.kind in "biuf":
                    names.append(prefix + name)

        walk(file, "")

        def read(name: str) -> np.ndarray:
            array = read_array(file, name, budget, single=True)
            assert array is not None
            return array

        yield Source(names, read)


def _npz(path: Path) -> Source:
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is not a .npz file, or it was cut: fetch or make it again")
    names = sorted(names_in(path))
    if any(name.endswith("data.pkl") for name in names):
        raise DataError(
            f"{path} was written by torch.save, a pickle, which runs code when it is read: write its arrays with "
            "numpy.savez where you trust it"
        )
    budget = budget_of(path)
    return Source(names, lambda name: read_npz(path, [name], [], budget)[name])


def parquet(paths: Sequence[Path]) -> Source:
    """The columns of parquet files with the same columns, one behind another.

    :raises rlopt.errors.DataError: damaged, or pyarrow is not installed
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{paths[0]} is a parquet file, which needs pyarrow: pip install 'rlopt[hf]'") from None

    def damaged(path: Path, error: Exception) -> RloptError:
        lack = resource_error(error, f"{path} cannot be read")
        return lack or DataError(f"{path} is not a readable parquet file ({type(error).__name__}): make it again")

    budgets: dict[Path, Budget] = {}

    def read(name: str) -> Any:
        parts = []
        for path in paths:
            try:
                file = pyarrow.parquet.ParquetFile(path)
                chunks = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
                numbers = sum(
                    chunk.column(index).num_values
                    for chunk in chunks
                    for index in range(chunk.num_columns)
                    if chunk.column(index).path_in_schema.startswith(name)
                )
                try:
                    budgets.setdefault(path, budget_of(path)).charge(8 * numbers, name)
                except ValueError as error:
                    raise DataError(f"{path}: {error}: it is damaged or was forged") from None
                parts.append(_arrow_column(file.read(columns=[name]).column(0)))
            except DataError:
                raise
            except Exception as error:  # Arrow raises errors of many kinds for damaged files
                raise damaged(path, error) from None
        if isinstance(parts[0], list):
            return [row for part in parts for row in part]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    try:
        return Source(list(pyarrow.parquet.ParquetFile(paths[0]).schema_arrow.names), read)
    except Exception as error:
        raise damaged(paths[0], error) from None


def _arrow_column(column: Any) -> Any:
    from pyarrow import types

    def values(array: Any, kind: Any) -> np.ndarray:
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)) or array.null_count:
            raise DataError(f"a column holds {kind} or gaps and not plain numbers: leave it out or fill it")
        numbers: np.ndarray = array.to_numpy(zero_copy_only=False)
        return numbers

    def lists(array: Any) -> Any:
        if not (types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type)):
            return values(array, array.type)
        lengths = array.value_lengths().to_numpy(zero_copy_only=False)
        inner = lists(array.flatten())
        if isinstance(inner, list):
            raise DataError("a column holds rows of different lengths: make them alike")
        if len(lengths) and (lengths == lengths[0]).all():
            return inner.reshape(len(lengths), int(lengths[0]), *inner.shape[1:])
        return np.split(inner, np.cumsum(lengths)[:-1])

    return lists(column.combine_chunks())


_TRUTH = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}


def _csv(path: Path) -> Source:
    try:
        with open(path, encoding="utf-8-sig") as file:
            header = file.readline().strip()
        delimiter = max(",;\t ", key=header.count)
        names = [name.strip().strip('"') for name in header.split(delimiter)]
        if any(_is_number(name) for name in names) or len(set(names)) < len(names):
            raise DataError(
                f"{path}: its first line names no columns: add a line such as obs_0,obs_1,action,reward,done"
            )
        settings: dict[str, Any] = {"delimiter": delimiter, "skiprows": 1, "ndmin": 2, "encoding": "utf-8-sig"}
        try:
            table = np.loadtxt(path, **settings)
        except ValueError:
            table = np.loadtxt(path, **settings, converters=_number_or_truth)
    except DataError:
        raise
    except UnicodeDecodeError:
        raise DataError(f"{path} is not text: give a CSV file") from None
    except ValueError as error:
        raise DataError(f"{path} holds more than numbers ({one_line(error)}): leave these columns out") from None
    except OSError as error:
        raise resource_error(error, f"{path} cannot be read") or DataError(f"{path}: {one_line(error)}") from None
    if table.shape[1] != len(names) or not len(table):
        raise DataError(f"{path} has {len(names)} names and {table.shape[1]} columns, {len(table)} rows: damaged")
    return Source(names, lambda name: table[:, names.index(name)])


def _number_or_truth(text: str) -> float:
    return _TRUTH[text.strip().lower()] if text.strip().lower() in _TRUTH else float(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _json_lines(path: Path) -> Source:
    columns: dict[str, list[Any]] = {}
    count = 0
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                if not line.strip():
                    continue
                row = parse_json(line)
                if not isinstance(row, dict) or (count and row.keys() != columns.keys()):
                    raise ValueError(f"line {count + 1} is not an object with the names of the first")
                for name, value in row.items():
                    columns.setdefault(name, []).append(value)
                count += 1
    except OSError as error:
        raise resource_error(error, f"{path} cannot be read") or DataError(f"{path}: {one_line(error)}") from None
    except (ValueError, json.JSONDecodeError) as error:
        raise DataError(
            f"{path} is not a file of JSON lines, a transition each ({one_line(error)}): make it anew"
        ) from None

    def read(name: str) -> Any:
        try:
            array = np.array(columns[name])
        except ValueError:
            array = np.array(None)
        if array.dtype.kind not in "biuf":
            raise DataError(
                f"{name} holds texts, gaps or lists of different lengths and not plain numbers: leave it out"
            )
        return array

    return Source(list(columns), read)


def _safetensors(path: Path) -> Source:
    from safetensors import SafetensorError, safe_open

    def read(name: str) -> Any:
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor(name)

    try:
        with safe_open(path, framework="numpy") as file:
            return Source(sorted(file.keys()), read)
    except SafetensorError as error:
        raise DataError(f"{path} is damaged or was cut ({one_line(error)}): fetch or make it again") from None
