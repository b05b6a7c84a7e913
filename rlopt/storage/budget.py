"""The limit on the cost of reading a file. Imports no torch.

A file says how large its arrays are, names one array many times, compresses, and leads to other files. So every reader
charges what it is about to take to the budget of the whole file, reads each stored thing once, and opens plain files
of the folder it was given, and nothing else.
"""

import os
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any


class Budget:
    """Bytes of memory that reading one file, or the files of one folder, may take.

    :param size: bytes in all
    """

    def __init__(self, size: int) -> None:
        self._left = size
        self._read: set[Hashable] = set()

    def charge(self, size: int, name: str) -> None:
        """Takes ``size`` bytes for ``name``, before memory is taken for it.

        :raises ValueError: what was charged so far and this are more than the file can hold
        """
        if size > self._left:
            raise ValueError(f"{name!r} and what was read before it are more than the file can hold")
        self._left -= size

    def once(self, key: Hashable, name: str) -> None:
        """Notes that what is stored at ``key`` is read as ``name``.

        :raises ValueError: it was read before, under another name
        """
        if key in self._read:
            raise ValueError(f"{name!r} is stored once and has several names: give each a copy of its own")
        self._read.add(key)


def open_plain(path: Path, follow: bool = False) -> Any:
    """Opens a plain file for reading bytes: no pipe or device, which could block for ever.

    :param follow: whether ``path`` may be a symbolic link; one in a folder of files could lead anywhere
    :raises ValueError: it is none
    """
    if path.is_symlink() and not follow:
        raise ValueError(f"{path.name} is a symbolic link")
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags if follow else flags | getattr(os, "O_NOFOLLOW", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path.name} is not a plain file")
    return os.fdopen(descriptor, "rb")


def file_inside(folder: Path, name: Any) -> Path:
    """The file ``name`` of ``folder``, where a file gives the name.

    :raises ValueError: it is not a plain name, or leads out of the folder
    """
    if not isinstance(name, str) or not name or name in (".", "..") or "\0" in name or Path(name).name != name:
        raise ValueError(f"{str(name)[:80]!r} is not a name of a file in the folder")
    path = folder / name
    if path.is_symlink() or not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError(f"{name} is not a plain file")
    return path
