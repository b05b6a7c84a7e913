"""``load_dataset`` and ``load_demonstrations``: one call for every source."""

import dataclasses
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlopt.data.dataset import Dataset
from rlopt.data.demonstrations import Demonstrations, as_recorded
from rlopt.data.environment import spaces_of
from rlopt.data.folder import is_folder
from rlopt.data.formats.foreign_demonstrations import ForeignOptions
from rlopt.data.names import D4RL_NAMES, name_of_file
from rlopt.envs.settings import EnvSettings
from rlopt.errors import DataError, unknown_name

MINARI_PREFIX = "minari:"
HDF5_SUFFIXES = (".hdf5", ".h5", ".hdf")
DEMONSTRATION_SUITES = ("dmc/",)
"""What the names of the demonstrations that come with rlopt begin with."""
SETS = Path(__file__).parent / "demonstration_sets"
"""The demonstrations that come with rlopt, a file ``<suite>/<task>.npz`` each."""
_CURE = "give a folder, a file, a D4RL name, minari:<id>, or a set that comes with rlopt (dmc/walker-walk)"


def load_dataset(
    name_or_path: str | Path, download: bool = False, default_env: EnvSettings | str | None = None, **options: Any
) -> Dataset:
    """Loads a data set from wherever it is.

    :param name_or_path: a folder that :meth:`Dataset.save` wrote; a D4RL name (``maze2d-umaze-v1``), whose file is
        looked up in ``RLOPT_DATA_DIR`` or ``~/.d4rl/datasets``; a Minari id (``minari:D4RL/pointmaze/umaze-v2``) or
        folder; demonstrations that come with rlopt (``dmc/walker-walk``); or an HDF5, npz, parquet, CSV, JSON lines or
        safetensors file, or a folder, of one of the layouts of docs/data.md
    :param download: download missing data; prints size and SHA-256 to stderr
    :param default_env: the environment, if the file does not name one
    :param options: for D4RL files: ``name`` and the fields of :class:`rlopt.data.D4RLOptions`; for files of other
        programs, which do not name their environment: ``env``, ``action_repeat``, ``ends``, ``columns``,
        ``max_episode_steps`` and the other fields of :class:`rlopt.data.formats.foreign_demonstrations.ForeignOptions`;
        ``clip_actions`` and ``drop_nan`` (leave out episodes with NaN) for both and for Minari
    :raises rlopt.errors.DataError: missing, damaged, unsafe or inconsistent data, in one line with the cure
    :raises rlopt.errors.UnknownNameError: a misspelt name, with the nearest one
    """
    options = {name: value for name, value in options.items() if value is not None}
    _check_names(options)
    text, path = str(name_or_path), Path(name_or_path).expanduser()
    if text.startswith(MINARI_PREFIX):
        from rlopt.data.formats.minari import read_minari

        own = _only(options, ("clip_actions", "drop_nan"), "a Minari data set takes --clip-actions and --drop-nan")
        return read_minari(text.removeprefix(MINARI_PREFIX), download=download, **own)
    if path.is_dir():
        return _from_folder(path, options, default_env)
    if text in D4RL_NAMES and not path.exists():
        from rlopt.data.download import find_or_download, verify
        from rlopt.data.formats.d4rl import read_d4rl

        file = find_or_download(D4RL_NAMES[text], download, lambda line: print(line, file=sys.stderr))
        verify(file)
        return read_d4rl(file, **{"name": text, **options})
    if text in demonstration_names():
        path = SETS / f"{text}.npz"
    if path.is_file():
        return _from_file(path, options, default_env)
    if text.startswith(DEMONSTRATION_SUITES) or (path.name == text and not path.suffix):
        raise unknown_name("data set", text, [*demonstration_names(), *D4RL_NAMES], _CURE)
    raise DataError(f"{path} does not exist: {_CURE}")


def _check_names(options: Mapping[str, Any]) -> None:
    from rlopt.data.formats.d4rl_conversion import D4RLOptions

    fields = {field.name for kind in (ForeignOptions, D4RLOptions) for field in dataclasses.fields(kind)}
    known = sorted((fields - {"assumed"}) | {"name"})
    for name in options:
        if name not in known:
            raise unknown_name("option of data files", name, known)


def _only(options: dict[str, Any], allowed: Iterable[str], said: str) -> dict[str, Any]:
    """``options``; raises :class:`rlopt.errors.DataError` for others than ``allowed``."""
    if foreign := sorted(set(options) - set(allowed)):
        raise DataError(f"{_flags(foreign)} cannot be given here: {said}")
    return options


def _flags(options: Iterable[str]) -> str:
    return ", ".join(f"--{name}".replace("_", "-") for name in sorted(options))


def _foreign(options: dict[str, Any], default_env: EnvSettings | str | None, path: Path) -> ForeignOptions:
    names = [field.name for field in dataclasses.fields(ForeignOptions)]
    _only(options, names, f"{path} is not a D4RL file; give --name NAME if it is one of D4RL's")
    assumed = EnvSettings(default_env) if isinstance(default_env, str) and default_env else default_env or None
    return ForeignOptions(**{"assumed": assumed, **options})


def _from_folder(path: Path, options: dict[str, Any], default_env: EnvSettings | str | None) -> Dataset:
    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        from rlopt.data.formats.huggingface import read_huggingface

        return read_huggingface(path, _foreign(options, default_env, path))
    if (path / "meta" / "info.json").is_file():
        from rlopt.data.formats.own_arrays import read_lerobot

        return read_lerobot(path, _foreign(options, default_env, path))
    for folder in (path / "data", path):
        if (folder / "main_data.hdf5").is_file():
            from rlopt.data.formats.minari import read_minari_folder

            own = _only(options, ("clip_actions", "drop_nan"), "a Minari data set takes --clip-actions and --drop-nan")
            return read_minari_folder(folder, **own)
    if not is_folder(path) and (files := sorted(path.glob("*.npz"))):
        from rlopt.data.formats.own_arrays import read_episode_files

        return read_episode_files(files, _foreign(options, default_env, path))
    dataset = Dataset.load(path)
    return _own(as_recorded(dataset.columns(), dataset.metadata), path, options)


def _own(dataset: Dataset, path: Path, options: dict[str, Any]) -> Dataset:
    """What rlopt wrote, and may be asked to clip."""
    _only(options, ("clip_actions",), f"{path} was written by rlopt and is read as it was, but for --clip-actions")
    if not options.get("clip_actions"):
        return dataset
    space: Any = spaces_of(dataset)[1]
    return dataset.clip_actions(getattr(space, "low", -1), getattr(space, "high", 1))


def _from_file(path: Path, options: dict[str, Any], default_env: EnvSettings | str | None) -> Dataset:
    from rlopt.data.download import verify
    from rlopt.data.formats import own_arrays
    from rlopt.data.formats.d4rl import is_own, read_d4rl
    from rlopt.data.formats.imitation_files import KEYS, VALUEDICE_KEYS, read_imitation, read_valuedice
    from rlopt.data.formats.npz import names_in

    verify(path)
    if path.suffix in HDF5_SUFFIXES:
        if is_own(path):
            return _own(read_d4rl(path), path, options)
        if path.name == "main_data.hdf5" and (path.parent / "metadata.json").is_file():
            return _from_folder(path.parent, options, default_env)
        if "name" in options or (name_of_file(path) is not None and not options.keys() & {"env", "columns"}):
            return read_d4rl(path, **options)
    if path.suffix == ".npz" and zipfile.is_zipfile(path):
        names = names_in(path)
        for keys, read in ((KEYS, read_imitation), (VALUEDICE_KEYS, read_valuedice)):
            if names >= set(keys) and "columns" not in options:
                return read(path, _foreign(options, default_env, path))
    return own_arrays.read_columns(path, _foreign(options, default_env, path))


def demonstration_names() -> list[str]:
    """Names of the demonstrations that come with rlopt, such as ``dmc/walker-walk``."""
    return sorted(path.relative_to(SETS).with_suffix("").as_posix() for path in SETS.glob("*/*.npz"))


def load_demonstrations(
    name_or_path: str | Path, download: bool = False, default_env: EnvSettings | str | None = None, **options: Any
) -> Demonstrations:
    """Loads demonstrations from wherever they are: everything that :func:`load_dataset` reads, taken as an expert's
    data.

    :param options: as for :func:`load_dataset`; of files of other libraries ``env``, ``action_repeat``,
        ``observation_keys`` (names of the parts of flat observations, in their order) and ``ends``: ``auto`` (true
        terminals are the ends of episodes shorter than the time limit of ``env``, if that is given), ``truncated`` or
        ``terminated`` for all
    :raises rlopt.errors.DataError: missing, damaged, unsafe, empty or inconsistent data, in one line with the cure
    :raises rlopt.errors.UnknownNameError: a misspelt name, with the nearest one
    """
    return Demonstrations.from_dataset(load_dataset(name_or_path, download, default_env, **options))
