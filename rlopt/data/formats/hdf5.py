"""Reads arrays from other people's HDF5 files: numbers only, no links to elsewhere, nothing that is not there."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.data.formats.limits import refuse_pickle
from rlopt.errors import DataError, one_line, resource_error
from rlopt.storage.budget import Budget


def import_h5py() -> Any:
    """h5py, or one line that says how to get it."""
    try:
        import h5py
    except ModuleNotFoundError:
        raise DataError("HDF5 files need h5py: pip install 'rlopt[d4rl]'") from None
    return h5py


_GROUP_BYTES = 100
"""What the name of a member takes."""


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Opens a file for reading; every way in which it can fail to be read becomes one line.

    :raises rlopt.errors.DataError: no such file, a pickle, no HDF5 file, truncated or damaged
    :raises rlopt.errors.ResourceError: memory, permissions or the disk are to blame
    """
    h5py = import_h5py()
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise DataError(f"{path} {what}: give the path of an HDF5 file")
    try:
        if not h5py.is_hdf5(path):
            refuse_pickle(path)
            raise DataError(f"{path} is not an HDF5 file, or its beginning is damaged: fetch it again")
    except OSError as error:
        raise resource_error(error, f"{path} cannot be read") or DataError(f"{path}: {one_line(error)}") from None
    try:
        with h5py.File(path, "r") as file:
            yield file
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # HDF5 fails in many ways on damaged files
        if (lack := resource_error(error, f"{path} cannot be read")) is not None:
            raise lack from None
        raise DataError(
            f"{path} is damaged or truncated ({one_line(error) or type(error).__name__}): fetch it again"
        ) from None


def read_array(file: Any, name: str, budget: Budget, single: bool = False) -> np.ndarray | None:
    """The array ``name`` of an open file, native byte order; None if there is nothing of that name.

    :param budget: of the file, see :func:`rlopt.data.formats.limits.budget_of`
    :param single: read double precision as float32, which takes no copy of the array
    :raises rlopt.errors.DataError: a link out of the file, objects or text, never written, or too large to be real
    """
    h5py = import_h5py()
    if not has(file, name):
        return None
    item = file[name]
    if not isinstance(item, h5py.Dataset):
        raise DataError(f"{name!r} is a group, not an array: the file is damaged or of another layout")
    if item.is_virtual or item.external:
        raise DataError(f"{name!r} lies in another file: copy it into this one")
    if item.dtype.kind not in "biuf" or item.dtype.itemsize > 8:
        raise DataError(
            f"{name!r} holds {item.dtype} and not plain numbers: objects, text and pickles are not read; write it as "
            "float32, integers or bool"
        )
    if item.shape is None:
        raise DataError(f"{name!r} is empty: the file was not written to its end")
    size = math.prod(item.shape) * item.dtype.itemsize
    # A chunk is unpacked whole, however little of it belongs to the array.
    chunk = math.prod(item.chunks) * item.dtype.itemsize if item.chunks else 0
    _charge(item, max(size, chunk), name, budget)
    if not _is_written(item, size):
        raise DataError(f"{name!r} was not written to its end: fetch or make the file again")
    array = np.asarray(
        item.astype(np.float32)[()] if single and item.dtype.itemsize == 8 and item.dtype.kind == "f" else item[()]
    )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def read_group(file: Any, name: str, budget: Budget) -> Any:
    """The group ``name`` of an open file or group.

    :raises rlopt.errors.DataError: nothing of that name, an array, a link out of its place, or a group read before,
        which may contain itself
    """
    if not has(file, name):
        raise DataError(f"{name!r} is missing: the data set is damaged or was cut")
    group = file[name]
    if not isinstance(group, import_h5py().Group):
        raise DataError(f"{name!r} is an array, not a group: the data set is damaged")
    _charge(group, _GROUP_BYTES * len(group), name, budget)
    return group


def _charge(item: Any, size: int, name: str, budget: Budget) -> None:
    """Charges what an array or group takes; each may be read once, however many hard links lead to it."""
    h5py = import_h5py()
    try:
        budget.once(h5py.h5o.get_info(item.id).addr, name)
        budget.charge(size, name)
    except ValueError as error:
        raise DataError(f"{error}: the file is damaged or was forged") from None


def has(file: Any, name: str) -> bool:
    """Whether ``name`` is there by hard links alone; links that lead elsewhere are refused."""
    h5py = import_h5py()
    place = file
    for part in name.split("/"):
        link = place.get(part, getlink=True) if isinstance(place, h5py.Group) else None
        if link is None:
            return False
        if not isinstance(link, h5py.HardLink):
            raise DataError(f"{name!r} is a link out of its place: copy the array itself into the file")
        place = place[part]
    return True


def _is_written(item: Any, size: int) -> bool:
    if size == 0:
        return True
    if item.chunks is None:
        return int(item.id.get_storage_size()) == size
    chunks = math.prod(-(-length // chunk) for length, chunk in zip(item.shape, item.chunks, strict=True))
    return int(item.id.get_num_chunks()) == chunks
