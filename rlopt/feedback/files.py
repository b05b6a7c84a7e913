"""Files of clips: opened below the media folder only, and never through a link."""

import hashlib
import os
import stat
from collections.abc import Collection
from io import BufferedReader
from pathlib import Path, PurePosixPath

from rlopt.errors import StudyError

TYPES = {".mp4": "video/mp4", ".webm": "video/webm", ".png": "image/png", ".jpg": "image/jpeg"}
"""What is served: by the ending, the Content-Type."""


def inside(root: Path, path: Path) -> str:
    """``path`` relative to the media folder, POSIX.

    :raises StudyError: it lies elsewhere, or is of a type that is not served
    """
    try:
        relative = path.absolute().relative_to(root)
    except ValueError:
        raise StudyError(f"the clip {path} is outside the study's folder {root}: write it there") from None
    if path.suffix.lower() not in TYPES:
        raise StudyError(f"the clip {path.name} is none of {', '.join(TYPES)}: write one of these")
    return relative.as_posix()


def open_below(root: Path, relative: str) -> BufferedReader:
    """Opens a plain file below ``root`` for reading, following no link on the way.

    :param relative: POSIX
    :raises StudyError: the path leads out, through a link, or to no plain file
    """
    parts = PurePosixPath(relative).parts
    if not parts or any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise StudyError("the path of a clip leads out of the study's folder")
    if PurePosixPath(relative).is_absolute():
        raise StudyError("the path of a clip leads out of the study's folder")
    try:
        return os.fdopen(_descend(root, parts), "rb")
    except OSError as error:
        raise StudyError(f"the clip {relative} cannot be read: {error.strerror}") from None


def _descend(root: Path, parts: tuple[str, ...]) -> int:
    """A descriptor of the file, opened component by component so that nobody can swap a link in between."""
    no_follow = getattr(os, "O_NOFOLLOW", 0)
    if not no_follow or os.open not in os.supports_dir_fd:  # Windows
        path = root.joinpath(*parts)
        if any(parent.is_symlink() for parent in (path, *path.parents) if root in parent.parents) or not path.is_file():
            raise FileNotFoundError(2, "no plain file")
        return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | no_follow, dir_fd=folder)
            os.close(folder)
            folder = below
        descriptor = os.open(parts[-1], os.O_RDONLY | os.O_NONBLOCK | no_follow, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(2, "no plain file")
    return descriptor


def file_digest(root: Path, relative: str) -> str:
    """SHA-256 of a file below the media folder."""
    with open_below(root, relative) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(root: Path, names: Collection[str]) -> None:
    """Makes files below the media folder survive a loss of power: each is flushed once, and so is each folder above it.

    :param names: paths relative to ``root``, POSIX
    :raises StudyError: as :func:`open_below`
    """
    if os.name != "posix":
        return
    for name in names:
        with open_below(root, name) as file:
            os.fsync(file.fileno())
    for folder in {folder for name in names for folder in PurePosixPath(name).parents}:
        descriptor = os.open(root / folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
