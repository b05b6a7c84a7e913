"""``load_demonstrations``: one call for every source of demonstrations."""

from __future__ import annotations

from pathlib import Path

from rlopt.data.demonstrations import Demonstrations
from rlopt.data.loading import load_dataset


def load_demonstrations(name_or_path: str | Path) -> Demonstrations:
    """Loads demonstrations from wherever they are.

    :param name_or_path: a folder that :meth:`Demonstrations.save` wrote, or any data set that
        :func:`rlopt.data.load_dataset` reads, which is then taken as an expert's
    :raises rlopt.errors.DataError: missing, damaged, unsafe or inconsistent data, in one line with the cure
    :raises rlopt.errors.UnknownNameError: a misspelt name, with the nearest one
    """
    loaded = load_dataset(name_or_path)
    return loaded if isinstance(loaded, Demonstrations) else Demonstrations.from_dataset(loaded)
