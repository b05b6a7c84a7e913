"""How the ``rlopt data`` subverbs and others are told which data set to read. Imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rlopt.cli.parsing import number
from rlopt.errors import ConfigError
from rlopt.settings.fields import Range

DATASET_HELP = "a data set folder, an HDF5 file of the D4RL layout, a D4RL name (maze2d-umaze-v1), or minari:<id>"
_TEXTS = ("name", "env", "conversion", "waypoints", "rewards", "after_goal")


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--download`` and the options of :class:`rlopt.data.D4RLOptions`."""
    add = parser.add_argument
    add("--download", action="store_true", help="fetch a D4RL file or a Minari data set that is not here; shows size "
        "and SHA-256")  # fmt: skip
    group = parser.add_argument_group("for D4RL files")
    add = group.add_argument
    add("--name", metavar="NAME", help="the D4RL name of an HDF5 file, where its file name does not tell")
    add("--env", metavar="ID", help="id of the environment, for a file that is none of D4RL's")
    add("--conversion", metavar="KIND", help="qlearning (default: transition-wise) or sequence (by whole episodes)")
    add("--waypoints", metavar="HOW", help="maze2d's timeouts, which mark reached waypoints: end (default: they end "
        "an episode), drop (as D4RL) or join")  # fmt: skip
    add("--rewards", metavar="HOW", help="auto (default: maze2d's off-by-one rewards are moved), recorded or next")
    add("--after-goal", metavar="HOW", help="antmaze's rows behind the goal: keep (default) or drop")
    add("--reward-shift", metavar="NUMBER", help="added to every reward; -1 is usual for antmaze")
    add("--max-episode-steps", metavar="STEPS", help="time limit for files without timeouts")
    add("--clip-actions", action="store_true", help="clip actions to their bounds instead of refusing the file")


def reading_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, as :func:`rlopt.data.load_dataset` takes them.

    :raises rlopt.errors.ConfigError: for a value that is no number or out of range
    """
    options: dict[str, Any] = {name: getattr(arguments, name) for name in _TEXTS}
    options["reward_shift"] = number("--reward-shift", arguments.reward_shift, float, Range(ge=-1e9, le=1e9))
    options["max_episode_steps"] = number(
        "--max-episode-steps", arguments.max_episode_steps, int, Range(ge=1, le=10**9)
    )
    options["clip_actions"] = arguments.clip_actions or None
    return {name: value for name, value in options.items() if value is not None}


def new_folder(text: str, overwrite: bool) -> Path:
    """The folder that a data set is about to be made for, looked at before the work.

    :raises rlopt.errors.ConfigError: no folder of rlopt's own format is meant, or one is there already
    :raises rlopt.errors.DataError: other files lie there
    """
    if not text or text.startswith("minari:") or text.endswith((".hdf5", ".h5")):
        raise ConfigError(f"{text!r} is no folder to write: name one, and convert it with rlopt data convert")
    from rlopt.data.folder import check_place, is_folder

    path = check_place(Path(text).expanduser())
    if is_folder(path) and not overwrite:
        raise ConfigError(f"{path} exists: choose another folder, or give --overwrite")
    return path


def place_of(dataset: str) -> Path:
    """The file or folder in which a data set lies, for what is to be put next to it."""
    from rlopt.data.formats.minari_names import minari_folder
    from rlopt.data.loading import MINARI_PREFIX
    from rlopt.data.names import D4RL_NAMES, local_file

    if dataset.startswith(MINARI_PREFIX):
        return minari_folder(dataset.removeprefix(MINARI_PREFIX).rpartition("://")[2])
    path = Path(dataset).expanduser()
    if not path.exists() and dataset in D4RL_NAMES:
        return local_file(D4RL_NAMES[dataset])
    return path.absolute()
