"""What a data file may hold: how large it may be for what it says, and no pickle."""

from pathlib import Path

from rlopt.errors import DataError
from rlopt.storage.budget import Budget

_LARGEST_RATIO = 1100
"""Deflate shrinks by 1032 at most: a file that declares more than this times its size holds no data of that size."""


_SMALLEST_LIMIT = 64 * 2**20


def budget_of(path: Path) -> Budget:
    """The most bytes that all arrays of the file ``path`` can honestly take together."""
    return Budget(max(_LARGEST_RATIO * path.stat().st_size, _SMALLEST_LIMIT))


PICKLE_SUFFIXES = (".pkl", ".pickle", ".p")


PAGE = 'docs/data.md, "Pickled demonstrations"'


_PICKLED, _LFS = b"\x80", b"version https://git-lfs.github.com/spec/"


def refuse_pickle(path: Path) -> None:
    """Raises :class:`rlopt.errors.DataError` for a file that is a pickle, by its name or its first byte, or a pointer
    of git-LFS to one that is elsewhere.
    """
    with open(path, "rb") as file:
        head = file.read(len(_LFS))
    if head == _LFS:
        raise DataError(
            f"{path} is a pointer of git-LFS and not the data: fetch them with git lfs pull, or from the address that "
            "the repository's page gives"
        )
    if head.startswith(_PICKLED) or path.suffix.lower() in PICKLE_SUFFIXES:
        raise DataError(
            f"{path} is a pickle, which runs code when it is read: convert it to .npz in the environment that wrote "
            f"it, with the lines in {PAGE}"
        )
