"""Guides: how the parameters of an augmentation are restricted so that the result makes progress to the goal.

A guide is any function ``guide(augmentation, batch, generator) -> parameters``. Those here are objects because they
keep tables. None of them changes what is valid: that is the domain's business.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlopt.agents.guda.augmentations import Augmentation, Parameters
from rlopt.agents.guda.batch import Batch
from rlopt.envs.mazes import Maze
from rlopt.errors import ConfigError

NOWHERE = np.float32(1e6)
"""A coordinate off every map: what is placed there is not valid."""


def quarter_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The multiple of 90 degrees nearest to the direction of vectors, [n] int in 0..3; [0, 0] counts as 2."""
    rising, falling = x + y > 0, x - y > 0
    return np.where(rising, np.where(falling, 0, 1), np.where(falling, 3, 2))


def displacement(augmentation: Augmentation, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """How far each segment moves the first point of the layout, x and y, [S] each."""
    x, y = augmentation.domain.layout.points[0]
    before, after = batch.observations[batch.first()], batch.next_observations[batch.last()]
    return after[:, x] - before[:, x], after[:, y] - before[:, y]


class ShortestPath:
    """Segments are placed so that they follow a shortest path to the goal cell (the paper's rule for mazes).

    With a rotation by quarter turns: a uniform free place, and the turn that brings the segment's own direction nearest
    to a heading on a shortest path, which leaves it up to 45 degrees off. Without a rotation: a place where the
    direction that the segment has lies on a shortest path. In the goal's cell every heading will do. Free cells from
    which no path leads to the goal are left out.

    :param maze: the map
    :param goal_cell: row and column
    :raises ConfigError: a goal that is no free cell
    """

    def __init__(self, maze: Maze, goal_cell: Sequence[int]) -> None:
        row, column = maze.free_cells.T
        allowed = maze.headings(goal_cell)[row, column]
        self.goal_cell = tuple(int(part) for part in goal_cell)
        self._cells = np.flatnonzero(allowed.any(axis=1)).astype(np.int32)
        self._headings, self._n_headings = _ragged([np.flatnonzero(row) for row in allowed])
        self._cells_of, self._n_cells_of = _ragged([np.flatnonzero(column) for column in allowed.T])

    def __str__(self) -> str:
        return f"shortest paths to cell {self.goal_cell}"

    def __call__(self, augmentation: Augmentation, batch: Batch, generator: np.random.Generator) -> Parameters:
        """Draws positions (and turns); raises :class:`rlopt.errors.ConfigError` for an augmentation without places."""
        clearance = getattr(augmentation.domain, "clearance", None)
        if clearance is None or "position" not in augmentation.columns or "angle" in augmentation.columns:
            raise ConfigError(
                f"shortest paths guide Translate, alone or with quarter turns, in a maze, not ({augmentation})"
            )
        parameters = augmentation.sample(batch, generator)
        quarter = quarter_of(*displacement(augmentation, batch))
        draws = generator.random(batch.n_segments, dtype=np.float32)
        if "mirror" in parameters:
            quarter = np.where(parameters["mirror"], -quarter % 4, quarter)
        if "quarter_turns" in parameters:
            cells = self._cells.take(generator.integers(0, len(self._cells), batch.n_segments, dtype=np.int32))
            heading = _pick(self._headings, self._n_headings, cells, draws)
            parameters["quarter_turns"] = ((heading - quarter) % 4).astype(np.int8)
            parameters["position"] = clearance.sample(generator, cells)
            return parameters
        cells = _pick(self._cells_of, self._n_cells_of, quarter, draws)
        parameters["position"] = clearance.sample(generator, cells)
        parameters["position"][self._n_cells_of[quarter] == 0] = NOWHERE
        return parameters


def _ragged(choices: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Lists of unequal length as one padded table [n, longest] int32, and their lengths [n]."""
    lengths = np.array([len(values) for values in choices])
    table = np.zeros((len(choices), max(1, lengths.max())), np.int32)
    for row, values in enumerate(choices):
        table[row, : len(values)] = values
    return table, lengths


def _pick(table: np.ndarray, lengths: np.ndarray, rows: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """A uniform entry of the chosen rows, from ``draws`` in [0, 1)."""
    # float32 draws times a length can round up to the length itself.
    counts = lengths.take(rows)
    which = np.minimum((draws * counts).astype(np.int32), np.maximum(counts - 1, 0))
    return table.reshape(-1).take(rows * table.shape[1] + which)
