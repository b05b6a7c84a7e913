"""Where a data set comes from, and what a learner must know of demonstrations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlopt.errors import DataError, unknown_name

if TYPE_CHECKING:
    pass
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
from dataclasses import field


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

    def __post_init__(self) -> None:
        object.__setattr__(self, "versions", dict(self.versions))
        object.__setattr__(self, "notes", tuple(self.notes))
        if self.reference_returns is not None:
            object.__setattr__(self, "reference_returns", tuple(self.reference_returns))
        check_metadata(self)

    def noted(self, *notes: str) -> Metadata:
        """A copy with further notes; one that is there already is not repeated."""
        return dataclasses.replace(self, notes=tuple(dict.fromkeys((*self.notes, *notes))))


UNKNOWN_ENV = "unknown"
"""``metadata.env`` of demonstrations from a file that does not say: then only shapes and ranges are compared."""


@dataclass(frozen=True)
class DemonstrationMetadata(Metadata):
    """Where demonstrations come from, and what an imitation learner must know of them."""

    observation_keys: tuple[str, ...] = ()
    """Names of the parts that a flat observation is made of, in their order; empty where it is not known."""
    deterministic: bool | None = None
    """Whether the expert took its mean (most likely) actions or sampled them; None where it is not known."""
    expert_return: float | None = None
    """Mean undiscounted return of the expert's episodes, of all that were recorded; None without rewards."""
    has_rewards: bool = True
    """Whether the rewards are the environment's; otherwise they are 0."""
    action_range: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Lowest and highest action that the environment takes, (A,) each; None where unknown, unbounded or Discrete."""
    subsample_rate: int = 1
    """One transition in so many is kept of each episode, besides true terminals; 1 keeps all."""

    def __post_init__(self) -> None:
        for name in ("observation_keys", "action_range"):
            object.__setattr__(self, name, _as_tuples(getattr(self, name)))
        super().__post_init__()
        _check_metadata(self)


def metadata_from(fields: dict[str, Any]) -> Metadata:
    """Metadata of stored fields: a data set's or, where they say more, demonstrations'.

    :raises rlopt.errors.DataError: fields that are neither's
    """
    for kind in (Metadata, DemonstrationMetadata):
        if fields.keys() == {field.name for field in dataclasses.fields(kind)}:
            return kind(**fields)
    raise DataError("it has other metadata than this version of rlopt writes")


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, (list, tuple)) else value


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
    bounds = metadata.action_range
    if bounds is not None and not (
        isinstance(bounds, tuple)
        and len(bounds) == 2
        and all(isinstance(bound, tuple) for bound in bounds)
        and len(bounds[0]) == len(bounds[1])
        and all(type(value) in (int, float) and math.isfinite(value) for bound in bounds for value in bound)
    ):
        raise DataError(f"metadata.action_range is {bounds!r}: give (lowest, highest), a finite number a dimension")


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
