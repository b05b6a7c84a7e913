"""Writes and reads folders of safetensors and JSON files, atomically and with checksums; nothing is pickled.

Checkpoints and data sets are such folders. Each holds ``manifest.json`` and, for every tree (see
:mod:`rlopt.storage.tree`), ``<name>.json`` (its structure) and ``<name>.safetensors`` (its tensors and arrays). The
manifest has a SHA-256 of every file and of itself. A folder is written under a hidden name beside its place, flushed to
the disk and then renamed, so that a reader never sees half of one.
"""

import errno
import hashlib
import math
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rlopt.errors import CheckpointError, RloptError, cure_of, one_line, resource_error
from rlopt.storage.budget import Budget, open_plain
from rlopt.storage.json import check_size, dump_json, parse_json
from rlopt.storage.tree import Tree, TreeWriter, decode, tensor_names

T = TypeVar("T")
MANIFEST = "manifest.json"
_TREE_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
_MAX_JSON_BYTES = 64 * 2**20
"""Larger structures are not written and not read: parsing them would take many times their size in memory."""
_MAX_MANIFEST_BYTES = 4 * 2**20
_MOST_NAMES = 3
"""The bytes of a tree's tensors with every name counted, in multiples of the file: weights shared by three networks."""


@dataclass(frozen=True)
class FolderKind:
    """One kind of checked folder, such as checkpoints: its format, and the words of its errors."""

    name: str
    """For people: "checkpoint"."""
    format: str
    """Written into the manifest, so that another kind of folder is recognised as such."""
    version: int = 1
    error: type[RloptError] = CheckpointError
    """Raised for everything that is wrong with the folder."""
    damaged: type[RloptError] | None = None
    """Raised instead where it is not what was written; None is ``error``."""
    elsewhere: str = "write to another folder"
    """What to do when the disk is full: the message says "free space there or" and this."""
    untouched: str = "what was there before is untouched"
    """What the message says a failed write has left as it was."""


def write_checked(
    final: Path, kind: FolderKind, trees: Mapping[str, Tree], fields: Mapping[str, Any], metadata: Mapping[str, Any]
) -> Path:
    """Writes the folder ``final`` and returns it; what was there before is replaced whole.

    Files and folders are fsynced: once this returns, the folder survives a crash of the machine. Big tensors are
    written without a copy. A failed write leaves nothing behind.

    :param trees: by names of lower-case letters, digits and underscores
    :param fields: further plain JSON entries of the manifest
    :param metadata: a tree without arrays, kept in the manifest
    :raises RloptError: of the kind's type, if a value cannot be written or the file system refuses
    """
    for name in trees:
        if not _TREE_NAME.fullmatch(name) or name == "manifest":
            raise kind.error(f"{name!r} is not a name for a tree: use lower-case letters, digits and underscores")
    writing = final.with_name(f".writing-{final.name}")
    with io_errors(kind, f"cannot write the {kind.name} {final}"):
        _make_folder(final.parent)
    try:
        with io_errors(kind, f"cannot write the {kind.name} {final}"):
            writing.mkdir()
            files = {}
            for name, tree in trees.items():
                files.update(_write_tree(writing, name, tree))
            content = {"format": kind.format, "version": kind.version, **fields, "trees": list(trees), "files": files}
            content["metadata"] = _encode_metadata(metadata)
            content["sha256"] = _digest_of(content)
            manifest = dump_json(content)
            if len(manifest) > _MAX_MANIFEST_BYTES:
                raise kind.error(f"the metadata take {len(manifest)} bytes of JSON: keep big data in arrays")
            _write_text(writing / MANIFEST, manifest)
            _sync_folder(writing)
            _move_into_place(writing, final)
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)
        raise
    return final


def replace_checked(path: Path, kind: FolderKind, trees: Mapping[str, Tree]) -> Path:
    """:func:`write_checked` for what a user saves by hand: replaces a whole folder of the same kind, and nothing else.

    :raises RloptError: of the kind's type, also where ``path`` holds something else
    """
    return write_checked(check_place(path, kind), kind, trees, {}, {})


def check_place(path: Path, kind: FolderKind) -> Path:
    """The absolute path of a folder that may be written at ``path``; clears up after a killed write there.

    :raises RloptError: of the kind's type, unless there is nothing, an empty folder, or an undamaged one of the kind
    """
    path = Path(os.path.abspath(path))
    with io_errors(kind, f"cannot write the {kind.name} {path}"):
        if path.parent.is_dir():
            remove_leftovers(path)
        if os.path.lexists(path) and (not path.is_dir() or path.is_symlink()):
            raise kind.error(f"{path} exists and is not a folder: choose another path")
        if path.is_dir() and any(path.iterdir()):
            if not (path / MANIFEST).exists():
                what = f"{path} holds other files than a {kind.name}"
                raise kind.error(f"{what}: choose another path; it is not replaced")
            try:
                read_checked(path, kind, only=())
            except kind.error as error:
                raise kind.error(f"{error}; it is not replaced: choose another path, or delete it first") from None
    return path


def read_object(path: Path, kind: FolderKind, name: str, build: Callable[[Tree], T]) -> T:
    """The object that ``build`` makes from the tree ``agent`` of a folder that :func:`replace_checked` wrote.

    :param name: what errors call the object
    :raises RloptError: of the kind's type, if there is no such folder, or ``build`` fails
    """
    if not path.is_dir():
        raise kind.error(f"{path} does not exist or is not a folder: give the folder that save wrote")
    _, trees = read_checked(path, kind)
    try:
        return build(trees["agent"])
    except RloptError as error:
        raise kind.error(f"{path} cannot be loaded: {error}") from None
    except Exception as error:
        if (lack := resource_error(error, f"{path} cannot be loaded")) is not None:
            raise lack from error
        raise kind.error(
            f"{path} does not hold a {name} ({type(error).__name__}: {one_line(error)}): it is malformed or of "
            "another version"
        ) from error


def read_checked(
    path: Path,
    kind: FolderKind,
    only: Collection[str] | None = None,
    check: Callable[[dict[str, Any]], None] = lambda content: None,
) -> tuple[dict[str, Any], dict[str, Tree]]:
    """Reads and verifies a whole folder; executes nothing that the files say. Returns (manifest, trees).

    :param only: the trees to load; None loads all. The others are verified too
    :param check: raises ValueError where the manifest's further fields are malformed
    :raises RloptError: of the kind's type, if a file is missing, altered, truncated, malformed, or a symbolic link
    :raises rlopt.errors.ResourceError: memory, permissions or the disk are to blame
    """
    with _damage(path, kind):
        content = _read_manifest(path, kind)
        check(content)
        for name in _file_names(content["trees"]):
            expected = content["files"][name]
            digest, size = _digest_of_file(path / name, expected["bytes"])
            if size != expected["bytes"] or digest != expected["sha256"]:
                raise ValueError(f"{name} is not what was written")
        wanted = [name for name in content["trees"] if only is None or name in only]
        trees = {name: _read_tree(path, name) for name in wanted}
        content["metadata"] = decode(content["metadata"], _no_tensor)
        if not isinstance(content["metadata"], dict):
            raise ValueError(f"{MANIFEST} has no metadata")
        return content, trees


def remove_leftovers(final: Path) -> None:
    """Clears up after a killed write of ``final``: deletes the half-written folder, and puts an old one back that was
    moved away and not yet replaced.
    """
    writing, replaced = final.with_name(f".writing-{final.name}"), replaced_name(final)
    if os.path.lexists(writing):
        remove(writing)
    if os.path.lexists(replaced):
        if os.path.lexists(final):
            remove(replaced)
        else:
            os.rename(replaced, final)


def replaced_name(final: Path) -> Path:
    """Where the old folder lies while a new ``final`` takes its place; a killed write may leave it there."""
    return final.with_name(f".replaced-{final.name}")


def _write_tree(folder: Path, name: str, tree: Tree) -> dict[str, dict[str, Any]]:
    writer = TreeWriter()
    text = dump_json(writer.encode(tree))
    try:
        if len(text) > _MAX_JSON_BYTES:
            raise ValueError(f"it has {len(text)} bytes")
        check_size(text)
    except ValueError as error:
        raise CheckpointError(f"the structure of {name!r} is too large ({error}): keep big data in arrays") from None
    structure, tensors = folder / f"{name}.json", folder / f"{name}.safetensors"
    _write_text(structure, text)
    save_file(writer.tensors, tensors)
    shutil.copymode(structure, tensors)  # safetensors lets nobody else read what it writes
    with open(tensors, "rb+") as file:
        os.fsync(file.fileno())
    files = {}
    for file_name in _file_names([name]):
        digest, size = _digest_of_file(folder / file_name, 2**63)
        files[file_name] = {"bytes": size, "sha256": digest}
    return files


def _read_tree(folder: Path, name: str) -> Tree:
    with open_plain(folder / f"{name}.json") as file:
        encoded = parse_json(_read_whole(file, _MAX_JSON_BYTES))
    open_plain(folder / f"{name}.safetensors").close()  # safe_open itself would follow a link
    with safe_open(folder / f"{name}.safetensors", framework="pt") as tensors:
        sizes = {key: _size(tensors.get_slice(key)) for key in tensors.keys()}  # noqa: SIM118
        # Tied weights are stored once and named several times: a forged file names a tensor a thousand times.
        budget = Budget(_MOST_NAMES * (folder / f"{name}.safetensors").stat().st_size)
        for key in tensor_names(encoded):
            budget.charge(sizes.get(key, 0), key)

        def tensor(key: str) -> torch.Tensor:
            if key not in sizes:
                raise KeyError(key)
            return tensors.get_tensor(key).clone()  # the tensor itself is a view of the file

        return decode(encoded, tensor)


def _size(tensor: Any) -> int:
    """Bytes of a tensor in an open file, from its header."""
    bits = re.sub(r"\D", "", tensor.get_dtype()) or "8"  # F32, BF16, U8, BOOL
    return math.prod(tensor.get_shape()) * int(bits) // 8


def _read_whole(file: Any, most: int) -> bytes:
    if os.fstat(file.fileno()).st_size > most:
        raise ValueError(f"its JSON is over {most} bytes")
    content: bytes = file.read()
    return content


def _read_manifest(path: Path, kind: FolderKind) -> dict[str, Any]:
    """The manifest, its own checksum verified and every entry of the type that the reader relies on."""
    with open_plain(path / MANIFEST) as file:
        content = parse_json(_read_whole(file, _MAX_MANIFEST_BYTES))
    if not isinstance(content, dict) or content.get("format") != kind.format:
        raise ValueError(f"{MANIFEST} is none of rlopt's {kind.name}s")
    if content.get("version") != kind.version:
        # Before the checksum: another version may compute that in another way.
        raise kind.error(
            f"{path} has format version {one_line(repr(content.get('version')))}, this rlopt reads {kind.version}: use "
            "the one it is from"
        )
    if content.pop("sha256", None) != _digest_of(content):
        raise ValueError(f"{MANIFEST} is not what was written")
    trees, files = content.get("trees"), content.get("files")
    if not isinstance(trees, list) or not all(isinstance(name, str) and _TREE_NAME.fullmatch(name) for name in trees):
        raise ValueError(f"{MANIFEST} lists no trees")
    if not isinstance(files, dict) or sorted(files) != sorted(_file_names(trees)) or "manifest" in trees:
        raise ValueError(f"{MANIFEST} lists other files than a {kind.name} has")
    for entry in files.values():
        if not (isinstance(entry, dict) and type(entry.get("bytes")) is int and isinstance(entry.get("sha256"), str)):
            raise ValueError(f"{MANIFEST} lacks a size or a checksum")
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
    """SHA-256 and size; a file of more than ``largest`` bytes is not read, so that a forged one takes no time."""
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        return (hashlib.file_digest(file, "sha256").hexdigest() if size <= largest else ""), size


def _write_text(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    """Makes a folder and its parents, durably: a folder survives a crash once its parent is synced."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync_folder(path.parent)


def _move_into_place(writing: Path, final: Path) -> None:
    # A folder that is not empty cannot be renamed over: the old one is moved away first, and deleted last.
    replaced = replaced_name(final)
    if os.path.lexists(final):
        os.rename(final, replaced)
    os.rename(writing, final)
    _sync_folder(final.parent)
    if os.path.lexists(replaced):
        remove(replaced)


def remove(path: Path) -> None:
    """Deletes a folder with all in it, or a file or link."""
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
def io_errors(kind: FolderKind, what: str) -> Iterator[None]:
    """Turns errors of the file system into one line with the cure."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        code = error.errno if isinstance(error, OSError) else None
        full = code in (errno.ENOSPC, errno.EDQUOT) or "No space left" in reason or "os error 28" in reason
        cure = (
            f"free space there or {kind.elsewhere}"
            if full
            else cure_of(error, "check the folder's permissions and disk")
        )
        untouched = f"; {kind.untouched}" if kind.untouched else ""
        raise kind.error(f"{what} ({reason}): {cure}{untouched}") from error
    except CheckpointError as error:
        raise kind.error(str(error)) from error


@contextmanager
def _damage(path: Path, kind: FolderKind) -> Iterator[None]:
    """Turns whatever a damaged file makes fail into the kind's error, and nothing else."""
    try:
        yield
    except RloptError:
        raise
    except Exception as error:  # files fail in many ways, and so do the libraries that read them
        if (lack := resource_error(error, f"{path} cannot be read")) is not None:
            raise lack from error
        what = one_line(error)
        if isinstance(error, FileNotFoundError):
            what = f"{Path(error.filename).name if error.filename else 'a file'} is missing"
        raise (kind.damaged or kind.error)(f"{path} is damaged: {what}") from error
