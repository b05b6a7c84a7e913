"""What a data file may hold: how large it may be for what it says, and no pickle."""

from __future__ import annotations

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


_PICKLED = b"\x80"


def refuse_pickle(path: Path) -> None:
    """Raises :class:`rlopt.errors.DataError` for a file that is a pickle, by its name or its first byte."""
    with open(path, "rb") as file:
        pickled = file.read(1) == _PICKLED
    if pickled or path.suffix.lower() in PICKLE_SUFFIXES:
        raise DataError(
            f"{path} is a pickle, which runs code when it is read: convert it to .npz in the environment that wrote "
            f"it, with the lines in {PAGE}"
        )
