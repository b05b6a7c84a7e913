"""What an augmentation must know about a task: what its numbers mean, what is valid, what a transition earns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rlopt.agents.guda.batch import Batch
from rlopt.data.dataset import Dataset, Observations
from rlopt.envs.flat import flatten
from rlopt.errors import AugmentationError

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Layout:
    """How the numbers of an observation and an action change when the world is moved, turned or mirrored.

    Columns that are not named (joint angles, body-frame velocities, forward forces) do not change.
    """

    points: Pairs
    """Columns of the x and y of positions; the first pair is the one that is placed."""
    vectors: Pairs = ()
    """Columns of the x and y of what only turns: velocities, cosine and sine of a heading."""
    quaternions: tuple[int, ...] = ()
    """First column (w of w, x, y, z) of orientations."""
    action_vectors: Pairs = ()
    """Columns of an action that turn with the world."""
    mirrored: tuple[int, ...] = ()
    """Columns whose sign a mirror flips, besides the second of every pair."""
    mirrored_actions: tuple[int, ...] = ()
    """The same for actions: steering, sideways force."""


class Domain:
    """A task with symmetries. A subclass states the layout and the rules; an :class:`Augmentation` does the rest.

    Observations are flat here; :meth:`flat` and :meth:`restored` translate from and to a dictionary.
    """

    name: ClassVar[str]
    layout: Layout
    rotations: str = "any"
    """``any``, ``quarter`` (only multiples of 90 degrees make sense) or ``none``."""
    exact_rotations: str = "any"
    """The rotations under which the simulator's dynamics are the same up to rounding: a subset of ``rotations``."""
    inexact_because: str = ""
    """Why the other rotations are approximate."""
    translates: bool = True
    """Whether positions can be moved."""
    mirrors: bool = True
    """Whether mirroring makes sense."""
    goal_columns: slice | None = None
    """Where a flat observation has the desired goal; None where the goal is fixed and not observed."""
    factors: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    """Columns of the observation and of the action that evolve without the others away from walls; for the learned
    dynamics. Columns in no factor (the goal) stay together with the first one."""
    keys: tuple[str, ...] = ("observation", "desired_goal")
    """The entries of a dictionary observation that a flat one consists of."""
    invalid_because: str = "it left the valid states"
    """What makes an augmented transition invalid, for the error when all are."""
    unusable_because: str = "its state is not valid"
    """The same for recorded transitions that are not a source of valid ones."""
    width: int
    """Numbers of a flat observation."""

    def usable(self, batch: Batch) -> np.ndarray:
        """Which recorded rows may be augmented, [R] bool."""
        return np.ones(len(batch), bool)

    def valid(self, batch: Batch) -> np.ndarray:
        """Which moved rows lie in the valid states, state and successor both, [R] bool."""
        raise NotImplementedError

    def positions(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """Uniform places for the first point of the layout, [count, 2] float32, in units of the observation."""
        raise NotImplementedError

    def goals(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """Uniform goals, [count, g] float32; asked for only where observations have them."""
        raise NotImplementedError

    def outcome(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """What the environment's own functions give for these transitions: rewards and discounts, [R] float32."""
        raise NotImplementedError

    def check(self, dataset: Dataset) -> None:
        """Raises :class:`rlopt.errors.AugmentationError` if the data set does not have this domain's observations."""
        observations = dataset.observations
        if isinstance(observations, dict):
            missing = [key for key in self.keys if key not in observations or observations[key].ndim != 2]
            width = sum(observations[key].shape[1] for key in self.keys) if not missing else 0
        else:
            missing, width = [], observations.shape[1] if observations.ndim == 2 else 0
        if missing or width != self.width:
            found = sorted(observations) if isinstance(observations, dict) else observations.shape[1:]
            raise AugmentationError(
                f"the domain {self.name} needs observations of {self.width} numbers (or a dictionary with "
                f"{', '.join(self.keys)}), this data set of {dataset.metadata.env} has {found}: choose the domain "
                "that fits"
            )
        if dataset.actions.dtype != np.float32:
            raise AugmentationError(f"the domain {self.name} needs continuous actions, this data set has discrete ones")

    def flat(self, observations: Observations) -> np.ndarray:
        """Flat observations [N, d] of a data set that passed :meth:`check`."""
        if isinstance(observations, dict):
            return np.asarray(flatten(observations, self.keys), np.float32)
        return np.asarray(observations, np.float32)

    def restored(self, flat: np.ndarray, like: Observations) -> Observations:
        """Flat observations in the form of ``like``: with its dictionary entries, or as they are."""
        if not isinstance(like, dict):
            return flat
        parts, start = {}, 0
        for key in self.keys:
            stop = start + like[key].shape[1]
            parts[key] = flat[:, start:stop]
            start = stop
        if "achieved_goal" in like and "achieved_goal" not in parts:
            parts["achieved_goal"] = self.achieved_goal(flat)
        return {key: np.ascontiguousarray(parts[key]) for key in like}

    def achieved_goal(self, flat: np.ndarray) -> np.ndarray:
        """The goal that a flat observation [N, d] has achieved, [N, g]."""
        return flat[:, list(self.layout.points[0])]

    def at_walls(self) -> Domain | None:
        """The domain of steps that a batched simulator makes, contacts included; None where there is none."""
        return None

    def simulator(self, env: Any = None) -> Any:
        """A :class:`rlopt.agents.guda.simulators.Simulator` of this task; ``env`` None makes its environment."""
        raise NotImplementedError
