"""Demonstrations: whole episodes of an expert, for imitation learners."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from gymnasium import spaces

from rlopt.data.checks import check_spaces, not_finite
from rlopt.data.dataset import Dataset, map_columns
from rlopt.data.metadata import UNKNOWN_ENV, DemonstrationMetadata, Metadata
from rlopt.data.names import D4RL_NAMES, gymnasium_id
from rlopt.envs.settings import EnvSettings
from rlopt.errors import DataError
from rlopt.storage.spaces import encode_space


@dataclass(frozen=True, repr=False)
class Demonstrations(Dataset):
    """A :class:`rlopt.data.Dataset` of an expert's whole episodes; every learner that takes a data set accepts it.

    A column ``pixels`` (N, 3, H, W) uint8 among the ``extras``, with ``next_pixels``, holds the images of the same
    steps; :meth:`from_pixels` makes observations of them.

    :raises rlopt.errors.DataError: as for :class:`rlopt.data.Dataset`
    """

    metadata: DemonstrationMetadata

    def __post_init__(self) -> None:
        if not isinstance(self.metadata, DemonstrationMetadata):
            raise DataError("demonstrations need DemonstrationMetadata: use Demonstrations.from_dataset")
        super().__post_init__()

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads the folder that :meth:`save` wrote; a plain data set's is taken as an expert's.

        :raises rlopt.errors.DataError: the folder is missing, damaged or no data set
        """
        return cls.from_dataset(Dataset.load(path))

    @classmethod
    def from_dataset(cls, dataset: Dataset, **fields: Any) -> Self:
        """A data set, taken as an expert's; what it says of itself is kept.

        :param fields: fields of :class:`DemonstrationMetadata` that are known besides
        """
        if isinstance(dataset, cls) and not fields:
            return dataset
        known = {field.name: getattr(dataset.metadata, field.name) for field in dataclasses.fields(dataset.metadata)}
        known |= fields
        if known.get("has_rewards", True) and known.get("expert_return") is None:
            known["expert_return"] = float(dataset.episode_returns().mean())
        return cls(**dataset.columns(), metadata=DemonstrationMetadata(**known))

    @classmethod
    def from_trajectories(
        cls,
        trajectories: Sequence[Any],
        *,
        env: str | None = None,
        action_repeat: int | None = None,
        observation_keys: tuple[str, ...] | None = None,
        ends: str = "auto",
        generator: str = "trajectories given in Python",
    ) -> Demonstrations:
        """Demonstrations of episodes in memory: dicts of arrays, or objects such as ``imitation``'s trajectories.

        Each has ``observations`` (or ``obs``), T + 1 of them, or T with or without ``next_observations``; ``actions``
        (or ``acts``), T; and where they are known ``rewards`` (T,) and ``terminated``, whether it truly ended. Of T
        observations alone the last leads nowhere, and that transition is left out unless it is a true end. Any real
        numbers are taken, float64 as float32.

        :param env: id of the environment; None leaves it unknown
        :param action_repeat: of the environment, 1 by default
        :param observation_keys: names of the parts of the flat observations, in their order
        :param ends: where no ``terminated`` says it, as for :func:`rlopt.data.load_demonstrations`
        :param generator: who acted, for people
        :raises rlopt.errors.DataError: no trajectory, or one whose arrays do not belong together
        """
        from rlopt.data.formats.foreign_demonstrations import ForeignOptions
        from rlopt.data.formats.own_arrays import by_kind, from_episodes

        options = ForeignOptions(env, action_repeat, observation_keys, ends)
        return from_episodes([by_kind(trajectory) for trajectory in trajectories], generator, options)

    @property
    def n_trajectories(self) -> int:
        """The number of episodes."""
        return int(self.episode_ends.sum())

    def trajectories(self, n: int, seed: int | None = None) -> Demonstrations:
        """``n`` whole episodes in the order recorded: the first ones or, with ``seed``, drawn without replacement.

        :raises rlopt.errors.DataError: there are fewer
        """
        if n < 1:
            raise DataError(f"{n} demonstrations were asked for: ask for at least 1")
        if n > self.n_trajectories:
            raise DataError(
                f"{n} demonstrations were asked for and there are {self.n_trajectories}: ask for "
                f"{self.n_trajectories} or fewer, or record more with rlopt demos record --n-trajectories {n}"
            )
        count = self.n_trajectories
        chosen = np.arange(n) if seed is None else np.sort(np.random.default_rng(seed).permutation(count)[:n])
        episodes = self.episodes()
        return self._rows(np.concatenate([np.arange(len(self))[episodes[index]] for index in chosen]))

    def subsample(self, rate: int, seed: int | None = None) -> Demonstrations:
        """Every ``rate``-th transition of each episode; a true terminal is always kept.

        Within an episode a row's ``next_observations`` are then no longer the next row's ``observations``.

        :param seed: seed of a random offset for each episode, as in GAIL's and DAC's protocol; None begins at the first
            row
        :raises rlopt.errors.DataError: a rate below 1
        """
        if rate < 1:
            raise DataError(f"subsampling by {rate}: give a rate of at least 1, which keeps every transition")
        generator = None if seed is None else np.random.default_rng(seed)
        kept = self.discounts == 0
        for rows in self.episodes():
            offset = 0 if generator is None else int(generator.integers(min(rate, rows.stop - rows.start)))
            kept[rows.start + offset : rows.stop : rate] = True
        thinned = self._rows(np.flatnonzero(kept))
        metadata = dataclasses.replace(self.metadata, subsample_rate=self.metadata.subsample_rate * rate)
        return dataclasses.replace(thinned, metadata=metadata)

    def _rows(self, chosen: np.ndarray) -> Demonstrations:
        """The rows ``chosen`` (ascending), each left in its episode; the last one that is left ends it."""
        columns = map_columns(self.columns(), lambda column: column[chosen])
        episode = (np.cumsum(self.episode_ends) - self.episode_ends)[chosen]
        columns["episode_ends"] = np.append(episode[1:] != episode[:-1], True)
        return dataclasses.replace(self, **columns)

    def from_pixels(self, frame_stack: int = 1) -> Demonstrations:
        """Observations (N, 3 * frame_stack, H, W) uint8 of the recorded images, oldest first.

        At the start of an episode the first image fills the stack, as in :func:`rlopt.make_env`.

        :raises rlopt.errors.DataError: no images were recorded, or transitions between them were left out
        """
        if not {"pixels", "next_pixels"} <= self.extras.keys():
            raise DataError("these demonstrations have no images: record them with rlopt demos record --pixels")
        if frame_stack > 1 and self.metadata.subsample_rate > 1:
            raise DataError("frames of subsampled demonstrations cannot be stacked: call from_pixels before subsample")
        if frame_stack < 1:
            raise DataError(f"a stack of {frame_stack} frames: give at least 1")
        first = np.concatenate([np.full(rows.stop - rows.start, rows.start) for rows in self.episodes()])
        row = np.arange(len(self))
        frames, following = self.extras["pixels"], self.extras["next_pixels"]
        stack = [frames[np.maximum(row - back, first)] for back in range(frame_stack - 1, -1, -1)]
        return dataclasses.replace(
            self,
            observations=np.concatenate(stack, axis=1),
            next_observations=np.concatenate([*stack[1:], following], axis=1),
            metadata=dataclasses.replace(
                self.metadata,
                observation_keys=("pixels",),
                observation_space=encode_space(
                    spaces.Box(0, 255, (frame_stack * frames.shape[1], *frames.shape[2:]), np.uint8)
                ),
                wrappers={**self.metadata.wrappers, "from_pixels": True, "frame_stack": frame_stack},
            ),
            extras={name: column for name, column in self.extras.items() if name not in ("pixels", "next_pixels")},
        )

    def reorder(self, env_settings: EnvSettings) -> Demonstrations:
        """The same with the parts of the flat observations in the environment's order.

        :raises rlopt.errors.DataError: the parts are not known, not flat, or not those of the environment
        """
        from rlopt.envs.observation_order import observation_sizes

        sizes, keys = observation_sizes(env_settings), self.metadata.observation_keys
        if sorted(keys) != sorted(sizes) or not sizes:
            raise DataError(
                f"the demonstrations' observations are {', '.join(keys) or 'of unknown parts'}, those of "
                f"{env_settings.id} {', '.join(sizes) or 'too'}: say the order with rlopt demos convert "
                "--observation-keys"
            )
        starts = dict(zip(keys, np.cumsum([0, *(sizes[key] for key in keys[:-1])]).tolist(), strict=True))
        order = np.concatenate([np.arange(starts[key], starts[key] + size) for key, size in sizes.items()])
        for column in (self.observations, self.next_observations):
            if isinstance(column, dict) or column.shape[1:] != (len(order),):
                raise DataError(
                    f"the observations are not {len(order)} numbers each, as the parts say: nothing is moved"
                )
        return dataclasses.replace(
            self,
            observations=self.observations[:, order],  # type: ignore[index]
            next_observations=self.next_observations[:, order],  # type: ignore[index]
            metadata=dataclasses.replace(self.metadata, observation_keys=tuple(sizes)),
        )

    def check_fits(self, env_settings: EnvSettings, observation_space: Any, action_space: Any) -> None:
        """Makes sure that these are demonstrations of the environment that a learner acts in.

        :raises rlopt.errors.DataError: another environment, action repeat, observation order or shape, or action range
        """
        metadata = self.metadata
        if metadata.env != UNKNOWN_ENV:
            # MODULE:ID imports a module and then is ID.
            known = {metadata.env.rpartition(":")[2], gymnasium_id(metadata.env)}
            if env_settings.id.rpartition(":")[2] not in known:
                cure = f"give --env {shlex.quote(metadata.env)}, or demonstrations of {env_settings.id}"
                if metadata.env in D4RL_NAMES:
                    cure = f"if they fit it, convert their file: rlopt data convert IN.hdf5 OUT --env {env_settings.id}"
                raise DataError(f"the demonstrations are of {metadata.env}, not of {env_settings.id}: {cure}")
            if metadata.action_repeat != env_settings.action_repeat:
                raise DataError(
                    f"the demonstrations repeat an action {metadata.action_repeat} times, the environment "
                    f"{env_settings.action_repeat}: give --action-repeat {metadata.action_repeat}, or others"
                )
        self._check_order(env_settings)
        check_spaces(self, observation_space, action_space, env_settings.id)
        self._check_range(env_settings.id, action_space)

    def _check_order(self, env_settings: EnvSettings) -> None:
        if not self.metadata.observation_keys:
            return
        from rlopt.envs.observation_order import observation_keys

        wanted = observation_keys(env_settings)
        if wanted and wanted != self.metadata.observation_keys:
            raise DataError(
                f"the demonstrations' observations are {', '.join(self.metadata.observation_keys)} in this order, "
                f"those of {env_settings.id} {', '.join(wanted)}: reorder them with rlopt demos convert --reorder"
            )

    def _check_range(self, env: str, action_space: Any) -> None:
        recorded = self.metadata.recorded_spaces()[1]
        if not isinstance(recorded, spaces.Box) or not hasattr(action_space, "low"):
            return
        for name in ("low", "high"):
            ours, theirs = (getattr(space, name).reshape(-1) for space in (recorded, action_space))
            if ours.shape != theirs.shape or not np.allclose(ours, theirs, rtol=1e-5, atol=1e-6):
                raise DataError(
                    f"the demonstrations' actions range from {recorded.low} to {recorded.high}, those of {env} from "
                    f"{action_space.low} to {action_space.high}: record them in this environment, or rescale them"
                )

    @staticmethod
    def concatenate(datasets: Sequence[Dataset]) -> Demonstrations:
        """All transitions in the order given; see :meth:`rlopt.data.Dataset.concatenate`.

        The expert's return becomes the mean over the parts' episodes; what else the parts do not share becomes unknown.

        :raises rlopt.errors.DataError: also for parts of another observation order, action range or subsampling
        """
        parts = [part if isinstance(part, Demonstrations) else Demonstrations.from_dataset(part) for part in datasets]
        joined = Dataset.concatenate(parts)
        first = parts[0].metadata
        for name in ("observation_keys", "action_space", "subsample_rate", "has_rewards"):
            if any(getattr(part.metadata, name) != getattr(first, name) for part in parts):
                raise DataError(f"demonstrations of different {name} do not belong together: keep them apart")
        means = [part.metadata.expert_return for part in parts]
        counts = [part.n_trajectories for part in parts]
        known = [mean for mean in means if mean is not None]
        return Demonstrations.from_dataset(
            joined,
            observation_keys=first.observation_keys,
            subsample_rate=first.subsample_rate,
            has_rewards=first.has_rewards,
            deterministic=first.deterministic
            if all(part.metadata.deterministic == first.deterministic for part in parts)
            else None,
            expert_return=float(np.average(known, weights=counts)) if len(known) == len(means) else None,
        )


def as_recorded(columns: dict[str, Any], metadata: Metadata, drop_nan: bool = False) -> Dataset:
    """A data set of columns, or demonstrations where the metadata are theirs.

    :param drop_nan: leave out the episodes that hold NaN or infinity, with a note, instead of refusing them
    :raises rlopt.errors.DataError: columns that are not a data set, or none of whose episodes is left
    """
    if drop_nan:
        bad = np.zeros(len(columns["rewards"]), bool)
        map_columns(columns, lambda column: np.logical_or(bad, not_finite(column), out=bad))
        ends = columns["episode_ends"]
        episode = np.cumsum(ends) - ends
        damaged = np.unique(episode[bad])
        if len(damaged):
            kept = ~np.isin(episode, damaged)
            if not kept.any():
                raise DataError(f"all {len(damaged)} episodes hold NaN or infinity: make the data anew")
            columns = map_columns(columns, lambda column: column[kept])
            metadata = metadata.noted(
                f"{len(damaged):,} of {int(ends.sum()):,} episodes hold NaN or infinity and are left out, "
                f"{int((~kept).sum()):,} of {len(kept):,} rows"
            )
    if isinstance(metadata, DemonstrationMetadata):
        return Demonstrations(**columns, metadata=metadata)
    return Dataset(**columns, metadata=metadata)
