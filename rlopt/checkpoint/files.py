"""Writes, lists, reads and prunes checkpoints. Each is a checked folder (:mod:`rlopt.storage.checked_folder`).

``parent/step-000000012345/`` holds ``manifest.json`` and, for every tree, ``<name>.json`` (its structure) and
``<name>.safetensors`` (its tensors and arrays). A folder of that name is always complete.
"""

import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlopt.errors import CheckpointError, DamagedCheckpointError
from rlopt.storage.checked_folder import (
    MANIFEST,
    FolderKind,
    io_errors,
    read_checked,
    remove,
    remove_leftovers,
    write_checked,
)
from rlopt.storage.tree import Tree

__all__ = [
    "MANIFEST",
    "Checkpoint",
    "checkpoint_name",
    "checkpoint_step",
    "latest_checkpoint",
    "list_checkpoints",
    "prune_checkpoints",
    "read_checkpoint",
    "write_checkpoint",
]

KIND = FolderKind(
    name="checkpoint",
    format="rlopt-checkpoint",
    damaged=DamagedCheckpointError,
    elsewhere="use another run folder",
    untouched="the older checkpoints are untouched",
)
_FOLDER = re.compile(r"step-(\d{12,18})")
_HIDDEN = re.compile(r"\.(writing|replaced|deleted)-(step-\d{12,18})")
_MAX_STEP = 10**18 - 1


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and is undamaged."""

    path: Path
    step: int
    """Environment steps done when it was taken."""
    metadata: dict[str, Any]
    trees: dict[str, Tree]
    """The state by name: arrays as numpy, tensors as torch on the CPU, each with memory of its own."""


def checkpoint_name(step: int) -> str:
    """The folder name of the checkpoint at ``step``."""
    return f"step-{step:012d}"


def checkpoint_step(path: Path) -> int:
    """The step that a checkpoint's folder is named after."""
    return int(path.name.rpartition("-")[2])


def write_checkpoint(parent: Path, step: int, trees: Mapping[str, Tree], metadata: Mapping[str, Any]) -> Path:
    """Writes a checkpoint to ``parent/step-<step>`` and returns that path; what was there before is replaced whole.

    The files and folders are fsynced, so that the checkpoint survives a crash of the machine once this returns. Big
    tensors are written without a copy. Leftovers of a killed write are removed first.

    :param step: environment steps done, 0 to 10**18 - 1
    :param trees: the state, by names of lower-case letters, digits and underscores (see :mod:`rlopt.storage.tree`)
    :param metadata: plain JSON values kept in the manifest
    :raises rlopt.errors.CheckpointError: a value cannot be written, or the disk is full or read-only; nothing is left
        behind then and older checkpoints are untouched
    """
    parent = Path(parent)
    if type(step) is not int or not 0 <= step <= _MAX_STEP:
        raise CheckpointError(f"step must be an integer from 0 to {_MAX_STEP}, not {step!r}")
    final = parent / checkpoint_name(step)
    with io_errors(KIND, f"cannot write the checkpoint {final}"):
        _remove_leftovers(parent)
    return write_checked(final, KIND, trees, {"step": step}, metadata)


def read_checkpoint(path: Path, only: Collection[str] | None = None) -> Checkpoint:
    """Reads a checkpoint folder and verifies all of it; executes nothing that the files say.

    :param only: load these trees (the others are verified all the same); None loads all
    :raises rlopt.errors.CheckpointError: a file is missing, altered, truncated, malformed, or a symbolic link
    :raises rlopt.errors.ResourceError: it cannot be read for want of memory or a permission, or as the disk fails
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a checkpoint folder: give a folder named step-<number>")
    named = _FOLDER.fullmatch(path.name.removeprefix(".replaced-"))

    def check(content: Mapping[str, Any]) -> None:
        step = content.get("step")
        if type(step) is not int or not 0 <= step <= _MAX_STEP:
            raise ValueError(f"{MANIFEST} has no step")
        if named and int(named[1]) != step:
            raise ValueError(f"the folder's name does not match its step {step}")

    content, trees = read_checked(path, KIND, only, check)
    return Checkpoint(path, content["step"], content["metadata"], trees)


def list_checkpoints(parent: Path) -> list[Path]:
    """The checkpoint folders in ``parent`` by ascending step, not verified; none if there is no ``parent``."""
    found: dict[int, Path] = {}
    with suppress(FileNotFoundError, NotADirectoryError):
        for entry in sorted(os.scandir(parent), key=lambda entry: entry.name):
            # A write killed between its two renames leaves the older one of equal step under its hidden name.
            match = _FOLDER.fullmatch(entry.name.removeprefix(".replaced-"))
            if match and entry.is_dir(follow_symlinks=False):
                found[int(match[1])] = Path(parent) / entry.name
    return [found[step] for step in sorted(found)]


def latest_checkpoint(
    parent: Path, report: Callable[[str], None], only: Collection[str] | None = None, no_later_than: int | None = None
) -> Checkpoint:
    """The newest checkpoint in ``parent`` that is whole; one that cannot be read for another reason is not passed over.

    :param report: called with a line of text for each damaged checkpoint that is passed over
    :param only: see :func:`read_checkpoint`
    :param no_later_than: pass over checkpoints of later steps
    :raises rlopt.errors.CheckpointError: there is none, or one is of another version of rlopt
    :raises rlopt.errors.ResourceError: see :func:`read_checkpoint`
    """
    candidates = list_checkpoints(parent)
    if no_later_than is not None:
        candidates = [path for path in candidates if checkpoint_step(path) <= no_later_than]
    for path in reversed(candidates):
        try:
            return read_checkpoint(path, only)
        except DamagedCheckpointError as error:
            report(f"{error}; trying the checkpoint before it")
    what = f"none of the {len(candidates)} checkpoints in {parent} is whole" if candidates else f"{parent} has none"
    raise CheckpointError(f"{what}: start a new run, or restore the folder from a backup")


def prune_checkpoints(parent: Path, keep_last: int, keep: Collection[Path] = ()) -> list[Path]:
    """Deletes all checkpoints in ``parent`` but the ``keep_last`` (at least 1) newest and those in ``keep``.

    Returns what was deleted. Raises :class:`rlopt.errors.CheckpointError` if the file system refuses.
    """
    if keep_last < 1:
        raise CheckpointError(f"keep_last is {keep_last}: keep at least 1 checkpoint")
    kept = {Path(path).name for path in keep}
    doomed = [path for path in list_checkpoints(parent)[:-keep_last] if path.name not in kept]
    with io_errors(KIND, f"cannot delete old checkpoints in {parent}"):
        for path in doomed:
            # Renamed first: a folder named step-* is never half deleted.
            hidden = path.with_name(f".deleted-{path.name.removeprefix('.replaced-')}")
            os.rename(path, hidden)
            shutil.rmtree(hidden)
    return doomed


def _remove_leftovers(parent: Path) -> None:
    if not parent.exists():
        return
    for entry in list(os.scandir(parent)):
        if not (match := _HIDDEN.fullmatch(entry.name)):
            continue
        if match[1] == "deleted":
            remove(Path(entry.path))
        else:
            remove_leftovers(parent / match[2])
