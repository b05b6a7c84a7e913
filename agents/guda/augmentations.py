"""Data augmentation functions: translate, rotate, reflect, relabel the goal (GuDA, arXiv 2310.18247, section 4).

An :class:`Augmentation` is a domain with the operations that are applied to it. Its parameters are arrays with one
entry a segment; they are drawn uniformly (the random arm) or by a guide, and kept as provenance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from rlopt.agents.guda.batch import Batch
from rlopt.agents.guda.domains import Domain, Pairs
from rlopt.errors import AugmentationError, ConfigError

Parameters: TypeAlias = dict[str, np.ndarray]
_COSINES = np.array([1, 0, -1, 0], np.float32)
_SINES = np.array([0, 1, 0, -1], np.float32)


class Operation:
    """One of the parameters of a motion."""

    column: str
    """The parameter's name, also that of its provenance column."""

    def fitted(self, domain: Domain) -> Operation:
        """The operation as the domain has it; raises :class:`rlopt.errors.ConfigError` if it does not."""
        return self

    def sample(self, domain: Domain, batch: Batch, generator: np.random.Generator) -> np.ndarray:
        """Uniform values, [S, ...]."""
        raise NotImplementedError


class Translate(Operation):
    """Puts the segment's anchor on a new place. ``position``: [S, 2] float32, in units of the observation."""

    column = "position"

    def fitted(self, domain: Domain) -> Operation:
        if not domain.translates:
            raise ConfigError(f"{domain.name} cannot be translated: {domain.inexact_because}")
        return self

    def sample(self, domain: Domain, batch: Batch, generator: np.random.Generator) -> np.ndarray:
        return domain.positions(generator, batch.n_segments)


class Rotate(Operation):
    """Turns the segment about its anchor, counter-clockwise.

    :param quarter: by multiples of 90 degrees, ``quarter_turns`` [S] int8 in 0..3; else by any ``angle`` [S] float32
        in radians. None takes the most that is exact in the domain.
    """

    def __init__(self, quarter: bool | None = None) -> None:
        self.quarter = quarter
        self.column = "quarter_turns" if quarter else "angle"

    def fitted(self, domain: Domain) -> Operation:
        if self.quarter is None:
            return Rotate(quarter=domain.exact_rotations != "any").fitted(domain)
        if domain.rotations == "none" or (domain.rotations == "quarter" and not self.quarter):
            allowed = "cannot be rotated" if domain.rotations == "none" else "turns by multiples of 90 degrees only"
            raise ConfigError(f"{domain.name} {allowed}: {domain.inexact_because}")
        return self

    def sample(self, domain: Domain, batch: Batch, generator: np.random.Generator) -> np.ndarray:
        if self.quarter:
            return generator.integers(0, 4, batch.n_segments, dtype=np.int8)
        return ((2 * generator.random(batch.n_segments, dtype=np.float32) - 1) * np.float32(np.pi)).astype(np.float32)


class Reflect(Operation):
    """Mirrors the segment at the line through its anchor along x: y becomes -y. ``mirror``: [S] bool.

    With a rotation, the mirror comes first.
    """

    column = "mirror"

    def __init__(self, probability: float = 0.5) -> None:
        if not 0 <= probability <= 1:
            raise ConfigError(f"the probability of a reflection must be in [0, 1], got {probability}")
        self.probability = probability

    def fitted(self, domain: Domain) -> Operation:
        if not domain.mirrors:
            raise ConfigError(f"{domain.name} has no mirror symmetry that keeps its observation: leave Reflect out")
        return self

    def sample(self, domain: Domain, batch: Batch, generator: np.random.Generator) -> np.ndarray:
        return generator.random(batch.n_segments) < self.probability


class RelabelGoal(Operation):
    """Gives the segment another desired goal. ``goal``: [S, g] float32."""

    column = "goal"

    def fitted(self, domain: Domain) -> Operation:
        if domain.goal_columns is None:
            raise ConfigError(
                f"{domain.name} has one goal that is not part of the observation: it cannot be relabelled"
            )
        return self

    def sample(self, domain: Domain, batch: Batch, generator: np.random.Generator) -> np.ndarray:
        return domain.goals(generator, batch.n_segments)


class Augmentation:
    """A stochastic map from recorded segments to new ones that the same dynamics could have produced.

    Each segment is mirrored and rotated about its anchor, the anchor is put on its new position, the goal is replaced;
    rewards and discounts are recomputed by the environment's own functions.

    :param domain: the task
    :param operations: what is varied; each kind at most once
    :param anchor: ``first`` or ``last``: the first point of the layout before or after the segment
    :raises ConfigError: an operation that the domain's dynamics do not allow, or no operation
    """

    def __init__(self, domain: Domain, *operations: Operation, anchor: str = "first") -> None:
        if anchor not in ("first", "last"):
            raise ConfigError(f"anchor must be 'first' or 'last', got {anchor!r}")
        operations = tuple(operation.fitted(domain) for operation in operations)
        kinds = [type(operation) for operation in operations]
        if not kinds or len(set(kinds)) != len(kinds):
            raise ConfigError("an augmentation needs one or more operations, each kind at most once")
        self.domain, self.operations, self.anchor = domain, operations, anchor

    def __str__(self) -> str:
        return f"{self.domain.name}: {', '.join(type(operation).__name__ for operation in self.operations)}"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(operation.column for operation in self.operations)

    @property
    def inexact_because(self) -> str | None:
        """Why the augmented transitions are approximate; None when the simulator gives the same up to rounding."""
        turns = [operation for operation in self.operations if isinstance(operation, Rotate)]
        if turns and not turns[0].quarter and self.domain.exact_rotations != "any":
            return self.domain.inexact_because
        return None

    def usable(self, batch: Batch) -> np.ndarray:
        """Which recorded rows may be augmented, [R] bool."""
        return self.domain.usable(batch)

    def sample(self, batch: Batch, generator: np.random.Generator) -> Parameters:
        """Uniform parameters for each segment: the random arm."""
        return {operation.column: operation.sample(self.domain, batch, generator) for operation in self.operations}

    def augment(
        self, batch: Batch, generator: np.random.Generator, guide: Guide | None = None
    ) -> tuple[Batch, np.ndarray]:
        """Draws parameters, by the guide if there is one, and applies them.

        :returns: the new segments, and which of them are valid, [S] bool
        """
        parameters = self.sample(batch, generator) if guide is None else guide(self, batch, generator)
        return self.apply(batch, parameters)

    def apply(self, batch: Batch, parameters: Parameters) -> tuple[Batch, np.ndarray]:
        """The segments under given parameters, and which of them are valid, [S] bool.

        :raises AugmentationError: parameters that are not this augmentation's, one entry a segment
        """
        self._check(batch, parameters)
        moved = self._transformed(batch, parameters)
        if "goal" in parameters and self.domain.goal_columns is not None:
            goals = batch.spread(parameters["goal"])
            moved.observations[:, self.domain.goal_columns] = goals
            moved.next_observations[:, self.domain.goal_columns] = goals
        moved.rewards, moved.discounts = self.domain.outcome(moved)
        return moved, batch.all_rows(self.domain.valid(moved))

    def _transformed(self, batch: Batch, parameters: Parameters) -> Batch:
        """The segments moved, with rewards and discounts as recorded; of a new goal alone a copy, bit for bit."""
        if set(parameters) <= {"goal"}:
            observations, following = batch.observations.copy(), batch.next_observations.copy()
            return Batch(observations, batch.actions, batch.rewards, following, batch.discounts, batch.starts)
        motion = Motion.of(batch, parameters)
        anchors = self.anchors(batch)
        places = batch.spread(parameters["position"]) if "position" in parameters else batch.spread(anchors)
        anchors = batch.spread(anchors)
        return Batch(
            self._moved(batch.observations, motion, anchors, places),
            self._moved_actions(batch.actions, motion),
            batch.rewards,
            self._moved(batch.next_observations, motion, anchors, places),
            batch.discounts,
            batch.starts,
        )

    def anchors(self, batch: Batch) -> np.ndarray:
        """The point of each segment that is placed, [S, 2]."""
        x, y = self.domain.layout.points[0]
        first = self.anchor == "first"
        rows = batch.observations[batch.first()] if first else batch.next_observations[batch.last()]
        return np.stack((rows[:, x], rows[:, y]), axis=1)

    def _check(self, batch: Batch, parameters: Parameters) -> None:
        if set(parameters) != set(self.columns):
            raise AugmentationError(
                f"parameters {sorted(parameters)} for an augmentation that has {sorted(self.columns)}: a guide must "
                "return them all, start from augmentation.sample(batch, generator)"
            )
        for name, values in parameters.items():
            if len(values) != batch.n_segments:
                raise AugmentationError(
                    f"parameter {name!r} has {len(values)} entries for {batch.n_segments} segments: give one for each"
                )
            if not np.isfinite(values).all():
                raise AugmentationError(f"parameter {name!r} has NaN or infinity: give a place off the map for none")
        if "position" in parameters and parameters["position"].shape[1:] != (2,):
            raise AugmentationError(
                f"positions have shape {parameters['position'].shape}: give x and y for each segment"
            )

    def _moved(self, rows: np.ndarray, motion: Motion, anchors: np.ndarray, places: np.ndarray) -> np.ndarray:
        layout, moved = self.domain.layout, rows.copy()
        for x, y in layout.points:
            east, north = motion.turned(rows[:, x] - anchors[:, 0], rows[:, y] - anchors[:, 1])
            moved[:, x] = east + places[:, 0]
            moved[:, y] = north + places[:, 1]
        motion.turn_pairs(rows, moved, layout.vectors)
        for column in layout.quaternions:
            motion.turn_quaternions(rows, moved, column)
        motion.flip(moved, layout.mirrored)
        return moved

    def _moved_actions(self, actions: np.ndarray, motion: Motion) -> np.ndarray:
        moved = actions.copy()
        motion.turn_pairs(actions, moved, self.domain.layout.action_vectors)
        motion.flip(moved, self.domain.layout.mirrored_actions)
        return moved


Guide: TypeAlias = Callable[[Augmentation, Batch, np.random.Generator], Parameters]
"""Draws the parameters of an augmentation for the segments of a batch."""


class Motion:
    """A mirror (y to -y) followed by a rotation, one for each of R rows.

    :param cosine: [R] float32, or None for no rotation
    :param sine: [R] float32, or None
    :param sign: [R] float32, -1 where mirrored, or None for no mirror
    """

    def __init__(self, cosine: np.ndarray | None, sine: np.ndarray | None, sign: np.ndarray | None) -> None:
        self.cosine, self.sine, self.sign = cosine, sine, sign

    @classmethod
    def of(cls, batch: Batch, parameters: Parameters) -> Motion:
        """The motion of each row; quarter turns have cosines and sines without rounding."""
        cosine = sine = sign = None
        if "quarter_turns" in parameters:
            turns = batch.spread(parameters["quarter_turns"])
            cosine, sine = _COSINES.take(turns, mode="wrap"), _SINES.take(turns, mode="wrap")
        elif "angle" in parameters:
            angle = batch.spread(parameters["angle"]).astype(np.float64)
            kind = batch.observations.dtype
            cosine, sine = np.cos(angle).astype(kind), np.sin(angle).astype(kind)
        if "mirror" in parameters:
            sign = np.where(batch.spread(parameters["mirror"]), np.float32(-1), np.float32(1))
        return cls(cosine, sine, sign)

    def turned(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The images of vectors, [R] each."""
        if self.sign is not None:
            y = y * self.sign
        if self.cosine is None or self.sine is None:
            return x, y
        return self.cosine * x - self.sine * y, self.sine * x + self.cosine * y

    def turn_pairs(self, rows: np.ndarray, moved: np.ndarray, pairs: Pairs) -> None:
        """Writes the images of vectors in pairs of columns into ``moved``."""
        for x, y in pairs:
            moved[:, x], moved[:, y] = self.turned(rows[:, x], rows[:, y])

    def flip(self, moved: np.ndarray, columns: tuple[int, ...]) -> None:
        """Changes the sign of columns where mirrored."""
        if self.sign is not None:
            for column in columns:
                moved[:, column] *= self.sign

    def turn_quaternions(self, rows: np.ndarray, moved: np.ndarray, column: int) -> None:
        """Multiplies orientations (w, x, y, z) from the left by the rotation about the vertical."""
        if self.cosine is None or self.sine is None:
            return
        angle = np.arctan2(self.sine.astype(np.float64), self.cosine) / 2
        c, s = np.cos(angle), np.sin(angle)
        w, x, y, z = (rows[:, column + part].astype(np.float64) for part in range(4))
        moved[:, column] = c * w - s * z
        moved[:, column + 1] = c * x - s * y
        moved[:, column + 2] = c * y + s * x
        moved[:, column + 3] = c * z + s * w
