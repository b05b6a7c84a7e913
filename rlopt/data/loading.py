"""``load_dataset``: one call for every source."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rlopt.data.dataset import Dataset
from rlopt.data.demonstrations import Demonstrations
from rlopt.data.metadata import DemonstrationMetadata
from rlopt.data.names import D4RL_NAMES
from rlopt.errors import DataError, unknown_name

MINARI_PREFIX = "minari:"
HDF5_SUFFIXES = (".hdf5", ".h5")
DEMONSTRATION_SUITES = ("dmc/",)
"""What the names of the demonstrations that come with rlopt begin with."""


def load_dataset(name_or_path: str | Path, download: bool = False, **options: Any) -> Dataset:
    """Loads a data set from wherever it is.

    :param name_or_path: a folder that :meth:`Dataset.save` wrote; an HDF5 file of the D4RL layout; a D4RL name
        (``maze2d-umaze-v1``), whose file is looked up in ``RLOPT_DATA_DIR`` or ``~/.d4rl/datasets``; a Minari id
        (``minari:D4RL/pointmaze/umaze-v2``); or demonstrations that come with rlopt (``dmc/walker-walk``) or lie in an
        .npz file, see :func:`rlopt.data.load_demonstrations`
    :param download: fetch what is not on this machine; size and SHA-256 are told on stderr
    :param options: for D4RL files: ``name``, ``env`` and the fields of :class:`rlopt.data.D4RLOptions`; for Minari:
        see :func:`rlopt.data.read_minari`
    :raises rlopt.errors.DataError: missing, damaged, unsafe or inconsistent data, in one line with the cure
    :raises rlopt.errors.UnknownNameError: a misspelt name, with the nearest one
    """
    text = str(name_or_path)
    if text.startswith(MINARI_PREFIX):
        from rlopt.data.formats.minari import read_minari

        if foreign := sorted(set(options) - {"clip_actions"}):
            raise DataError(f"{foreign[0]} is an option of D4RL files; a Minari data set takes clip_actions only")
        return read_minari(text.removeprefix(MINARI_PREFIX), download=download, **options)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        if options:
            raise DataError(f"{path} is a folder of rlopt's and read as it was written: give no options")
        dataset = Dataset.load(path)
        if isinstance(dataset.metadata, DemonstrationMetadata):
            return Demonstrations(**dataset.columns(), metadata=dataset.metadata)
        return dataset
    if path.suffix == ".npz" or text.startswith(DEMONSTRATION_SUITES):
        from rlopt.data.demonstration_loading import load_demonstrations

        if options:
            raise DataError(f"{text} is no D4RL file and takes no {', '.join(sorted(options))}")
        return load_demonstrations(name_or_path)
    if path.exists() or path.suffix in HDF5_SUFFIXES:
        return _from_file(path, options)
    if text in D4RL_NAMES:
        from rlopt.data.download import find_or_download

        file = find_or_download(D4RL_NAMES[text], download, lambda line: print(line, file=sys.stderr))
        return _from_file(file, {"name": text, **options})
    if path.name != text:
        raise DataError(f"{path} does not exist: give a data set folder, an HDF5 file, a D4RL name or minari:<id>")
    raise unknown_name("data set", text, D4RL_NAMES, "give a data set folder, an HDF5 file, a D4RL name or minari:<id>")


def _from_file(path: Path, options: dict[str, Any]) -> Dataset:
    from rlopt.data.download import verify
    from rlopt.data.formats.d4rl import read_d4rl

    if path.is_file():
        verify(path)
    return read_d4rl(path, **options)
