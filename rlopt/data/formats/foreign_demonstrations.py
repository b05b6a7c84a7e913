"""What the file formats of other imitation libraries share: arrays in, checked demonstrations out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlopt.data.checks import float32
from rlopt.data.dataset import Dataset
from rlopt.data.demonstrations import Demonstrations
from rlopt.data.formats.minari_spaces import observation_column
from rlopt.data.metadata import UNKNOWN_ENV, DemonstrationMetadata, metadata_from
from rlopt.errors import DataError, one_line, unknown_name
from rlopt.storage.json import dump_json, parse_json

METADATA_KEY = "rlopt_metadata"
"""Array of text in which the .npz files that rlopt writes keep :class:`DemonstrationMetadata`, as JSON."""
ENDS = ("auto", "truncated", "terminated")


@dataclass(frozen=True)
class ForeignOptions:
    """What files of other libraries do not say of their demonstrations."""

    env: str | None = None
    """Id of the environment; None leaves it unknown, and then only shapes and action range can be compared."""
    action_repeat: int | None = None
    """Simulator steps of one transition; None is 1."""
    observation_keys: tuple[str, ...] | None = None
    """Order of the parts of a flat observation; None leaves it unknown."""
    ends: str = "auto"
    """What the end of an episode is, as these formats do not tell true terminals from time limits: ``truncated``,
    ``terminated``, or ``auto``: terminated where ``env`` is known and the episode is shorter than its time limit, as
    no dm_control task is."""

    def __post_init__(self) -> None:
        if self.ends not in ENDS:
            raise unknown_name("kind of ends", str(self.ends), ENDS)


@dataclass(frozen=True)
class ForeignEpisodes:
    """N transitions as a file has them."""

    observations: Any
    """(N, ...), or a dict of such arrays, as ``next_observations``."""
    actions: np.ndarray
    next_observations: Any
    ends: np.ndarray
    """(N,) bool: the last transition of its episode."""
    rewards: np.ndarray | None = None
    terminals: np.ndarray | None = None
    """(N,) bool: true terminals, where the file says which they are."""
    metadata: str | None = None
    """rlopt's metadata as JSON, where rlopt wrote the file."""
    generator: str = ""
    """What the data are where no metadata say so, for people."""
    notes: list[str] = field(default_factory=list)


def demonstrations_of(raw: ForeignEpisodes, options: ForeignOptions) -> Demonstrations:
    """Checked demonstrations of a file's arrays.

    :raises rlopt.errors.DataError: no transition, NaN, odd shapes or dtypes, or options for a file that needs none
    """
    metadata = _metadata(raw, options)
    notes = list(raw.notes)
    terminals = raw.terminals
    if terminals is None:
        if raw.metadata is not None:
            raise DataError("which ends are true terminals is missing, which rlopt had written: make the file again")
        terminals, note = true_ends(raw.ends, options)
        notes += note
    has_rewards = raw.rewards is not None and metadata.has_rewards
    if not has_rewards:
        notes.append("without rewards: they are 0 here")
    if raw.rewards is None:
        rewards = np.zeros(len(raw.ends), np.float32)
    else:
        rewards = float32("rewards", _vector("rewards", raw.rewards))
    dataset = Dataset(
        observations=_observations(raw.observations),
        actions=_actions(raw.actions),
        rewards=rewards,
        next_observations=_observations(raw.next_observations),
        discounts=1 - np.asarray(terminals, np.float32),
        episode_ends=np.asarray(raw.ends, bool),
        metadata=dataclasses.replace(metadata, has_rewards=has_rewards).noted(*notes),
    )
    return Demonstrations.from_dataset(dataset)


def _observations(column: Any) -> Any:
    if isinstance(column, Mapping):
        return {key: observation_column(part, key) for key, part in column.items()}
    return observation_column(column, "")


def metadata_text(data: Dataset) -> str:
    """A data set's metadata as JSON, for :attr:`ForeignEpisodes.metadata`."""
    return dump_json(dataclasses.asdict(Demonstrations.from_dataset(data).metadata))


def flat_observations(data: Dataset, form: str) -> tuple[np.ndarray, np.ndarray]:
    """Observations and successors of a data set for a format that knows no dictionaries.

    :raises rlopt.errors.DataError: dictionary observations
    """
    observations, following = data.observations, data.next_observations
    if isinstance(observations, Mapping) or isinstance(following, Mapping):
        raise DataError(f"the {form} format has no dictionary observations: use the rlopt or minari format")
    return observations, following


def step_limit(env: str) -> int | None:
    """Environment steps after which an episode is truncated; None where the environment says none.

    :raises rlopt.errors.UnknownNameError: an id that does not exist
    """
    from rlopt.envs import names

    names.check_id(env)
    if not names.is_dm_control(env):
        names.register(env)
    return names.time_limit(env)


def _metadata(raw: ForeignEpisodes, options: ForeignOptions) -> DemonstrationMetadata:
    if raw.metadata is None:
        return DemonstrationMetadata(
            env=options.env or UNKNOWN_ENV,
            action_repeat=options.action_repeat or 1,
            observation_keys=options.observation_keys or (),
            generator=raw.generator,
        )
    if options != ForeignOptions():
        raise DataError("the file says itself which environment it is of, as rlopt wrote it: give no options")
    try:
        stored = metadata_from(parse_json(raw.metadata))
    except (ValueError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise DataError(f"its {METADATA_KEY} are malformed ({one_line(error)}): make the file again") from None
    if not isinstance(stored, DemonstrationMetadata):
        raise DataError(f"its {METADATA_KEY} are not those of demonstrations: make the file again")
    return stored


def true_ends(ends: np.ndarray, options: ForeignOptions) -> tuple[np.ndarray, list[str]]:
    """Which of the ``ends`` (N,) are true terminals where nothing but the options says it, and a note."""
    if options.ends == "terminated":
        return ends, ["every episode's end is taken as a true terminal, as asked"]
    none = np.zeros_like(ends)
    if options.ends == "truncated":
        return none, ["every episode's end is taken as a truncation, as asked"]
    limit = None if options.env is None else step_limit(options.env)
    if options.env is None or limit is None:
        return none, ["which ends are true terminals is not known: all are taken as truncations"]
    if options.env.startswith("dm_control/"):
        return none, ["the ends are truncations: no dm_control task terminates"]
    lengths = np.diff(np.flatnonzero(ends), prepend=-1)
    terminals = none.copy()
    terminals[ends] = lengths * (options.action_repeat or 1) < limit
    return terminals, [f"episodes shorter than {limit} environment steps are taken as ended by a true terminal"]


def _vector(name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{name} have shape {array.shape}: one value for each transition is needed")
    return array


def _actions(actions: np.ndarray) -> np.ndarray:
    if actions.dtype.kind in "iu":
        several = actions.ndim == 2 and actions.shape[1] > 1  # MultiDiscrete
        return (actions if several else _vector("actions", actions)).astype(np.int64)
    if actions.dtype.kind != "f":
        raise DataError(f"actions have dtype {actions.dtype}: convert them to float32 or integers")
    return float32("actions", actions.reshape(len(actions), 1) if actions.ndim == 1 else actions)


def flags(name: str, array: Any) -> np.ndarray:
    """(N,) bool of numbers that are 0 or 1.

    :raises rlopt.errors.DataError: other values, or another shape
    """
    vector = _vector(name, np.asarray(array))
    if vector.dtype != bool and not np.isin(vector, (0, 1)).all():
        raise DataError(f"{name} are not all 0 or 1: the file is damaged or of another layout")
    return vector.astype(bool)
