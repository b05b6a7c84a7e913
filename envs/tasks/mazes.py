"""The geometry of maze maps: cells, walls, shortest paths. Shared by environments, planners and guides."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlopt.errors import ConfigError

DIRECTIONS = ((0, 1), (-1, 0), (0, -1), (1, 0))
"""(row, column) steps of the headings 0, 90, 180 and 270 degrees: +x is a column on, +y a row back."""


class Maze:
    """A maze map in the frame of gymnasium-robotics' mazes, whose origin is the centre of the map.

    :param maze_map: rows of cells; 1 is a wall, anything else (0, "r", "g", "c") is free
    :param scale: side of a cell in metres: 1 in the point mazes, 4 in the ant mazes
    :param centre: x and y of the centre of the map, metres
    :raises ConfigError: no cell, rows of unequal length, a cell that is none of these, no free cell
    """

    def __init__(
        self, maze_map: Sequence[Sequence[int | str]], scale: float = 1.0, centre: Sequence[float] = (0.0, 0.0)
    ) -> None:
        rows = [list(row) for row in maze_map]
        if not rows or not rows[0] or len({len(row) for row in rows}) != 1:
            raise ConfigError("a maze map needs rows of equal length with at least one cell")
        odd = sorted({repr(cell) for row in rows for cell in row if cell not in (0, 1, "r", "g", "c")})
        if odd:
            raise ConfigError(f"a maze map has the cells 0, 1, 'r', 'g' and 'c', not {', '.join(odd)}")
        if not scale > 0:
            raise ConfigError(f"the side of a maze's cell must be above 0, got {scale}")
        self.scale = float(scale)
        self.centre = (float(centre[0]), float(centre[1]))
        self.walls = np.array([[cell == 1 for cell in row] for row in rows])
        """[rows, columns] bool."""
        self.free_cells = np.argwhere(~self.walls)
        """[F, 2] int: row and column of each free cell, row by row."""
        if len(self.free_cells) == 0:
            raise ConfigError("a maze map needs at least one free cell")
        self.free_index = np.full(self.walls.shape, -1)
        """[rows, columns] int: index into :attr:`free_cells`, -1 in a wall."""
        self.free_index[tuple(self.free_cells.T)] = np.arange(len(self.free_cells))

    @classmethod
    def from_id(cls, env_id: str, maze_map: Sequence[Sequence[int | str]] | None = None) -> Maze:
        """The maze of a registered environment with a ``maze_map``: PointMaze, AntMaze, ours, one of your own.

        :param maze_map: the map that the environment was made with, if not its own
        :raises ConfigError: unknown id, or one without a maze
        """
        from rlopt.envs import names

        names.check_id(env_id)
        names.register(env_id)
        maze_map = registered_maze(env_id).get("maze_map") if maze_map is None else maze_map
        if maze_map is None:
            raise ConfigError(f"{env_id} has no maze map: use a PointMaze or AntMaze environment")
        return cls(maze_map, 4.0 if is_ant_maze(env_id) else 1.0)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.walls.shape[0], self.walls.shape[1]

    def is_free(self, cell: Sequence[int]) -> bool:
        """Whether (row, column) lies in the map and is not a wall."""
        row, column = (int(part) for part in cell)
        rows, columns = self.shape
        return 0 <= row < rows and 0 <= column < columns and not bool(self.walls[row, column])

    def require_free(self, cell: Sequence[int], what: str) -> tuple[int, int]:
        """The cell as a pair of int; raises :class:`rlopt.errors.ConfigError` if it is a wall or outside the map."""
        if len(cell) != 2 or not self.is_free(cell):
            raise ConfigError(f"{what} {tuple(cell)} is not a free cell (row, column) of this {self.shape} maze")
        return int(cell[0]), int(cell[1])

    def cell_to_xy(self, cells: Any) -> np.ndarray:
        """Centres of cells. ``cells``: [..., 2] row and column; returns [..., 2] float64, metres."""
        cells = np.asarray(cells, np.float64)
        rows, columns = self.shape
        x = (cells[..., 1] + 0.5 - columns / 2) * self.scale + self.centre[0]
        y = (rows / 2 - cells[..., 0] - 0.5) * self.scale + self.centre[1]
        return np.stack((x, y), axis=-1)

    def xy_to_cell(self, points: np.ndarray) -> np.ndarray:
        """Cells that hold points. ``points``: [..., 2] metres; returns [..., 2] int, also for points off the map."""
        points = np.asarray(points)
        rows, columns = self.shape
        row = np.floor(rows / 2 - (points[..., 1] - self.centre[1]) / self.scale)
        column = np.floor(columns / 2 + (points[..., 0] - self.centre[0]) / self.scale)
        return np.stack((row, column), axis=-1).astype(np.int64)

    def distances(self, goal: Sequence[int]) -> np.ndarray:
        """Length of the shortest path to the goal cell.

        :returns: [rows, columns] int: steps between neighbouring cells; -1 in walls and where no path leads
        :raises ConfigError: the goal is not a free cell
        """
        start = self.require_free(goal, "the goal")
        distances = np.full(self.shape, -1)
        distances[start] = 0
        waiting = deque([start])
        while waiting:
            row, column = waiting.popleft()
            for down, right in DIRECTIONS:
                cell = (row + down, column + right)
                if self.is_free(cell) and distances[cell] < 0:
                    distances[cell] = distances[row, column] + 1
                    waiting.append(cell)
        return distances

    def headings(self, goal: Sequence[int]) -> np.ndarray:
        """The headings that lie on a shortest path to the goal cell.

        :returns: [rows, columns, 4] bool: whether a step with heading k * 90 degrees comes nearer; all four in the
            goal's cell; none in walls and where no path leads
        :raises ConfigError: the goal is not a free cell
        """
        distances = self.distances(goal)
        padded = np.pad(distances, 1, constant_values=-1)
        rows, columns = self.shape
        nearer = np.zeros((rows, columns, 4), bool)
        for k, (down, right) in enumerate(DIRECTIONS):
            neighbour = padded[1 + down : 1 + down + rows, 1 + right : 1 + right + columns]
            nearer[..., k] = (neighbour >= 0) & (neighbour == distances - 1)
        nearer[tuple(self.require_free(goal, "the goal"))] = True
        return nearer

    def next_cells(self) -> np.ndarray:
        """The planner's table of all shortest paths.

        :returns: [F, F] int: ``table[goal, here]`` is the free cell after ``here`` on a shortest path to ``goal``, as
            an index into :attr:`free_cells`; ``here`` itself at the goal, -1 where no path leads
        """
        count = len(self.free_cells)
        table = np.full((count, count), -1)
        here = self.free_cells
        for goal in range(count):
            headings = self.headings(self.free_cells[goal])[here[:, 0], here[:, 1]]
            step = np.array(DIRECTIONS)[headings.argmax(axis=1)]
            reached = headings.any(axis=1)
            following = here[reached] + step[reached]
            # At the goal all four headings are marked; its row is put right below.
            inside = np.clip(following, 0, np.array(self.shape) - 1)
            table[goal, reached] = self.free_index[inside[:, 0], inside[:, 1]]
            table[goal, goal] = goal
        return table


def registered_maze(env_id: str) -> dict[str, Any]:
    """The arguments that a registered environment is made with; those of its base for ours."""
    import gymnasium

    kwargs = gymnasium.spec(env_id.rpartition(":")[2]).kwargs
    base = gymnasium.spec(kwargs["base"]).kwargs if "base" in kwargs else {}
    return {**base, **kwargs}


def is_ant_maze(env_id: str) -> bool:
    """Whether the body of a registered maze is the ant, whose cells are 4 m wide."""
    import gymnasium

    return "ant_maze" in str(gymnasium.spec(env_id.rpartition(":")[2]).entry_point).lower()
