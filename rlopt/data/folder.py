"""The folder format: ``manifest.json``, ``data.json``, ``data.safetensors`` (:mod:`rlopt.storage.checked_folder`)."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rlopt.data.metadata import Metadata, metadata_from
from rlopt.errors import DataError
from rlopt.storage.checked_folder import MANIFEST, FolderKind, check_place, read_checked, replaced_name, write_checked

KIND = FolderKind("data set", "rlopt-dataset", error=DataError)
_TREE = "data"


def is_folder(path: Path) -> bool:
    """Whether ``path`` is meant as a data set folder: a folder with a manifest, sound or damaged."""
    return (path / MANIFEST).exists()


def write_folder(path: Path, columns: Mapping[str, Any], metadata: Metadata, transitions: int) -> Path:
    """Writes a data set's columns and metadata; see :meth:`rlopt.data.Dataset.save`."""
    path, metadata_fields = check_place(path, KIND), dataclasses.asdict(metadata)
    return write_checked(path, KIND, {_TREE: columns}, {"transitions": transitions}, metadata_fields)


def read_folder(path: Path, names: Collection[str]) -> tuple[dict[str, Any], Metadata]:
    """Reads a data set's columns, which are ``names``, and its metadata; see :meth:`rlopt.data.Dataset.load`."""
    if not path.exists() and is_folder(replaced_name(path)):
        # A write killed between its two renames leaves the older data set under its hidden name.
        path = replaced_name(path)
    if not path.is_dir():
        raise DataError(f"{path} does not exist or is not a folder: give the folder that Dataset.save wrote")
    if not any((path / name).exists() for name in (MANIFEST, f"{_TREE}.json", f"{_TREE}.safetensors")):
        raise DataError(f"{path} is not a data set: give a folder that Dataset.save or rlopt data wrote")
    content, trees = read_checked(path, KIND, check=_check_manifest)
    try:
        return _checked(trees[_TREE], content["metadata"], names)
    except DataError as error:
        raise DataError(f"{path} holds no valid data set: {error}") from None


def _check_manifest(content: Mapping[str, Any]) -> None:
    if content["trees"] != [_TREE]:
        raise ValueError("manifest.json lists other parts than a data set has")


def _checked(columns: Any, metadata: Mapping[str, Any], names: Collection[str]) -> tuple[dict[str, Any], Metadata]:
    if not isinstance(columns, dict) or columns.keys() != set(names):
        raise DataError("it has other columns than this version of rlopt writes")
    if not isinstance(columns["extras"], dict) or not isinstance(metadata.get("versions"), dict):
        raise DataError("its extras or versions are not a table")
    return columns, metadata_from(metadata)
