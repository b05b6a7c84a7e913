"""D4RL's HDF5 layout: reading with every known trap handled, and writing.

The layout: ``observations``, ``actions``, ``rewards``, ``terminals``, usually ``timeouts``, sometimes
``next_observations`` and ``infos/{goal,qpos,qvel}``, one row a step (Fu et al. 2020, arXiv
2004.07219). Needs h5py only.
"""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.data.dataset import Dataset
from rlopt.data.formats.d4rl_conversion import D4RLOptions, convert
from rlopt.data.formats.d4rl_file import RawFile, read_raw
from rlopt.data.formats.d4rl_own import is_own, read_own, write_own
from rlopt.data.formats.maze2d import repair_states, reward_of_observation
from rlopt.data.metadata import Metadata
from rlopt.data.names import D4RLName, d4rl_name, name_of_file
from rlopt.data.scores import D4RL_REFERENCE_RETURNS
from rlopt.errors import DataError

__all__ = ["D4RLOptions", "read_d4rl", "write_d4rl"]


def says_its_env(path: Path) -> bool:
    """Whether a file tells the environment: rlopt wrote it, or it has the name of one that D4RL published."""
    return name_of_file(path) is not None or is_own(path)


def read_d4rl(path: str | Path, name: str | None = None, env: str | None = None, **options: Any) -> Dataset:
    """Reads an HDF5 file of the D4RL layout.

    A file that :func:`write_d4rl` wrote comes back as it was. Of any other, ``metadata.notes`` says what was corrected
    and left out, and ``extras["source_row"]`` which row of the file each transition is.

    :param name: the D4RL name of the file; None recognises the names under which D4RL published
    :param env: id of the environment, for a file that is none of D4RL's
    :param options: fields of :class:`D4RLOptions`
    :raises rlopt.errors.DataError: missing, truncated or damaged; keys missing; wrong shape or dtype; objects or
        pickles; NaN; actions out of bounds; sizes of another environment; no transition left
    :raises rlopt.errors.UnknownNameError: a misspelt name or option
    """
    path = Path(path)
    if is_own(path):
        if name or env or options:
            raise DataError(
                f"{path} was written by rlopt and is read as it was: give no --name, --env or other options"
            )
        return read_own(path)
    chosen = make_options(options)
    entry = d4rl_name(name) if name else name_of_file(path) if env is None else None
    if entry is None and not env:
        raise DataError(
            f"{path} does not say which data set it is: train with --env ID, or write one that does with "
            f"rlopt data convert {shlex.quote(str(path))} OUT and --env ID, or --name NAME of D4RL's; in Python "
            "give env or name"
        )
    raw = read_raw(path, entry, chosen.clip_actions)
    try:
        return _build(raw, entry, env or "", chosen, path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def write_d4rl(data: Dataset, path: str | Path) -> Path:
    """Writes a data set in the D4RL layout, with ``next_observations`` and SHA-256 sums, beside and renamed.

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


def _build(raw: RawFile, entry: D4RLName | None, env: str, options: D4RLOptions, path: Path) -> Dataset:
    if entry is not None and entry.family == "maze2d":
        repair_states(raw)
    rewards, undefined = _rewards(raw, entry, options)
    found = convert(raw, entry, options)
    rows = found.rows
    if undefined and rows[-1] == len(raw) - 1:
        raise DataError("rewards='next' leaves the last row without a reward: use conversion='qlearning'")
    if options.reward_shift:
        raw.notes.append(f"{options.reward_shift:+g} added to every reward")
    metadata = Metadata(
        env=entry.name if entry else env,
        generator=f"D4RL-layout file {path.name}",
        generation="d4rl",
        reference_returns=D4RL_REFERENCE_RETURNS.get(entry.name) if entry else None,
        notes=tuple(raw.notes),
    )
    return Dataset(
        observations=raw.observations[rows],
        actions=raw.actions[rows],
        rewards=rewards[rows] + np.float32(options.reward_shift),
        next_observations=found.next_observations,
        discounts=1 - found.terminal.astype(np.float32),
        episode_ends=found.ends,
        metadata=metadata,
        extras={name: column[rows] for name, column in raw.extras.items()} | {"source_row": rows},
    )


def _rewards(raw: RawFile, entry: D4RLName | None, options: D4RLOptions) -> tuple[np.ndarray, bool]:
    """The rewards (N,) as chosen, and whether the last row's is undefined."""
    shift = options.rewards == "next"
    if options.rewards == "auto" and entry is not None and entry.family == "maze2d":
        shift = reward_of_observation(raw, entry)
    if not shift:
        return raw.rewards, False
    raw.notes.append("rewards moved by one row: the file has them for the observation before the step (D4RL issue 194)")
    return np.concatenate((raw.rewards[1:], raw.rewards[-1:])), True
