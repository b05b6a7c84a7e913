"""Where in a maze a body keeps clear of the walls, for millions of points at once."""

import numpy as np

from rlopt.envs.tasks.mazes import Maze
from rlopt.errors import ConfigError


class Clearance:
    """The free space of a maze for a body that must keep ``margin`` from every wall.

    A wall counts as its square blown up by ``margin`` on each side, corners included, so a point may be refused that
    is up to 0.42 margins farther from a wall's corner than need be. Everything off the map counts as wall.

    :param maze: the maze
    :param margin: metres, in [0, half a cell)
    :raises ConfigError: a margin out of range
    """

    def __init__(self, maze: Maze, margin: float) -> None:
        if not 0 <= margin < maze.scale / 2:
            raise ConfigError(f"the margin {margin} to the walls must be in [0, {maze.scale / 2}), half a cell")
        self.maze = maze
        self.margin = self.reach = float(margin)
        rows, columns = maze.shape
        solid = np.pad(maze.walls, 2, constant_values=True)
        self._columns = columns + 2
        # [rows + 2, columns + 2, 3, 3]: whether a point in that cell that is near its low side (0), near none (1) or
        # near its high side (2), first in rows and then in columns, lies in a blown-up wall.
        blocked = np.zeros((rows + 2, columns + 2, 3, 3), bool)
        for down in range(3):
            for right in range(3):
                near = np.zeros((rows + 2, columns + 2), bool)
                for row in {1, down}:
                    for column in {1, right}:
                        near |= solid[row : row + rows + 2, column : column + columns + 2]
                blocked[:, :, down, right] = near
        self._blocked = blocked.reshape(-1)

    def blocked(self, points: np.ndarray) -> np.ndarray:
        """Which points are too near to a wall, in one or off the map; NaN counts as off the map.

        :param points: [n, 2] metres
        :returns: [n] bool
        """
        if points.dtype.kind != "f":
            points = points.astype(np.float64)
        scale = points.dtype.type(1 / self.maze.scale)
        rows, columns = self.maze.shape
        x, y = self.maze.centre
        row, near_row = self._split(rows / 2 + y / self.maze.scale - points[:, 1] * scale, rows)
        column, near_column = self._split(columns / 2 - x / self.maze.scale + points[:, 0] * scale, columns)
        return self._blocked.take(((row * self._columns + column) * 3 + near_row) * 3 + near_column)

    def _split(self, coordinate: np.ndarray, cells: int) -> tuple[np.ndarray, np.ndarray]:
        """The cell of the padded map along one axis, and which side of it is near: 0 low, 1 none, 2 high."""
        # fmax, not maximum: NaN becomes a place off the map.
        np.fmax(coordinate, -1.0, out=coordinate)
        np.fmin(coordinate, cells + 0.5, out=coordinate)
        whole = np.floor(coordinate)
        coordinate -= whole
        share = coordinate.dtype.type(self.margin / self.maze.scale)
        near = 1 + (coordinate > 1 - share).astype(np.int32) - (coordinate < share).astype(np.int32)
        return whole.astype(np.int32) + 1, near

    def sample(self, generator: np.random.Generator, cells: np.ndarray) -> np.ndarray:
        """Uniform points of cells: of the rectangle that is left when the margin to wall neighbours is cut off.

        The rectangle still has the corners that a diagonal neighbour cuts; :meth:`blocked` tells.

        :param generator: the random stream
        :param cells: [n] int, indices into ``maze.free_cells``
        :returns: [n, 2] float32
        """
        low, high = self._rectangles()
        draws = generator.random((len(cells), 2), dtype=np.float32)
        draws *= (high - low).take(cells, axis=0)
        draws += low.take(cells, axis=0)
        return draws

    def _rectangles(self) -> tuple[np.ndarray, np.ndarray]:
        maze, half = self.maze, self.maze.scale / 2
        padded = np.pad(maze.walls, 1, constant_values=True)
        row, column = maze.free_cells.T + 1
        centres = maze.cell_to_xy(maze.free_cells)
        # The sampled interval is kept a rounding error inside, so that float32 points are not blocked at its ends.
        margin = self.reach * (1 + 1e-5) + 1e-6 * maze.scale * max(maze.shape)
        low = centres - half + margin * np.stack((padded[row, column - 1], padded[row + 1, column]), axis=-1)
        high = centres + half - margin * np.stack((padded[row, column + 1], padded[row - 1, column]), axis=-1)
        return low.astype(np.float32), high.astype(np.float32)


class WallPlaces(Clearance):
    """Places where a body can touch walls: each is moved to a wall if one is at a side of its cell that is drawn.

    :param maze: the maze
    :param radius: metres from the body's centre to its surface
    :param give: metres by which contacts may press the body into a wall before :meth:`blocked` refuses the place
    """

    def __init__(self, maze: Maze, radius: float, give: float = 0.02) -> None:
        super().__init__(maze, radius - give)
        self.reach = radius
        padded = np.pad(maze.walls, 1, constant_values=True)
        row, column = maze.free_cells.T + 1
        # Whether the cell's left, lower, right and upper neighbour is a wall.
        self._walled = np.stack(
            (padded[row, column - 1], padded[row + 1, column], padded[row, column + 1], padded[row - 1, column]), axis=1
        )

    def sample(self, generator: np.random.Generator, cells: np.ndarray) -> np.ndarray:
        """As :meth:`Clearance.sample`; a place whose drawn side of the cell is a wall lies at that wall."""
        places = super().sample(generator, cells)
        side = generator.integers(0, 4, len(cells))
        at_wall = np.flatnonzero(self._walled[cells, side])
        bounds = np.concatenate(self._rectangles(), axis=1)
        places[at_wall, side[at_wall] % 2] = bounds[cells[at_wall], side[at_wall]]
        return places
