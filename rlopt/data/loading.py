"""``load_dataset`` and ``load_demonstrations``: one call for every source."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlopt.data.dataset import Dataset
from rlopt.data.demonstrations import Demonstrations
from rlopt.data.formats.foreign_demonstrations import ForeignOptions
from rlopt.data.metadata import DemonstrationMetadata
from rlopt.data.names import D4RL_NAMES
from rlopt.errors import DataError, one_line, resource_error, unknown_name

MINARI_PREFIX = "minari:"
HDF5_SUFFIXES = (".hdf5", ".h5")
DEMONSTRATION_SUITES = ("dmc/",)
"""What the names of the demonstrations that come with rlopt begin with."""
SETS = Path(__file__).parent / "demonstration_sets"
"""The demonstrations that come with rlopt, a file ``<suite>/<task>.npz`` each."""
_CURE = "give a folder, an .npz file, minari:<id>, or the name of a set that comes with rlopt"


def load_dataset(
    name_or_path: str | Path, download: bool = False, default_env: str | None = None, **options: Any
) -> Dataset:
    """Loads a data set from wherever it is.

    :param name_or_path: a folder that :meth:`Dataset.save` wrote; an HDF5 file of the D4RL layout; a D4RL name
        (``maze2d-umaze-v1``), whose file is looked up in ``RLOPT_DATA_DIR`` or ``~/.d4rl/datasets``; a Minari id
        (``minari:D4RL/pointmaze/umaze-v2``); or demonstrations that come with rlopt (``dmc/walker-walk``) or lie in an
        .npz file, see :func:`rlopt.data.load_demonstrations`
    :param download: fetch what is not on this machine; size and SHA-256 are told on stderr
    :param default_env: id of the environment, where the file is one that does not say it
    :param options: for D4RL files: ``name``, ``env`` and the fields of :class:`rlopt.data.D4RLOptions`; for Minari:
        see :func:`rlopt.data.read_minari`
    :raises rlopt.errors.DataError: missing, damaged, unsafe or inconsistent data, in one line with the cure
    :raises rlopt.errors.UnknownNameError: a misspelt name, with the nearest one
    """
    text = str(name_or_path)
    if text.startswith(MINARI_PREFIX):
        from rlopt.data.formats.minari import read_minari

        if foreign := sorted(set(options) - {"clip_actions"}):
            raise DataError(f"{_flags(foreign[:1])} is for D4RL files; a Minari data set takes --clip-actions only")
        return read_minari(text.removeprefix(MINARI_PREFIX), download=download, **options)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        if options:
            raise DataError(f"{path} is a folder of rlopt's and read as it was written: give no options")
        dataset = Dataset.load(path)
        if isinstance(dataset.metadata, DemonstrationMetadata):
            return Demonstrations(**dataset.columns(), metadata=dataset.metadata)
        return dataset
    if path.suffix in (".npz", ".parquet") or text.startswith(DEMONSTRATION_SUITES):
        if options:
            raise DataError(f"{text} is no D4RL file and takes no {_flags(options)}")
        return load_demonstrations(name_or_path)
    if path.exists() or path.suffix in HDF5_SUFFIXES:
        return _from_file(path, options, default_env)
    if text in D4RL_NAMES:
        from rlopt.data.download import find_or_download

        file = find_or_download(D4RL_NAMES[text], download, lambda line: print(line, file=sys.stderr))
        return _from_file(file, {"name": text, **options})
    if path.name != text:
        raise DataError(f"{path} does not exist: give a data set folder, an HDF5 file, a D4RL name or minari:<id>")
    raise unknown_name("data set", text, D4RL_NAMES, "give a data set folder, an HDF5 file, a D4RL name or minari:<id>")


def _flags(options: Iterable[str]) -> str:
    return ", ".join(f"--{name}".replace("_", "-") for name in sorted(options))


def _from_file(path: Path, options: dict[str, Any], default_env: str | None = None) -> Dataset:
    from rlopt.data.download import verify
    from rlopt.data.formats.d4rl import read_d4rl, says_its_env

    if path.is_file():
        verify(path)
    if default_env and not {"name", "env"} & set(options) and not says_its_env(path):
        options = {**options, "env": default_env}
    return read_d4rl(path, **options)


def demonstration_names() -> list[str]:
    """Names of the demonstrations that come with rlopt, such as ``dmc/walker-walk``."""
    return sorted(path.relative_to(SETS).with_suffix("").as_posix() for path in SETS.glob("*/*.npz"))


def load_demonstrations(
    name_or_path: str | Path,
    *,
    env: str | None = None,
    action_repeat: int | None = None,
    observation_keys: tuple[str, ...] | None = None,
    ends: str = "auto",
    default_env: str | None = None,
) -> Demonstrations:
    """Loads demonstrations from wherever they are.

    :param name_or_path: a folder that :meth:`Demonstrations.save` wrote; an ``.npz`` file of the imitation library's
        or ValueDICE's layout; arrays written by hand in an ``.npz`` file or a ``.parquet`` table (``observations``,
        ``actions``, and what says where episodes end, under any usual name:
        :mod:`rlopt.data.formats.own_arrays`); a folder that HuggingFace's ``datasets`` wrote in ``imitation``'s layout;
        the name of a set that comes with rlopt (``dmc/walker-walk``); or anything else that
        :func:`rlopt.data.load_dataset` reads (``minari:<id>``, D4RL), which is then taken as an expert's
    :param env: id of the environment, for files of other libraries, which do not say it
    :param action_repeat: of such a file, 1 by default
    :param observation_keys: of such a file: names of the parts of its flat observations, in their order
    :param ends: of such a file: ``auto`` (true terminals are the ends of episodes shorter than the time limit of
        ``env``, if that is given), ``truncated`` or ``terminated`` for all
    :param default_env: as for :func:`rlopt.data.load_dataset`
    :raises rlopt.errors.DataError: missing, damaged, unsafe, empty or inconsistent data, in one line with the cure
    :raises rlopt.errors.UnknownNameError: a misspelt name, with the nearest one
    """
    options = ForeignOptions(env, action_repeat, observation_keys, ends)
    text, path = str(name_or_path), Path(name_or_path).expanduser()
    if text in demonstration_names():
        return _npz(SETS / f"{text}.npz", options)
    if path.is_dir() and ((path / "state.json").exists() or (path / "dataset_dict.json").exists()):
        from rlopt.data.formats.huggingface import read_huggingface

        return read_huggingface(path, options)
    if path.is_file() and path.suffix == ".parquet":
        from rlopt.data.formats.own_arrays import read_parquet

        return read_parquet(path, options)
    if path.is_file() and path.suffix not in HDF5_SUFFIXES:
        return _npz(path, options)
    if text not in D4RL_NAMES and not text.startswith(MINARI_PREFIX) and not path.exists():
        if text.startswith(DEMONSTRATION_SUITES) or path.name == text:
            raise unknown_name("demonstrations", text, [*demonstration_names(), *D4RL_NAMES], _CURE)
        raise DataError(f"{path} does not exist: {_CURE}")
    if options != ForeignOptions():
        raise DataError(
            f"{text} says itself which environment it is of: give no --env, --action-repeat or other options"
        )
    loaded = load_dataset(name_or_path, default_env=default_env)
    return loaded if isinstance(loaded, Demonstrations) else Demonstrations.from_dataset(loaded)


def _npz(path: Path, options: ForeignOptions) -> Demonstrations:
    from rlopt.data.formats import imitation_files, own_arrays, valuedice_files
    from rlopt.data.formats.limits import refuse_pickle
    from rlopt.data.formats.npz import names_in

    try:
        refuse_pickle(path)
    except OSError as error:
        raise resource_error(error, f"{path} cannot be read") or DataError(f"{path}: {one_line(error)}") from None
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is no .npz file, or it was cut: {_CURE}")
    names = names_in(path)
    if names >= set(imitation_files.KEYS):
        return imitation_files.read_imitation(path, options)
    if names >= set(valuedice_files.KEYS):
        return valuedice_files.read_valuedice(path, options)
    own = own_arrays.NAMES
    if all(names.intersection(own[kind]) for kind in ("observations", "actions")) and not names & {"indices"}:
        return own_arrays.read_own_npz(path, names, options)
    layouts: Mapping[str, Any] = {"imitation": imitation_files.KEYS, "valuedice": valuedice_files.KEYS}
    nearest = max(layouts, key=lambda name: len(names.intersection(layouts[name])))
    if not names.intersection(layouts[nearest]):
        wanted = " or ".join(f"{name}'s ({', '.join(keys)})" for name, keys in layouts.items())
        raise DataError(
            f"{path} has the arrays {', '.join(sorted(names)[:12]) or 'none'}: demonstrations have observations and "
            f"actions, or {wanted}"
        )
    if nearest == "imitation":
        return imitation_files.read_imitation(path, options)
    return valuedice_files.read_valuedice(path, options)
