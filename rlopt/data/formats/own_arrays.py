"""Trajectories as people write them by hand: arrays under the usual names, flat, one behind another, or (E, T, ...).

One table of names serves .npz and parquet files and :meth:`rlopt.data.Demonstrations.from_trajectories`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.data.demonstrations import Demonstrations
from rlopt.data.formats.foreign_demonstrations import (
    ForeignEpisodes,
    ForeignOptions,
    demonstrations_of,
    flags,
    true_ends,
)
from rlopt.data.formats.npz import read_npz
from rlopt.errors import DataError

NAMES: dict[str, tuple[str, ...]] = {
    "observations": ("observations", "observation", "obs", "ob", "states", "state", "observation.state"),
    "actions": ("actions", "action", "acts", "acs", "ac"),
    "next_observations": ("next_observations", "next_observation", "next_obs", "next_states", "next_state"),
    "rewards": ("rewards", "reward", "rews", "next.reward"),
    "dones": ("dones", "done", "next.done"),
    "terminals": ("terminals", "terminated", "terminations"),
    "timeouts": ("timeouts", "truncated", "truncations"),
    "starts": ("episode_starts",),
    "episode": ("episode_index", "episode_id", "episode"),
}
"""What a column is -> the names that it is found under, the usual one first."""
_NEEDED = "observations (or obs, states) and actions (or acts)"


def known_names() -> list[str]:
    """Every name that a column is found under."""
    return [name for names in NAMES.values() for name in names]


def read_own_npz(path: Path, names: Iterable[str], options: ForeignOptions) -> Demonstrations:
    """Reads a file with arrays of such names; see :func:`rlopt.data.load_demonstrations`."""
    found = read_npz(path, (), [name for name in known_names() if name in set(names)])
    try:
        return from_columns(found, f"{path.name}, arrays written by hand", options)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def read_parquet(path: Path, options: ForeignOptions) -> Demonstrations:
    """Reads a table with a transition a row; observations and actions are columns of lists, or of numbers.

    :raises rlopt.errors.DataError: damaged, without those columns, or pyarrow is not installed
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path} is a parquet file, which needs pyarrow: pip install 'rlopt[hf]'") from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
        table = file.read(columns=[name for name in file.schema_arrow.names if name in known_names()])
        columns = {name: _array(table.column(name)) for name in table.column_names}
    except Exception as error:
        raise DataError(f"{path} is no parquet file that can be read ({type(error).__name__}): make it again") from None
    try:
        return from_columns(columns, f"{path.name}, a table", options)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _array(column: Any) -> np.ndarray:
    rows = column.to_pylist()
    if rows and isinstance(rows[0], list) and len({len(row) for row in rows}) > 1:
        raise ValueError("rows of different lengths")
    return np.asarray(rows)


def from_columns(arrays: Mapping[str, np.ndarray], generator: str, options: ForeignOptions) -> Demonstrations:
    """Demonstrations of the columns of a file.

    :raises rlopt.errors.DataError: two columns of one kind, none of observations or actions, or other lengths
    """
    columns = _by_kind(arrays)
    if {"observations", "actions"} - columns.keys():
        raise DataError(f"it has {', '.join(sorted(arrays)[:12]) or 'nothing'}: demonstrations need {_NEEDED}")
    if is_stacked(columns["observations"], columns["actions"]):
        count = len(columns["actions"])
        if wrong := [name for name, column in columns.items() if len(column) != count]:
            raise DataError(f"{', '.join(wrong)} and actions hold different numbers of episodes")
        episodes = [{name: column[index] for name, column in columns.items()} for index in range(count)]
        return from_episodes(episodes, generator, options)
    stops = _stops(columns)
    if "terminals" not in columns and {"dones", "timeouts"} <= columns.keys():
        columns["terminals"] = flags("dones", columns["dones"]) & ~flags("timeouts", columns["timeouts"])
    notes = []
    if not {"dones", "terminals", "timeouts", "starts", "episode"} & columns.keys():
        notes.append("nothing says where episodes end: all transitions are taken as one")
    episodes = []
    for start, stop in zip([0, *stops[:-1]], stops, strict=True):
        episode = {name: column[start:stop] for name, column in columns.items()}
        if len(columns["observations"]) == len(columns["actions"]) + 1:
            episode["observations"] = columns["observations"][start : stop + 1]
        episodes.append(episode)
    return from_episodes(episodes, generator, options, notes)


def _by_kind(arrays: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind, names in NAMES.items():
        given = [name for name in names if arrays.get(name) is not None]
        if len(given) > 1:
            raise DataError(f"it has {' and '.join(given)}, which are one thing: leave one of them out")
        if given:
            found[kind] = arrays[given[0]]
    return found


def is_stacked(observations: np.ndarray, actions: np.ndarray) -> bool:
    """Whether arrays are (E, T, ...): actions (E, T, A), or whole numbers (E, T) beside as many observations."""
    if actions.ndim == 3:
        return True
    whole = actions.dtype.kind in "iu" and actions.ndim == 2 and observations.ndim >= 3
    return whole and observations.shape[1] in (actions.shape[1], actions.shape[1] + 1)


def _stops(columns: Mapping[str, np.ndarray]) -> list[int]:
    """Where each episode of flat columns ends."""
    length = len(columns["actions"])
    if length == 0:
        raise DataError("it holds no transition: record or fetch demonstrations")
    more = {name: len(column) for name, column in columns.items() if len(column) != length}
    alone = not {"dones", "terminals", "timeouts", "starts", "episode", "next_observations"} & columns.keys()
    if more and not (alone and more == {"observations": length + 1}):
        raise DataError(
            f"{', '.join(f'{count} {name}' for name, count in more.items())} and {length} actions: one of each is "
            "needed for every transition, or one observation more than actions in a single episode"
        )
    ends = np.zeros(length, bool)
    for name in ("dones", "terminals", "timeouts"):
        if name in columns:
            ends |= flags(name, columns[name])
    if "starts" in columns:
        ends[:-1] |= flags("episode_starts", columns["starts"])[1:]
    if "episode" in columns:
        number = columns["episode"].reshape(length, -1)
        ends[:-1] |= (number[1:] != number[:-1]).any(axis=1)
    ends[-1] = True
    stops: list[int] = (np.flatnonzero(ends) + 1).tolist()
    return stops


def from_episodes(
    episodes: Sequence[Mapping[str, Any]], generator: str, options: ForeignOptions, notes: Sequence[str] = ()
) -> Demonstrations:
    """Demonstrations of episodes by kind of column (:data:`NAMES`), T transitions each.

    Of T observations without successors the last one leads nowhere: that transition is left out, unless it is a true
    end, whose successor nobody reads.

    :raises rlopt.errors.DataError: an episode whose columns have other lengths
    """
    if not episodes:
        raise DataError("it holds no trajectory: record or fetch demonstrations")
    lengths = [_length(index, episode) for index, episode in enumerate(episodes)]
    ends = np.zeros(sum(lengths), bool)
    ends[np.cumsum(lengths) - 1] = True
    terminals, said = _terminals(episodes, lengths, ends, options)
    last = np.cumsum(lengths) - 1
    left_out, sides, kept = 0, [], np.ones(len(ends), bool)
    for index, (episode, length) in enumerate(zip(episodes, lengths, strict=True)):
        here, following = _sides(episode, length)
        if following is None:
            following = _each(here, lambda part: np.concatenate([part[1:], part[-1:]]))
            if not terminals[last[index]]:
                kept[last[index]] = False
                left_out += 1
                if length > 1:
                    ends[last[index] - 1] = True
        sides.append((here, following))
    if not kept.any():
        raise DataError("every episode is one observation, with nothing that follows it: give next_observations")
    own_notes = [f"{left_out} last transitions whose successor is not known are left out"] if left_out else []
    has_rewards = all("rewards" in episode for episode in episodes)
    raw = ForeignEpisodes(
        observations=_joined([here for here, _ in sides], kept),
        actions=_joined([np.asarray(episode["actions"]) for episode in episodes], kept),
        next_observations=_joined([following for _, following in sides], kept),
        ends=ends[kept],
        rewards=_joined([np.asarray(episode["rewards"]) for episode in episodes], kept) if has_rewards else None,
        terminals=terminals[kept],
        generator=generator,
        notes=[*notes, *said, *own_notes],
    )
    return demonstrations_of(raw, options)


def by_kind(trajectory: Any) -> dict[str, Any]:
    """The columns of a trajectory, a mapping or an object with attributes such as ``imitation``'s, by kind.

    :raises rlopt.errors.DataError: without observations or actions
    """
    if not isinstance(trajectory, Mapping):
        trajectory = {name: getattr(trajectory, name) for name in known_names() if hasattr(trajectory, name)}
    found = _by_kind(trajectory)
    if {"observations", "actions"} - found.keys():
        raise DataError(f"a trajectory has {', '.join(map(str, trajectory)) or 'nothing'}: it needs {_NEEDED}")
    return found


def _length(index: int, episode: Mapping[str, Any]) -> int:
    length = len(np.asarray(episode["actions"]))
    if length == 0:
        raise DataError(f"trajectory {index} has no action: leave out empty trajectories")
    for name, column in episode.items():
        if name in ("terminals", "timeouts", "dones") and np.ndim(column) == 0:
            continue
        parts = column.values() if isinstance(column, Mapping) else [column]
        allowed = (length, length + 1) if name == "observations" and "next_observations" not in episode else (length,)
        if wrong := [len(np.asarray(part)) for part in parts if len(np.asarray(part)) not in allowed]:
            raise DataError(f"trajectory {index} has {wrong[0]} {name} and {length} actions")
    return length


def _terminals(
    episodes: Sequence[Mapping[str, Any]], lengths: Sequence[int], ends: np.ndarray, options: ForeignOptions
) -> tuple[np.ndarray, list[str]]:
    """Which transitions are true ends, and what was taken for granted."""
    if not all("terminals" in episode for episode in episodes):
        return true_ends(ends, options)
    terminals = np.zeros(len(ends), bool)
    terminals[ends] = [bool(np.asarray(episode["terminals"]).reshape(-1)[-1]) for episode in episodes]
    for index, (episode, length) in enumerate(zip(episodes, lengths, strict=True)):
        given = np.asarray(episode["terminals"]).reshape(-1)
        if len(given) == length and given[:-1].any():
            raise DataError(f"trajectory {index} continues after a true end: cut it there")
    return terminals, []


def _sides(episode: Mapping[str, Any], length: int) -> tuple[Any, Any]:
    observations = episode["observations"]
    if isinstance(observations, Mapping):
        observations = {key: np.asarray(part) for key, part in observations.items()}
        longer = len(next(iter(observations.values()))) == length + 1
    else:
        observations = np.asarray(observations)
        longer = len(observations) == length + 1
    if longer:
        return _each(observations, lambda part: part[:-1]), _each(observations, lambda part: part[1:])
    following = episode.get("next_observations")
    return observations, None if following is None else _each(following, np.asarray)


def _each(column: Any, function: Any) -> Any:
    return {key: function(part) for key, part in column.items()} if isinstance(column, Mapping) else function(column)


def _joined(parts: Sequence[Any], kept: np.ndarray) -> Any:
    if isinstance(parts[0], Mapping):
        return {key: _joined([part[key] for part in parts], kept) for key in parts[0]}
    try:
        return np.concatenate(parts)[kept]
    except ValueError:
        shapes = sorted({part.shape[1:] for part in parts})
        raise DataError(f"trajectories have rows of different shapes, {shapes}: keep them apart") from None
