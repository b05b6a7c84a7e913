"""What the file formats of other imitation libraries share: arrays in, checked demonstrations out."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from rlopt.data.checks import check_actions, check_spaces, contradictions, doubts, float32
from rlopt.data.dataset import Dataset
from rlopt.data.demonstrations import Demonstrations, as_recorded
from rlopt.data.environment import encoded, made
from rlopt.data.formats.minari_spaces import observation_column
from rlopt.data.metadata import UNKNOWN_ENV, DemonstrationMetadata, metadata_from
from rlopt.envs.settings import EnvSettings
from rlopt.errors import DataError, one_line, unknown_name
from rlopt.storage.json import dump_json, parse_json

METADATA_KEY = "rlopt_metadata"
"""Array of text in which the .npz files that rlopt writes keep :class:`DemonstrationMetadata`, as JSON."""
ENDS = ("auto", "truncated", "terminated")


@dataclass(frozen=True)
class ForeignOptions:
    """What files of other libraries do not say of their demonstrations."""

    env: str | None = None
    """Id of the environment, made once for its spaces and time limit; None leaves it unknown, and then only what the
    file says can be compared."""
    action_repeat: int | None = None
    """Simulator steps of one transition; None is 1."""
    observation_keys: tuple[str, ...] | None = None
    """Order of the parts of a flat observation; None leaves it unknown. Parts of a dictionary are joined so."""
    ends: str = "auto"
    """What the end of an episode is, as these formats do not tell true terminals from time limits: ``truncated``,
    ``terminated``, or ``auto``: terminated where ``env`` is known and the episode is shorter than its time limit, as
    no dm_control task is."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """What the file's columns are, where their names do not tell: ``observations`` -> ``x+v``, joined, or ``s_*``."""
    max_episode_steps: int | None = None
    """Transitions after which episodes were cut, for files that mark true ends only."""
    reward_shift: float = 0.0
    """Added to every reward."""
    clip_actions: bool = False
    """Clip actions to the bounds of the environment instead of refusing the file."""
    scale_actions: bool = False
    """The actions are in [-1, 1] and stand for the whole range of the environment's: scale them to its bounds."""
    drop_nan: bool = False
    """Leave out episodes that hold NaN or infinity instead of refusing the file."""
    assumed: EnvSettings | None = None
    """The environment of a file that does not say it, where no ``env`` is given."""

    def __post_init__(self) -> None:
        if self.ends not in ENDS:
            raise unknown_name("kind of ends", str(self.ends), ENDS)
        if self.max_episode_steps is not None and self.max_episode_steps < 1:
            raise DataError(f"max_episode_steps is {self.max_episode_steps}: give at least 1")

    @property
    def describes(self) -> bool:
        """Whether anything was given that says what a file is of."""
        general = {"reward_shift": 0.0, "clip_actions": False, "drop_nan": False, "assumed": None}
        return dataclasses.replace(self, **general) != ForeignOptions()  # type: ignore[arg-type]

    @property
    def settings(self) -> EnvSettings | None:
        """The environment as far as it is known."""
        return self.assumed if self.env is None else EnvSettings(self.env, action_repeat=self.action_repeat or 1)


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

    :raises rlopt.errors.DataError: no transition, NaN, odd shapes or dtypes, data of another environment, or options
        for a file that needs none
    """
    metadata, notes = _metadata(raw, options), list(raw.notes)
    observation_space, action_space = metadata.recorded_spaces()
    parts = isinstance(raw.observations, Mapping) and not isinstance(observation_space, spaces.Dict)
    if parts and raw.metadata is None:
        raw = _flattened(raw, options, observation_space is not None)
        notes = list(raw.notes)
    if raw.metadata is None and options.settings is not None and action_space is None:
        notes.append(f"{metadata.env} cannot be made here: its bounds and time limit are not known")
    if isinstance(observation_space, spaces.Dict) and isinstance(raw.observations, np.ndarray):
        shape = raw.observations.shape[1:]
        fitting = [key for key, part in observation_space.spaces.items() if part.shape == shape]
        if len(fitting) == 1:  # a log of one part of what the environment shows
            observation_space = observation_space.spaces[fitting[0]]
            metadata = dataclasses.replace(metadata, observation_space=encoded(observation_space))
            notes.append(f"the observations are the part {fitting[0]!r} of those of {metadata.env}")
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
    if options.reward_shift:
        rewards = rewards + np.float32(options.reward_shift)
        notes.append(f"{options.reward_shift:+g} added to every reward")
    actions = _actions(raw.actions, action_space if raw.metadata is None else None)
    if options.scale_actions:
        actions = _scaled_to(action_space, actions)
        notes.append(f"actions scaled from [-1, 1] to the bounds of {metadata.env}")
    if action_space is not None and raw.metadata is None:
        whose = f"the bounds are those of {metadata.env}"
        actions, note = check_actions(actions, action_space, metadata.env, whose, options.clip_actions)
        notes += note
    elif options.clip_actions and raw.metadata is None:
        raise DataError("the bounds for clipping actions are unknown: give --env")
    columns = {
        "observations": _observations(raw.observations),
        "actions": actions,
        "rewards": rewards,
        "next_observations": _observations(raw.next_observations),
        "discounts": 1 - np.asarray(terminals, np.float32),
        "episode_ends": np.asarray(raw.ends, bool),
        "extras": {},
    }
    metadata = dataclasses.replace(metadata, has_rewards=has_rewards)
    dataset = as_recorded(columns, metadata.noted(*notes), options.drop_nan)
    if raw.metadata is None:
        dataset = dataclasses.replace(dataset, metadata=dataset.metadata.noted(*contradictions(dataset)))
    if observation_space is not None and raw.metadata is None:
        check_spaces(dataset, observation_space, action_space, metadata.env)
        found = doubts(dataset, observation_space, action_space, metadata.env)
        dataset = dataclasses.replace(dataset, metadata=dataset.metadata.noted(*found))
    return Demonstrations.from_dataset(dataset, expert_return=metadata.expert_return)


def _flattened(raw: ForeignEpisodes, options: ForeignOptions, flat_env: bool) -> ForeignEpisodes:
    """Flat observations of the parts that were asked for, or of the only part, where the environment has flat ones."""
    keys = options.observation_keys or ()
    if flat_env and len(raw.observations) == 1:
        keys = keys or tuple(raw.observations)
    if not keys:
        return raw
    for key in keys:
        if key not in raw.observations:
            raise unknown_name("part of the observations", key, raw.observations)

    def joined(column: Mapping[str, np.ndarray]) -> np.ndarray:
        if len(keys) == 1:
            return column[keys[0]]
        return np.concatenate([column[key].reshape(len(column[key]), -1) for key in keys], axis=1)

    left = [key for key in raw.observations if key not in keys]
    note = f"the observations are the part{'s' if len(keys) > 1 else ''} {', '.join(keys)}"
    return dataclasses.replace(
        raw,
        observations=joined(raw.observations),
        next_observations=joined(raw.next_observations),
        notes=[*raw.notes, note + (f"; left out are {', '.join(left)}" if left else "")],
    )


def _scaled_to(space: Any, actions: np.ndarray) -> np.ndarray:
    if not isinstance(space, spaces.Box) or not space.is_bounded() or actions.shape[1:] != space.shape:
        raise DataError("actions cannot be scaled: it takes --env with bounded actions of the same shape")
    if np.abs(actions).max() > 1 + 1e-6:
        raise DataError(
            f"actions reach {np.abs(actions).max():.4g}: they are not in [-1, 1]; leave --scale-actions out"
        )
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return np.clip(low + (actions + 1) / 2 * (high - low), low, high).astype(np.float32)


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
        fields: dict[str, Any] = {"env": UNKNOWN_ENV, "action_repeat": options.action_repeat or 1}
        if options.settings is not None:
            fields = made(options.settings)
        return DemonstrationMetadata(**fields, observation_keys=options.observation_keys or (), generator=raw.generator)
    if options.describes:
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
    limit = options.max_episode_steps
    settings = options.settings or EnvSettings(UNKNOWN_ENV, action_repeat=options.action_repeat or 1)
    if limit is not None:
        limit *= settings.action_repeat
    elif options.settings is not None:
        limit = step_limit(settings.id)
    if limit is None:
        return none, ["which ends are true terminals is not known: all are taken as truncations"]
    if settings.id.startswith("dm_control/"):
        return none, ["the ends are truncations: no dm_control task terminates"]
    lengths = np.diff(np.flatnonzero(ends), prepend=-1)
    terminals = none.copy()
    shorter = lengths * settings.action_repeat < limit
    terminals[ends] = shorter
    if not shorter.any():
        return terminals, [f"all ends are taken as truncations: no episode is shorter than {limit} environment steps"]
    return terminals, [
        f"{int(shorter.sum()):,} of {len(lengths):,} ends are taken as true terminals: these episodes are shorter than "
        f"{limit} environment steps; --ends says otherwise"
    ]


def _vector(name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{name} have shape {array.shape}: one value for each transition is needed")
    return array


def _actions(actions: np.ndarray, space: Any) -> np.ndarray:
    if actions.dtype.kind == "f" and isinstance(space, spaces.Discrete | spaces.MultiDiscrete):  # as in a CSV file
        if not (actions == np.round(actions)).all():
            raise DataError("actions are not whole numbers, and the environment takes choices")
        actions = actions.astype(np.int64)
    if actions.dtype.kind in "iu" and not isinstance(space, spaces.Box):
        several = actions.ndim == 2 and actions.shape[1] > 1  # MultiDiscrete
        return (actions if several else _vector("actions", actions)).astype(np.int64)
    if actions.dtype.kind not in "iuf":
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
