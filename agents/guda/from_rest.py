"""Transitions that the simulator makes: recorded actions, taken from rest, in the open and against walls.

Moved transitions keep clear of walls, and few recorded bodies are slow. Yet episodes begin at rest, and a policy that
is pushed against a wall is slow there: states of which the moved transitions say nothing.
"""

from __future__ import annotations

import numpy as np

from rlopt.agents.guda.augmentations import Augmentation, Parameters
from rlopt.agents.guda.batch import Batch
from rlopt.agents.guda.domains import Domain
from rlopt.data.dataset import Dataset
from rlopt.errors import ConfigError

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
