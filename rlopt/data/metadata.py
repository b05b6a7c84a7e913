"""Where a data set comes from, and what a learner must know of demonstrations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rlopt.errors import DataError, one_line, unknown_name
from rlopt.storage.budget import Budget
from rlopt.storage.json import dump_json, parse_json

if TYPE_CHECKING:
    from gymnasium import spaces


@dataclass(frozen=True)
class Metadata:
    """Where a data set comes from."""

    env: str
    """Id of the environment that the transitions belong to, with its version: ``PointMaze_UMaze-v3``."""
    action_repeat: int = 1
    """Simulator steps of one transition, at least 1."""
    generator: str = ""
    """What made the data, for people: the policy or planner, its settings, or the file it was read from."""
    seed: int | None = None
    """Seed of the generator, where it is known."""
    generation: str = "rlopt"
    """``d4rl``, ``minari`` or ``rlopt``: whose environments and reference returns the data belong to."""
    reference_returns: tuple[float, float] | None = None
    """Mean return of a random and of an expert policy in ``env``, the 0 and the 100 of a normalised score."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the packages that made the data."""
    notes: tuple[str, ...] = ()
    """What was corrected or left out on the way here, a sentence each."""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Arguments with which the environment was made, such as ``maze_map``; JSON."""
    wrappers: Mapping[str, Any] = field(default_factory=dict)
    """What the environment was wrapped in: settings of :class:`rlopt.envs.settings.EnvSettings` that were not the
    default (``frame_stack``), or names of wrappers of others with their arguments; JSON. Nothing is ever imported by
    them."""
    max_episode_steps: int | None = None
    """Environment steps, before action repeat, after which episodes were cut; None where it is not known."""
    termination: str = ""
    """When an episode truly ends, for people; empty where it is not known."""
    reward: str = ""
    """What is rewarded, for people; empty where it is not known."""
    observation_space: Mapping[str, Any] | None = None
    """The environment's, as :func:`rlopt.storage.spaces.encode_space` writes it; None where it is not known."""
    action_space: Mapping[str, Any] | None = None
    """The same for its actions, whose bounds are theirs."""

    def __post_init__(self) -> None:
        for name in ("versions", "env_kwargs", "wrappers"):
            object.__setattr__(self, name, dict(getattr(self, name)))
        object.__setattr__(self, "notes", tuple(self.notes))
        if self.reference_returns is not None:
            object.__setattr__(self, "reference_returns", tuple(self.reference_returns))
        check_metadata(self)

    def noted(self, *notes: str) -> Metadata:
        """A copy with further notes; one that is there already is not repeated."""
        return dataclasses.replace(self, notes=tuple(dict.fromkeys((*self.notes, *notes))))

    def recorded_spaces(self) -> tuple[spaces.Space | None, spaces.Space | None]:
        """Observation and action space as they were recorded, None where one is not known."""
        from rlopt.storage.spaces import decode_space  # needs gymnasium, which the names of data sets do not

        observations, actions = (
            None if space is None else decode_space(space, Budget(_LARGEST_SPACE))
            for space in (self.observation_space, self.action_space)
        )
        return observations, actions


UNKNOWN_ENV = "unknown"
"""``metadata.env`` of demonstrations from a file that does not say: then only shapes and ranges are compared."""


@dataclass(frozen=True)
class DemonstrationMetadata(Metadata):
    """Where demonstrations come from, and what an imitation learner must know about them."""

    observation_keys: tuple[str, ...] = ()
    """Names of the parts that a flat observation is made of, in their order; empty where it is not known."""
    deterministic: bool | None = None
    """Whether the expert took its mean (most likely) actions or sampled them; None where it is not known."""
    expert_return: float | None = field(default=None, repr=False)
    """Mean undiscounted return of the expert's episodes, of all that were recorded; None without rewards."""
    has_rewards: bool = True
    """Whether the rewards are the environment's; otherwise they are 0."""
    subsample_rate: int = 1
    """One transition in so many is kept of each episode, besides true terminals; 1 keeps all."""

    def __post_init__(self) -> None:
        if isinstance(self.observation_keys, list):
            object.__setattr__(self, "observation_keys", tuple(self.observation_keys))
        super().__post_init__()
        _check_metadata(self)


_LARGEST_SPACE = 2**27
_MOST_JSON = 2**20


def metadata_from(fields: Mapping[str, Any]) -> Metadata:
    """Metadata of stored fields: a data set's or, where they say more, demonstrations'; of earlier versions too.

    :raises rlopt.errors.DataError: fields that are neither's
    """
    known = dict(fields)
    action_range = known.pop("action_range", None)
    own = {field.name for field in dataclasses.fields(Metadata)}
    kind = Metadata if known.keys() <= own else DemonstrationMetadata
    needed = {"env", "generator", "notes"}
    if not needed <= known.keys() <= {field.name for field in dataclasses.fields(kind)}:
        raise DataError("it has other metadata than this version of rlopt writes")
    try:
        if action_range is not None:
            from gymnasium import spaces

            from rlopt.storage.spaces import encode_space

            low, high = (np.array(bound, np.float32) for bound in action_range)
            known.setdefault("action_space", encode_space(spaces.Box(low, high)))
        for name in ("notes", "observation_keys"):
            if not isinstance(known.get(name, ()), (list, tuple)):
                raise DataError(f"its {name} are malformed")
        return kind(**known)
    except (TypeError, ValueError, AttributeError, AssertionError) as error:
        raise DataError(f"its metadata are malformed ({one_line(error)})") from None


def _check_metadata(metadata: DemonstrationMetadata) -> None:
    keys = metadata.observation_keys
    if not isinstance(keys, tuple) or not all(isinstance(key, str) and key for key in keys):
        raise DataError(f"metadata.observation_keys is {keys!r}: give the parts' names")
    if type(metadata.deterministic) not in (bool, type(None)) or type(metadata.has_rewards) is not bool:
        raise DataError("metadata.deterministic must be True, False or None, and has_rewards True or False")
    mean = metadata.expert_return
    if mean is not None and not (type(mean) in (int, float) and math.isfinite(mean)):
        raise DataError(f"metadata.expert_return is {mean!r}: give a finite number or None")
    if type(metadata.subsample_rate) is not int or metadata.subsample_rate < 1:
        raise DataError(f"metadata.subsample_rate is {metadata.subsample_rate!r}: give a whole number from 1")


GENERATIONS = ("d4rl", "minari", "rlopt")


def check_metadata(metadata: Metadata) -> None:
    """Raises :class:`rlopt.errors.DataError` for a field of the wrong type or out of range."""
    if not isinstance(metadata.env, str) or not metadata.env:
        raise DataError(f"metadata.env is {metadata.env!r}: give the environment's id with its version")
    if type(metadata.action_repeat) is not int or metadata.action_repeat < 1:
        raise DataError(f"metadata.action_repeat is {metadata.action_repeat!r}: give a whole number from 1")
    if not isinstance(metadata.generator, str):
        raise DataError(f"metadata.generator is a {type(metadata.generator).__name__}: give a text")
    if metadata.seed is not None and type(metadata.seed) is not int:
        raise DataError(f"metadata.seed is {metadata.seed!r}: give a whole number or None")
    if metadata.generation not in GENERATIONS:
        raise DataError(str(unknown_name("generation", str(metadata.generation), GENERATIONS)))
    reference = metadata.reference_returns
    if reference is not None and not (
        len(reference) == 2
        and all(type(value) in (int, float) and math.isfinite(value) for value in reference)
        and reference[0] < reference[1]
    ):
        raise DataError(f"metadata.reference_returns is {reference!r}: give (random, expert) with random < expert")
    if not all(isinstance(part, str) for item in metadata.versions.items() for part in item):
        raise DataError("metadata.versions must map package names to version texts")
    if not all(isinstance(note, str) for note in metadata.notes):
        raise DataError("metadata.notes must be texts")
    steps = metadata.max_episode_steps
    if steps is not None and (type(steps) is not int or steps < 1):
        raise DataError(f"metadata.max_episode_steps is {steps!r}: give a whole number from 1, or None")
    for name in ("termination", "reward"):
        if not isinstance(getattr(metadata, name), str):
            raise DataError(f"metadata.{name} is not text: say it in a sentence")
    for name in ("env_kwargs", "wrappers"):
        object.__setattr__(metadata, name, _plain_json(name, getattr(metadata, name)))
    try:
        metadata.recorded_spaces()
    except (ValueError, KeyError, TypeError, AssertionError, AttributeError, OverflowError) as error:
        raise DataError(f"metadata's spaces are malformed ({one_line(error)}): give what encode_space makes") from None


def _plain_json(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """A copy as JSON reads it back."""
    try:
        text = dump_json(value)
        if len(text) > _MOST_JSON:
            raise ValueError(f"over {_MOST_JSON} bytes")
        copied: dict[str, Any] = parse_json(text)
        return copied
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"metadata.{name} is not JSON ({one_line(error)}): give numbers, texts and lists") from None
