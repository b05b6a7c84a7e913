"""D4RL's HDF5 layout: reading with every known trap handled, and writing.

The layout: ``observations``, ``actions``, ``rewards``, ``terminals``, usually ``timeouts``, sometimes
``next_observations`` and ``infos/{goal,qpos,qvel}``, one row a step (Fu et al. 2020, arXiv
2004.07219). Needs h5py only.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from rlopt.data.dataset import Dataset
from rlopt.data.demonstrations import as_recorded
from rlopt.data.formats.d4rl_conversion import D4RLOptions, convert
from rlopt.data.formats.d4rl_file import RawFile, read_raw
from rlopt.data.formats.d4rl_own import is_own, read_own, write_own
from rlopt.data.formats.maze2d import repair_states, reward_of_observation
from rlopt.data.metadata import Metadata
from rlopt.data.names import D4RLName, d4rl_name, name_of_file
from rlopt.data.scores import D4RL_REFERENCE_RETURNS
from rlopt.errors import DataError
from rlopt.storage.spaces import encode_space

__all__ = ["D4RLOptions", "is_own", "read_d4rl", "write_d4rl"]


def read_d4rl(path: str | Path, name: str | None = None, **options: Any) -> Dataset:
    """Reads a D4RL HDF5 file by D4RL's rules, or restores exactly what :func:`write_d4rl` wrote.

    ``metadata.notes`` says what was corrected and left out, and ``extras["source_row"]`` which row of the file each
    transition is. Other files of the layout are read by :func:`rlopt.data.load_dataset`, with ``env``.

    :param name: the D4RL name of the file; None recognises the names under which D4RL published
    :param options: fields of :class:`D4RLOptions`
    :raises rlopt.errors.DataError: missing, truncated or damaged; keys missing; wrong shape or dtype; objects or
        pickles; NaN; actions out of bounds; sizes of another environment; no transition left
    :raises rlopt.errors.UnknownNameError: a misspelt name or option
    """
    path = Path(path)
    if is_own(path):
        if name or options:
            raise DataError(f"{path} was written by rlopt and is read as it was: give no --name or other options")
        return read_own(path)
    chosen = make_options(options)
    entry = d4rl_name(name) if name else name_of_file(path)
    if entry is None:
        raise DataError(
            f"{path} does not say which of D4RL's data sets it is: give --name NAME; or --env ID if it is of others, "
            "in Python load_dataset(path, env=ID)"
        )
    raw = read_raw(path, entry, chosen.clip_actions)
    try:
        return _build(raw, entry, chosen, path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def write_d4rl(data: Dataset, path: str | Path) -> Path:
    """Writes a data set in the D4RL layout, with ``next_observations`` and SHA-256 sums, atomically.

    Other readers of D4RL files find the arrays that they expect; of a goal dictionary they find ``observation`` as
    ``observations`` and ``desired_goal`` as ``infos/goal``.

    :raises rlopt.errors.DataError: the layout cannot hold it (other dictionaries), or it cannot be written there
    """
    return write_own(data, Path(path))


def make_options(options: dict[str, Any]) -> D4RLOptions:
    """Builds :class:`D4RLOptions`; a misspelt option is an error that names the nearest."""
    from rlopt.errors import unknown_name

    known = [field.name for field in dataclasses.fields(D4RLOptions)]
    for option in options:
        if option not in known:
            raise unknown_name("option of D4RL files", option, known)
    return D4RLOptions(**options)


def _build(raw: RawFile, entry: D4RLName, options: D4RLOptions, path: Path) -> Dataset:
    if entry.family == "maze2d":
        repair_states(raw)
    rewards, undefined = _rewards(raw, entry, options)
    found = convert(raw, entry, options)
    rows = found.rows
    if undefined and rows[-1] == len(raw) - 1:
        raise DataError("rewards='next' leaves the last row without a reward: use conversion='qlearning'")
    if options.reward_shift:
        raw.notes.append(f"{options.reward_shift:+g} added to every reward")
    metadata = Metadata(
        env=entry.name,
        generator=f"D4RL-layout file {path.name}",
        generation="d4rl",
        reference_returns=D4RL_REFERENCE_RETURNS.get(entry.name),
        notes=tuple(raw.notes),
        max_episode_steps=entry.max_episode_steps,
        termination="never" if entry.family == "maze2d" else "",
        observation_space=encode_space(spaces.Box(-np.inf, np.inf, (entry.observation_size,), np.float32)),
        action_space=encode_space(spaces.Box(-1, 1, (entry.action_size,), np.float32)),
    )
    columns = {
        "observations": raw.observations[rows],
        "actions": raw.actions[rows],
        "rewards": rewards[rows] + np.float32(options.reward_shift),
        "next_observations": found.next_observations,
        "discounts": 1 - found.terminal.astype(np.float32),
        "episode_ends": found.ends,
        "extras": {name: column[rows] for name, column in raw.extras.items()} | {"source_row": rows},
    }
    return as_recorded(columns, metadata, options.drop_nan)


def _rewards(raw: RawFile, entry: D4RLName, options: D4RLOptions) -> tuple[np.ndarray, bool]:
    """The rewards (N,) as chosen, and whether the last row's is undefined."""
    shift = options.rewards == "next"
    if options.rewards == "auto" and entry.family == "maze2d":
        shift = reward_of_observation(raw, entry)
    if not shift:
        return raw.rewards, False
    raw.notes.append("rewards moved by one row: the file has them for the observation before the step (D4RL issue 194)")
    return np.concatenate((raw.rewards[1:], raw.rewards[-1:])), True
