"""``augment``: a data set of as many new transitions as wanted from a small one."""

from __future__ import annotations

import dataclasses

import numpy as np

from rlopt.agents.guda.augmentations import Augmentation, Guide, Parameters
from rlopt.agents.guda.batch import Batch
from rlopt.agents.guda.domains import Domain
from rlopt.collect.generators import check_size
from rlopt.data.dataset import Dataset
from rlopt.errors import AugmentationError, ConfigError

CHUNK = 65_536
"""Transitions made at a time: the arrays of a chunk stay in the processor's cache."""
PATIENCE = 200_000
"""Segments drawn without a single valid one before the augmentation is given up."""
MIN_VALID_SHARE = 1e-4
"""Share of valid segments below which the augmentation is given up (after PATIENCE draws)."""


def augment(
    dataset: Dataset,
    augmentation: Augmentation,
    guide: Guide | None = None,
    n: int = 1_000_000,
    seed: int = 0,
    *,
    segment_length: int | None = 1,
    simulated: float = 0.0,
) -> Dataset:
    """Makes ``n`` augmented transitions from a data set (GuDA, arXiv 2310.18247, Algorithm 1).

    Segments are drawn uniformly with replacement, augmented, and kept if all their transitions are valid. The same
    arguments give the same data. A segment is an episode of the result, so learners bootstrap at its end. Extra
    columns tell where each transition comes from: ``source_row``, ``source_return`` (the return of its recorded
    episode), one for each of the augmentation's parameters, and ``simulated`` if some are.

    :param guide: draws the parameters; None draws them uniformly (the random arm)
    :param n: transitions, at least 1
    :param segment_length: transitions of a segment, from 1; None takes whole episodes
    :param simulated: share of the transitions, in [0, 1], that the simulator makes from rest
        (:class:`FromRest`); they come last
    :raises AugmentationError: the data set is of another kind, has no usable segment, or hardly any draw is valid
    :raises ConfigError: a value out of range
    """
    check_size(n, seed)
    if not 0 <= simulated <= 1:
        raise ConfigError(f"simulated must be a share in [0, 1], got {simulated}")
    generator = np.random.default_rng(seed)
    n_simulated = round(simulated * n)
    parts = []
    if n_simulated < n:
        sources = Sources(dataset, augmentation, segment_length)
        parts.append(_drawn(sources, augmentation, guide, n - n_simulated, generator))
    if n_simulated > 0:
        rest = FromRest(augmentation)
        length = min(LENGTH, int(np.diff(np.flatnonzero(dataset.episode_ends), prepend=-1).max()))
        sources = Sources(pushes(dataset, rest.domain), rest, length)
        parts.append(_drawn(sources, rest, guide, n_simulated, generator))
    columns = parts[0] if len(parts) == 1 else {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    extras = {name: columns.pop(name) for name in ("source_row", *augmentation.columns)}
    extras["source_return"] = _returns_of_rows(dataset)[extras["source_row"]]
    if n_simulated > 0:
        extras["simulated"] = np.arange(n) >= n - n_simulated
    return _dataset(dataset, augmentation, guide, seed, columns, extras)


def _drawn(
    sources: Sources, augmentation: Augmentation, guide: Guide | None, n: int, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """The columns of ``n`` augmented transitions, with ``source_row`` and the parameters."""
    columns = _empty(sources.batch, n)
    kept: list[Parameters] = []
    filled = drawn = valid_segments = 0
    while filled < n:
        count = max(1, round(min(CHUNK, 1.1 * (n - filled) + 64) / sources.mean_length))
        rows, batch = sources.draw(generator, count)
        parameters = augmentation.sample(batch, generator) if guide is None else guide(augmentation, batch, generator)
        moved, valid = augmentation.apply(batch, parameters)
        drawn += count
        valid_segments += int(valid.sum())
        if drawn >= PATIENCE and valid_segments < MIN_VALID_SHARE * drawn:
            raise AugmentationError(
                f"{augmentation} with {_named(guide)} gave {valid_segments} valid segments in {drawn:,} draws: "
                f"{augmentation.domain.invalid_because}; use shorter segments, other data or another guide"
            )
        chosen = np.flatnonzero(batch.spread(valid))[: n - filled]
        _store(columns, slice(filled, filled + len(chosen)), moved, rows, chosen)
        kept.append({name: batch.spread(values)[chosen] for name, values in parameters.items()})
        filled += len(chosen)
    columns["episode_ends"][-1] = True
    return columns | {name: np.concatenate([part[name] for part in kept]) for name in augmentation.columns}


def _returns_of_rows(dataset: Dataset) -> np.ndarray:
    """The return of each row's episode, [N] float32; that of the episode it came from, if it is augmented itself."""
    if "source_return" in dataset.extras:
        return dataset.extras["source_return"]
    lengths = np.diff(np.flatnonzero(dataset.episode_ends), prepend=-1)
    return np.repeat(dataset.episode_returns(), lengths).astype(np.float32)


def with_source(dataset: Dataset, augmented: Dataset) -> Dataset:
    """The recorded transitions followed by the augmented ones, with a column ``augmented`` that marks the latter.

    Recorded rows have themselves as ``source_row`` and their episode's return as ``source_return``; their other
    provenance columns are 0. Extra columns of the recorded data that augmented rows do not have are left out.
    """
    own = {"source_row": np.arange(len(dataset)), "source_return": _returns_of_rows(dataset)}
    extras: dict[str, np.ndarray] = {"augmented": np.zeros(len(dataset), bool)}
    for name, column in augmented.extras.items():
        recorded = own.get(name, dataset.extras.get(name))
        if recorded is None or recorded.shape[1:] != column.shape[1:] or recorded.dtype != column.dtype:
            recorded = np.zeros((len(dataset), *column.shape[1:]), column.dtype)
        extras[name] = recorded
    ours = dataclasses.replace(dataset, extras=extras)
    theirs = dataclasses.replace(augmented, extras={**augmented.extras, "augmented": np.ones(len(augmented), bool)})
    return Dataset.concatenate([ours, theirs])


class Sources:
    """The segments of a data set that an augmentation may start from."""

    def __init__(self, dataset: Dataset, augmentation: Augmentation, segment_length: int | None) -> None:
        if segment_length is not None and (isinstance(segment_length, bool) or segment_length < 1):
            raise ConfigError(f"segment_length must be a whole number from 1, or None, got {segment_length!r}")
        domain = augmentation.domain
        domain.check(dataset)
        self.batch = Batch(
            domain.flat(dataset.observations),
            dataset.actions,
            dataset.rewards,
            domain.flat(dataset.next_observations),
            dataset.discounts,
        )
        usable = augmentation.usable(self.batch)
        self.starts, self.lengths = _segments(usable, dataset.episode_ends, segment_length)
        self.single = segment_length == 1
        if len(self.starts) == 0:
            size = "episode" if segment_length is None else f"run of {segment_length} transitions in one episode"
            longest = int(_segments(np.ones_like(usable), dataset.episode_ends, None)[1].max())
            if segment_length is not None and longest < segment_length:
                raise AugmentationError(
                    f"no episode of the data set has {segment_length} transitions, the longest has {longest}: use a "
                    "shorter segment_length"
                )
            raise AugmentationError(
                f"no {size} of the data set can be augmented ({augmentation}; {int(usable.sum())} of {len(usable)} "
                f"transitions are usable): {domain.unusable_because}; use more data or a shorter segment_length"
            )
        self.mean_length = float(self.lengths.mean())

    def draw(self, generator: np.random.Generator, count: int) -> tuple[np.ndarray, Batch]:
        """Draws ``count`` segments uniformly; returns their source rows [R] and the segments."""
        which = generator.integers(0, len(self.starts), count)
        if self.single:
            rows, starts = self.starts.take(which), None
        else:
            lengths = self.lengths[which]
            starts = np.cumsum(lengths) - lengths
            rows = np.arange(lengths.sum()) + np.repeat(self.starts[which] - starts, lengths)
        source = self.batch
        batch = Batch(
            source.observations.take(rows, axis=0),
            source.actions.take(rows, axis=0),
            source.rewards.take(rows),
            source.next_observations.take(rows, axis=0),
            source.discounts.take(rows),
            starts,
        )
        return rows, batch


def _segments(usable: np.ndarray, ends: np.ndarray, length: int | None) -> tuple[np.ndarray, np.ndarray]:
    """First rows and lengths of the segments that lie in one episode and are usable throughout."""
    stops = np.flatnonzero(ends) + 1
    begins = np.concatenate(([0], stops[:-1]))
    unusable = np.concatenate(([0], np.cumsum(~usable)))
    if length is None:
        whole = unusable[stops] == unusable[begins]
        return begins[whole], (stops - begins)[whole]
    rows = np.arange(max(0, len(usable) - length + 1))
    episode = np.concatenate(([0], np.cumsum(ends)))
    inside = episode[rows] == episode[rows + length - 1]
    starts = rows[inside & (unusable[rows + length] == unusable[rows])]
    return starts, np.full(len(starts), length)


def _empty(source: Batch, n: int) -> dict[str, np.ndarray]:
    names = ("observations", "actions", "rewards", "next_observations", "discounts")
    columns = {name: np.empty((n, *getattr(source, name).shape[1:]), np.float32) for name in names}
    columns["episode_ends"] = np.empty(n, bool)
    columns["source_row"] = np.empty(n, np.int64)
    return columns


def _store(columns: dict[str, np.ndarray], place: slice, moved: Batch, rows: np.ndarray, chosen: np.ndarray) -> None:
    ends = np.ones(len(moved), bool)
    if moved.starts is not None:
        ends[:] = False
        ends[moved.last()] = True
    for name, target in columns.items():
        if name == "source_row":
            rows.take(chosen, out=target[place])
        elif name == "episode_ends":
            ends.take(chosen, out=target[place])
            target[place] |= columns["discounts"][place] == 0
        else:
            getattr(moved, name).take(chosen, axis=0, out=target[place])


def _dataset(
    source: Dataset,
    augmentation: Augmentation,
    guide: Guide | None,
    seed: int,
    columns: dict[str, np.ndarray],
    extras: dict[str, np.ndarray],
) -> Dataset:
    for name in ("observations", "next_observations"):
        columns[name] = augmentation.domain.restored(columns[name], source.observations)  # type: ignore[assignment]
    because = augmentation.inexact_because
    metadata = dataclasses.replace(
        source.metadata,
        generator=f"{augmentation} with {_named(guide)} of {len(source)} transitions from: {source.metadata.generator}",
        seed=int(seed),
        notes=(
            *_notes_that_hold(source, extras),
            *([f"Augmented transitions are approximate: {because}."] if because else []),
        ),
    )
    return Dataset(**columns, metadata=metadata, extras=extras)


def _notes_that_hold(source: Dataset, extras: dict[str, np.ndarray]) -> list[str]:
    """The notes of ``source`` without those on an extra column that the augmented data do not have."""
    gone = [f"extra column {name!r}" for name in source.extras.keys() - extras.keys()]
    return [note for note in source.metadata.notes if not any(column in note for column in gone)]


def _named(guide: Guide | None) -> str:
    if guide is None:
        return "uniform parameters"
    return guide.__name__ if hasattr(guide, "__name__") else str(guide)


LENGTH = 8
"""Transitions of a simulated segment: as many as the ball needs from rest to 2 m/s at full force."""


class FromRest(Augmentation):
    """Segments that begin at rest on a new place, often against a wall, with recorded actions, turned alike.

    The operations are those of another augmentation, and a guide takes the direction in which the recorded actions push
    for that of the segment. The simulator makes the states, so they are exact with all contacts.

    :raises ConfigError: a domain whose steps the simulator cannot make, or an augmentation that moves nothing
    :raises rlopt.errors.StateUnavailableError: the simulator is not installed
    """

    def __init__(self, moved: Augmentation) -> None:
        domain = moved.domain.at_walls()
        if domain is None or "position" not in moved.columns:
            raise ConfigError(f"({moved}) cannot be simulated from rest, only point mazes can: give --simulated 0")
        from rlopt.agents.guda.simulators import PointMazePhysics

        self.domain, self.operations, self.anchor = domain, moved.operations, "first"
        self._physics = PointMazePhysics(moved.domain)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{super().__str__()}, from rest"

    def usable(self, batch: Batch) -> np.ndarray:
        return np.ones(len(batch), bool)

    def _transformed(self, batch: Batch, parameters: Parameters) -> Batch:
        moved = super()._transformed(batch, parameters)
        states = moved.observations[batch.first(), :4]
        rolled = self._physics.roll(states, moved.actions.reshape(len(states), -1, moved.actions.shape[1]))
        before = np.concatenate((states[:, None], rolled[:, :-1]), axis=1)
        moved.observations[:, :4] = before.reshape(-1, 4)
        moved.next_observations[:, :4] = rolled.reshape(-1, 4)
        return moved


def pushes(dataset: Dataset, domain: Domain) -> Dataset:
    """The data set as if every action moved the body, which is at rest, a little in its own direction.

    So the displacement of a segment is the direction in which its actions push.
    """
    path = np.cumsum(dataset.actions, axis=0, dtype=np.float64)
    flat = domain.flat(dataset.observations).copy()
    before, after = flat.copy(), flat.copy()
    before[:, :4] = after[:, :4] = 0
    before[1:, :2] = path[:-1]
    after[:, :2] = path
    columns = dataset.columns() | {"observations": before, "next_observations": after}
    return Dataset(**columns, metadata=dataset.metadata)
