"""Recorded transitions with true terminals apart from truncations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np

from rlopt.data.checks import check_columns
from rlopt.data.metadata import Metadata
from rlopt.errors import DataError

Observations: TypeAlias = np.ndarray | dict[str, np.ndarray]
"""An array (N, ...), or one for each key of a dictionary observation."""
Rows: TypeAlias = slice | np.ndarray | Sequence[int]


@dataclass(frozen=True)
class Dataset:
    """N transitions in the order they happened, episode after episode.

    Everything is checked at construction. A truncation (time limit, cut) has ``episode_ends`` and discount 1: learners
    bootstrap from its ``next_observations``. Index the arrays for batches; :meth:`take` keeps the rest consistent.

    :raises rlopt.errors.DataError: arrays of unequal length, wrong dtype or shape, NaN or infinite; a discount other
        than 0 and 1; a terminal inside an episode; a last transition that ends no episode; no transition at all
    """

    observations: Observations
    """(N, ...) float32, uint8 (images) or int64 (Discrete), or a dictionary of such arrays."""
    actions: np.ndarray
    """(N, A) float32, or (N,) int64 for a Discrete action space."""
    rewards: np.ndarray
    """(N,) float32."""
    next_observations: Observations
    """Like ``observations``: the true successor; at an episode's end its last observation."""
    discounts: np.ndarray
    """(N,) float32: 0 at a true terminal, 1 elsewhere, truncations included."""
    episode_ends: np.ndarray
    """(N,) bool: the last transition of its episode, terminal or cut."""
    metadata: Metadata
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Further columns (N, ...) of numbers or booleans, such as ``goal``, ``qpos``, ``qvel`` or ``source_row``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "extras", dict(self.extras))
        for name in ("observations", "next_observations"):
            if isinstance(getattr(self, name), Mapping):
                object.__setattr__(self, name, dict(getattr(self, name)))
        check_columns(self)

    def __len__(self) -> int:
        return len(self.rewards)

    def __repr__(self) -> str:
        episodes = int(self.episode_ends.sum())
        return f"{type(self).__name__}({self.metadata.env}, {len(self):,} transitions in {episodes:,} episodes)"

    def columns(self) -> dict[str, Any]:
        """The per-transition fields by name; ``observations``, ``next_observations`` and ``extras`` may be nested."""
        names = (field.name for field in dataclasses.fields(self))
        return {name: getattr(self, name) for name in names if name != "metadata"}

    def take(self, rows: Rows) -> Dataset:
        """The transitions ``rows`` (a slice, a mask (N,) of bool or indices), in that order.

        An episode that is cut by leaving out its continuation ends there as a truncation: its discount stays 1.

        :raises rlopt.errors.DataError: no row, or one out of range
        """
        chosen = _indices(rows, len(self))
        columns = map_columns(self.columns(), lambda column: column[chosen])
        cut = np.ones(len(chosen), bool)
        cut[:-1] = chosen[1:] != chosen[:-1] + 1
        columns["episode_ends"] = columns["episode_ends"] | cut
        return dataclasses.replace(self, **columns)

    def episodes(self) -> list[slice]:
        """The rows of each episode."""
        stops = np.flatnonzero(self.episode_ends) + 1
        starts = np.concatenate(([0], stops[:-1]))
        return [slice(start, stop) for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]

    def episode_returns(self) -> np.ndarray:
        """The undiscounted sum of rewards of each episode, (episodes,) float64."""
        starts = np.concatenate(([0], np.flatnonzero(self.episode_ends)[:-1] + 1))
        return np.add.reduceat(self.rewards.astype(np.float64), starts)

    def clip_actions(self, low: Any, high: Any) -> Self:
        """The same with continuous actions cut to [low, high], numbers or (A,); a note says how many were beyond.

        :raises rlopt.errors.DataError: actions that are choices
        """
        if self.actions.dtype != np.float32:
            raise DataError("the actions are choices, which have no bounds to cut them to: leave clipping out")
        clipped = np.clip(self.actions, low, high).astype(np.float32)
        beyond = int((clipped != self.actions).any(axis=1).sum())
        notes = (f"{beyond} of {len(self)} actions are cut to the bounds",) if beyond else ()
        return dataclasses.replace(self, actions=clipped, metadata=self.metadata.noted(*notes))

    def split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
        """Splits by whole episodes, at random, into (rest, held out); each keeps the order of its episodes.

        :param fraction: share of the episodes that is held out, between 0 and 1; rounded, at least one episode each
        :raises rlopt.errors.DataError: a fraction out of range, or a single episode
        """
        if not 0 < fraction < 1:
            raise DataError(f"fraction {fraction!r} is not between 0 and 1: 0.1 holds out a tenth of the episodes")
        stops = np.flatnonzero(self.episode_ends) + 1
        if len(stops) < 2:
            raise DataError("a single episode cannot be split by episodes: use more data or no validation set")
        lengths = np.diff(stops, prepend=0)
        count = min(max(round(fraction * len(stops)), 1), len(stops) - 1)
        held = np.zeros(len(stops), bool)
        held[np.random.default_rng(seed).permutation(len(stops))[:count]] = True
        mask = np.repeat(held, lengths)
        return self.take(~mask), self.take(mask)

    def save(self, path: str | Path) -> Path:
        """Writes the folder ``path`` (safetensors and JSON, a SHA-256 each); a data set that was there is replaced.

        The folder is written beside, made durable and renamed into place.

        :raises rlopt.errors.DataError: ``path`` is something other than a data set, or the disk is full or read-only
        """
        from rlopt.data.folder import write_folder  # needs torch, which those who only hold data do not

        columns = map_columns(self.columns(), lambda column: column)
        return write_folder(Path(path), columns, self.metadata, len(self))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what :meth:`save` wrote, verifying every byte; executes nothing.

        :func:`rlopt.data.load_dataset` gives :class:`rlopt.data.Demonstrations` where the folder holds them.

        :raises rlopt.errors.DataError: the folder is missing, damaged or no data set
        """
        from rlopt.data.folder import read_folder

        names = {field.name for field in dataclasses.fields(Dataset)} - {"metadata"}
        columns, metadata = read_folder(Path(path), names)
        try:
            return cls(**columns, metadata=metadata)
        except DataError as error:
            raise DataError(f"{path} holds no valid data set: {error}") from None

    @staticmethod
    def concatenate(datasets: Sequence[Dataset]) -> Dataset:
        """One data set of all transitions, in the order given.

        A seed or reference that the parts do not share is dropped, and so is an extra column that one of them lacks
        (this is noted).

        :raises rlopt.errors.DataError: no data set, or parts of another environment, action repeat, generation or shape
        """
        return _concatenate(list(datasets))


def map_columns(columns: Mapping[str, Any], function: Any) -> dict[str, Any]:
    """Applies ``function`` to every array of nested columns."""
    return {
        name: map_columns(column, function) if isinstance(column, Mapping) else function(column)
        for name, column in columns.items()
    }


def _indices(rows: Rows, length: int) -> np.ndarray:
    if isinstance(rows, slice):
        chosen = np.arange(length)[rows]
    else:
        chosen = np.asarray(rows)
        if chosen.dtype == bool:
            if chosen.shape != (length,):
                raise DataError(f"a mask of shape {chosen.shape} for {length} transitions: give one value for each")
            chosen = np.flatnonzero(chosen)
    if chosen.size == 0:
        raise DataError("no transition is left: choose at least one row")
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
        raise DataError(f"rows of shape {chosen.shape} and dtype {chosen.dtype}: give a slice, a mask or 1-d indices")
    chosen = chosen.astype(np.int64)
    if chosen.min() < 0 or chosen.max() >= length:
        raise DataError(f"rows {chosen.min()} to {chosen.max()} of a data set with rows 0 to {length - 1}")
    return chosen


def _concatenate(parts: list[Dataset]) -> Dataset:
    if not parts:
        raise DataError("no data sets to concatenate: give at least one")
    metadata = parts[0].metadata
    for part in parts[1:]:
        for name in ("env", "action_repeat", "generation", "env_kwargs", "wrappers"):
            ours, theirs = getattr(metadata, name), getattr(part.metadata, name)
            if ours != theirs:
                raise DataError(f"data sets of {name} {ours!r} and {theirs!r} do not belong together: keep them apart")
        _same_layout(parts[0], part)
    shared = set.intersection(*(set(part.extras) for part in parts))
    dropped = sorted(set.union(*(set(part.extras) for part in parts)) - shared)
    columns = [
        part.columns() | {"extras": {name: part.extras[name] for name in part.extras if name in shared}}
        for part in parts
    ]
    for name in shared:
        if len({(column["extras"][name].shape[1:], column["extras"][name].dtype) for column in columns}) > 1:
            raise DataError(f"column {name!r} differs in shape or dtype between the data sets: drop or convert it")
    notes = [note for part in parts for note in part.metadata.notes]
    if dropped:
        notes.append(f"columns dropped in concatenating, as not every part has them: {', '.join(dropped)}")

    def common(name: str) -> Any:
        value = getattr(metadata, name)
        return value if all(getattr(part.metadata, name) == value for part in parts) else None

    merged = Metadata(
        env=metadata.env,
        action_repeat=metadata.action_repeat,
        generation=metadata.generation,
        generator="; ".join(dict.fromkeys(part.metadata.generator for part in parts if part.metadata.generator)),
        seed=common("seed"),
        reference_returns=common("reference_returns"),
        versions=common("versions") or {},
        notes=tuple(dict.fromkeys(notes)),
        env_kwargs=metadata.env_kwargs,
        wrappers=metadata.wrappers,
        max_episode_steps=common("max_episode_steps"),
        termination=common("termination") or "",
        reward=common("reward") or "",
        observation_space=common("observation_space"),
        action_space=common("action_space"),
    )
    return Dataset(**_joined(columns), metadata=merged)


def _joined(columns: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: _joined([column[name] for column in columns])
        if isinstance(value, Mapping)
        else np.concatenate([column[name] for column in columns])
        for name, value in columns[0].items()
    }


def _same_layout(a: Dataset, b: Dataset) -> None:
    for name in ("observations", "actions"):
        ours, theirs = layout(getattr(a, name)), layout(getattr(b, name))
        if ours != theirs:
            raise DataError(f"{name} differ between the data sets ({ours} and {theirs}): keep them apart")


def layout(column: Observations) -> str:
    """Dtype and shape of one transition's part of a column, as text."""
    if isinstance(column, Mapping):
        return ", ".join(f"{key}: {layout(column[key])}" for key in sorted(column))
    return f"{column.dtype} {column.shape[1:]}"
