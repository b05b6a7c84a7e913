"""Reads other people's .npz files: numbers only, and no pickle."""

import math
import shlex
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.data.formats.limits import PAGE, budget_of
from rlopt.errors import DataError, RloptError, one_line, resource_error
from rlopt.storage.budget import Budget
from rlopt.storage.replacing import replacing

_MAX_HEADER = 10_000
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What numpy writes; others unpack to any size, or take gigabytes before the first byte."""


def read_npz(
    path: Path, required: Collection[str], optional: Collection[str], budget: Budget | None = None
) -> dict[str, np.ndarray]:
    """The arrays ``required`` and those of ``optional`` that are there, native byte order; others are not looked at.

    :param budget: of the file, where it is read in several calls
    :raises rlopt.errors.DataError: no such file, damaged, cut, an array missing, or one of objects (a pickle)
    """
    try:
        with zipfile.ZipFile(path) as file:
            names = {name.removesuffix(".npy") for name in file.namelist()}
            if missing := [name for name in required if name not in names]:
                raise DataError(
                    f"{path} has no {', '.join(missing)} (it has {', '.join(sorted(names)[:12]) or 'nothing'}): give "
                    f"a file with the arrays {', '.join(required)}"
                )
            budget = budget or budget_of(path)
            return {name: _read(file, path, name, budget) for name in (*required, *optional) if name in names}
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise errors of many kinds for damaged files
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> RloptError:
    return resource_error(error, f"{path} cannot be read") or DataError(
        f"{path} is damaged or was cut ({one_line(error) or type(error).__name__}): fetch or make it again"
    )


def names_in(path: Path) -> set[str]:
    """Names of the arrays in a file, without reading them.

    :raises rlopt.errors.DataError: as for :func:`read_npz`
    """
    try:
        with zipfile.ZipFile(path) as file:
            return {name.removesuffix(".npy") for name in file.namelist()}
    except Exception as error:
        raise _damaged(path, error) from None


def _read(file: zipfile.ZipFile, path: Path, name: str, budget: Budget) -> np.ndarray:
    info = file.getinfo(f"{name}.npy")
    if info.compress_type not in _METHODS:
        raise ValueError(f"{name} is compressed in a way that numpy does not write")
    with file.open(info) as member:
        version = np.lib.format.read_magic(member)
        read_header: Any = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise ValueError(f"{name} has the unknown format {version}")
        shape, _, dtype = read_header(member, max_header_size=_MAX_HEADER)
    if dtype.hasobject:
        raise DataError(
            f"{path}: {name} holds Python objects, a pickle, which runs code when it is read: in the environment that "
            f"wrote it run {_rewriting(path)}, then give the new file (see also {PAGE})"
        )
    if dtype.kind not in "biuf" and not (dtype.kind == "U" and shape == ()):
        raise DataError(f"{path}: {name} holds {dtype} and not plain numbers: write it as float32, integers or bool")
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or size > info.file_size:
        raise ValueError(f"{name} declares more than the file holds")
    budget.charge(size, name)
    with file.open(info) as member:
        array = np.lib.format.read_array(member, allow_pickle=False, max_header_size=_MAX_HEADER)
        if member.read(1):
            raise ValueError(f"{name} continues beyond its end")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _rewriting(path: Path) -> str:
    """A command that writes a file's arrays anew, those of objects as episodes one behind another, with lengths."""
    new = path.with_name(f"{path.stem}-plain.npz")
    program = (
        f"import numpy as np; d = dict(np.load({str(path)!r}, allow_pickle=True)); "
        "o = [k for k in d if d[k].dtype == object]; e = [k for k in o if all(np.ndim(x) for x in d[k].flat)]; "
        "n = np.min([[len(x) for x in d[k]] for k in e], axis=0) if e else []; "
        f"np.savez({str(new)!r}, **{{k: np.concatenate(list(d[k])) if k in e else d[k] "
        "for k in d if k in e or k not in o}, **({'lengths': n} if e else {}))"
    )
    return f"python -c {shlex.quote(program)}"


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Writes ``path``, compressed; it appears whole or not at all, the same bytes for the same arrays.

    :raises rlopt.errors.DataError: the file system refuses
    """
    cure = "free space there or write elsewhere"
    with replacing(path, DataError, cure) as place, zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED, True, 9) as file:
        for name, array in arrays.items():
            with file.open(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    return path
