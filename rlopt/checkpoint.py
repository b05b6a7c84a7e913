"""Checkpoints on disk: a folder of safetensors and JSON files with a SHA-256 each, written atomically, never a pickle.

``parent/step-000000012345/`` holds ``manifest.json`` and, for every tree, ``<name>.json`` (its structure) and
``<name>.safetensors`` (its tensors and arrays). A folder of that name is always complete: it is written beside, under a
hidden name, made durable and then renamed into place.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rlopt.errors import CheckpointError, one_line
from rlopt.tree import Tree, TreeWriter, decode, dump_json, parse_json

FORMAT, VERSION = "rlopt-checkpoint", 1
MANIFEST = "manifest.json"
_FOLDER = re.compile(r"step-(\d{12,18})")
_HIDDEN = re.compile(r"\.(?:writing|replaced|deleted)-step-\d{12,18}")
_TREE_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
_MAX_JSON_BYTES = 256 * 2**20
_MAX_STEP = 10**18 - 1


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found whole."""

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
    :param trees: the state, by names of lower-case letters, digits and underscores (see :mod:`rlopt.tree`)
    :param metadata: plain JSON values kept in the manifest
    :raises rlopt.errors.CheckpointError: a value cannot be written, or the disk is full or read-only; nothing is left
        behind then and older checkpoints are untouched
    """
    parent = Path(parent)
    if type(step) is not int or not 0 <= step <= _MAX_STEP:
        raise CheckpointError(f"step must be an integer from 0 to {_MAX_STEP}, not {step!r}")
    for name in trees:
        if not _TREE_NAME.fullmatch(name) or name == "manifest":
            raise CheckpointError(f"{name!r} is no name for a tree: use lower-case letters, digits and underscores")
    final = parent / checkpoint_name(step)
    writing = parent / f".writing-{final.name}"
    with _io_errors(f"cannot write the checkpoint {final}"):
        _make_folder(parent)
        _remove_leftovers(parent)
    try:
        with _io_errors(f"cannot write the checkpoint {final}"):
            writing.mkdir()
            files = {}
            for name, tree in trees.items():
                files.update(_write_tree(writing, name, tree))
            content = {"format": FORMAT, "version": VERSION, "step": step, "trees": list(trees), "files": files}
            content["metadata"] = _encode_metadata(metadata)
            content["sha256"] = _digest_of(content)
            _write_text(writing / MANIFEST, dump_json(content))
            _sync_folder(writing)
            _move_into_place(writing, final)
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)
        raise
    return final


def read_checkpoint(path: Path, only: Collection[str] | None = None) -> Checkpoint:
    """Reads a checkpoint folder and verifies all of it; executes nothing that the files say.

    :param only: load these trees (the others are verified all the same); None loads all
    :raises rlopt.errors.CheckpointError: a file is missing, altered, truncated, malformed, or a symbolic link
    """
    path = Path(path)
    with _damage(path):
        if not path.is_dir():
            raise CheckpointError(f"{path} is no checkpoint folder: give a folder named step-<number>")
        content = _read_manifest(path)
        for name in _file_names(content["trees"]):
            expected = content["files"][name]
            digest, size = _digest_of_file(path / name, expected["bytes"])
            if size != expected["bytes"] or digest != expected["sha256"]:
                raise ValueError(f"{name} is not what was written")
        named = _FOLDER.fullmatch(path.name.removeprefix(".replaced-"))
        if named and int(named[1]) != content["step"]:
            raise ValueError(f"the folder's name does not match its step {content['step']}")
        wanted = [name for name in content["trees"] if only is None or name in only]
        trees = {name: _read_tree(path, name) for name in wanted}
        metadata = decode(content["metadata"], _no_tensor)
        return Checkpoint(path, content["step"], metadata, trees)


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
    parent: Path,
    report: Callable[[str], None],
    only: Collection[str] | None = None,
    no_later_than: int | None = None,
) -> Checkpoint:
    """The newest checkpoint in ``parent`` that is whole.

    :param report: called with a line of text for each damaged checkpoint that is passed over
    :param only: see :func:`read_checkpoint`
    :param no_later_than: pass over checkpoints of later steps
    :raises rlopt.errors.CheckpointError: there is none
    """
    candidates = list_checkpoints(parent)
    if no_later_than is not None:
        candidates = [path for path in candidates if checkpoint_step(path) <= no_later_than]
    for path in reversed(candidates):
        try:
            return read_checkpoint(path, only)
        except CheckpointError as error:
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
    with _io_errors(f"cannot delete old checkpoints in {parent}"):
        for path in doomed:
            # Renamed first: a folder named step-* is never half deleted.
            hidden = path.with_name(f".deleted-{path.name.removeprefix('.replaced-')}")
            os.rename(path, hidden)
            shutil.rmtree(hidden)
    return doomed


def _write_tree(folder: Path, name: str, tree: Tree) -> dict[str, dict[str, Any]]:
    writer = TreeWriter()
    text = dump_json(writer.encode(tree))
    if len(text) > _MAX_JSON_BYTES:
        raise CheckpointError(f"the structure of {name!r} takes {len(text)} bytes of JSON: keep big data in arrays")
    tensors = folder / f"{name}.safetensors"
    save_file(writer.tensors, tensors)
    with open(tensors, "rb+") as file:
        os.fsync(file.fileno())
    _write_text(folder / f"{name}.json", text)
    files = {}
    for file_name in _file_names([name]):
        digest, size = _digest_of_file(folder / file_name, 2**63)
        files[file_name] = {"bytes": size, "sha256": digest}
    return files


def _read_tree(folder: Path, name: str) -> Tree:
    with _open_regular(folder / f"{name}.json") as file:
        encoded = parse_json(file.read(_MAX_JSON_BYTES))
    _open_regular(folder / f"{name}.safetensors").close()
    with safe_open(folder / f"{name}.safetensors", framework="pt") as tensors:
        names = set(tensors.keys())

        def tensor(key: str) -> torch.Tensor:
            if key not in names:
                raise KeyError(key)
            return tensors.get_tensor(key).clone()

        return decode(encoded, tensor)


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, its own checksum verified and every entry of the type that the reader relies on."""
    with _open_regular(path / MANIFEST) as file:
        content = parse_json(file.read(_MAX_JSON_BYTES))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{MANIFEST} is none of rlopt's")
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has format version {content.get('version')!r}, this rlopt reads {VERSION}: use the one it is from"
        )
    if content.pop("sha256", None) != _digest_of(content):
        raise ValueError(f"{MANIFEST} is not what was written")
    trees, files = content.get("trees"), content.get("files")
    if not isinstance(trees, list) or not all(isinstance(name, str) and _TREE_NAME.fullmatch(name) for name in trees):
        raise ValueError(f"{MANIFEST} lists no trees")
    if not isinstance(files, dict) or sorted(files) != sorted(_file_names(trees)) or "manifest" in trees:
        raise ValueError(f"{MANIFEST} lists other files than a checkpoint has")
    for entry in files.values():
        if not (isinstance(entry, dict) and type(entry.get("bytes")) is int and isinstance(entry.get("sha256"), str)):
            raise ValueError(f"{MANIFEST} lacks a size or a checksum")
    if type(content.get("step")) is not int or not 0 <= content["step"] <= _MAX_STEP:
        raise ValueError(f"{MANIFEST} has no step")
    if not isinstance(content.get("metadata"), dict):
        raise ValueError(f"{MANIFEST} has no metadata")
    return content


def _file_names(trees: Collection[str]) -> list[str]:
    return [f"{name}.{suffix}" for name in trees for suffix in ("json", "safetensors")]


def _encode_metadata(metadata: Mapping[str, Any]) -> Any:
    writer = TreeWriter()
    encoded = writer.encode(metadata, ("metadata",))
    if writer.tensors:
        raise CheckpointError(f"metadata holds an array ({next(iter(writer.tensors))}): put arrays into a tree")
    return encoded


def _no_tensor(name: str) -> torch.Tensor:
    raise KeyError(name)


def _digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(dump_json(dict(sorted(content.items()))).encode()).hexdigest()


def _digest_of_file(path: Path, largest: int) -> tuple[str, int]:
    """SHA-256 and size; a file over ``largest`` bytes is not read."""
    with _open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        return (hashlib.file_digest(file, "sha256").hexdigest() if size <= largest else ""), size


def _open_regular(path: Path) -> Any:
    """Opens a plain file for reading; a link, pipe or device, which could lead elsewhere or block, is refused."""
    if path.is_symlink():
        raise ValueError(f"{path.name} is a symbolic link")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path.name} is no plain file")
    return os.fdopen(descriptor, "rb")


def _write_text(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync_folder(path.parent)


def _move_into_place(writing: Path, final: Path) -> None:
    replaced = final.with_name(f".replaced-{final.name}")
    if os.path.lexists(final):
        os.rename(final, replaced)
    os.rename(writing, final)
    _sync_folder(final.parent)
    if os.path.lexists(replaced):
        _remove(replaced)


def _remove_leftovers(parent: Path) -> None:
    for entry in list(os.scandir(parent)):
        if not _HIDDEN.fullmatch(entry.name):
            continue
        original = entry.name.removeprefix(".replaced-")
        if original != entry.name and not os.path.lexists(parent / original):
            os.rename(entry.path, parent / original)
        else:
            _remove(Path(entry.path))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _io_errors(what: str) -> Iterator[None]:
    """Turns the file system's refusals into one line with the cure."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        code = error.errno if isinstance(error, OSError) else None
        full = code in (errno.ENOSPC, errno.EDQUOT) or "No space left" in reason or "os error 28" in reason
        cure = "free space there or use another run folder" if full else "check the folder's permissions and disk"
        raise CheckpointError(f"{what} ({reason}): {cure}; the older checkpoints are untouched") from error


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turns every way in which a damaged file can fail to be read into :class:`rlopt.errors.CheckpointError`."""
    try:
        yield
    except FileNotFoundError as error:
        name = Path(error.filename).name if error.filename else "a file"
        raise CheckpointError(f"{path} is damaged: {name} is missing") from error
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{path} is damaged: {one_line(error)}") from error
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged: {one_line(error)}") from error
