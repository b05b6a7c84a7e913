"""Maze geometry against gymnasium-robotics' own functions and against brute force."""

import itertools

import numpy as np
import pytest

from rlopt.envs.tasks.mazes import DIRECTIONS, Maze
from rlopt.envs.tasks.wall_clearance import Clearance
from rlopt.errors import ConfigError, UnknownNameError

pytest.importorskip("gymnasium_robotics")

IDS = ("PointMaze_UMaze-v3", "PointMaze_Medium-v3", "PointMaze_Large-v3", "AntMaze_Medium-v4")


def random_map(generator: np.random.Generator, rows: int, columns: int) -> list[list[int]]:
    cells = (generator.random((rows, columns)) < 0.35).astype(int)
    cells[rows // 2, columns // 2] = 0
    return cells.tolist()


def floyd_warshall(maze: Maze) -> np.ndarray:
    """All path lengths by relaxing over every intermediate cell: no queue, no order."""
    count = len(maze.free_cells)
    lengths = np.full((count, count), np.inf)
    np.fill_diagonal(lengths, 0)
    for a, b in itertools.permutations(range(count), 2):
        if np.abs(maze.free_cells[a] - maze.free_cells[b]).sum() == 1:
            lengths[a, b] = 1
    for middle in range(count):
        lengths = np.minimum(lengths, lengths[:, middle : middle + 1] + lengths[middle])
    return lengths


@pytest.mark.parametrize("env_id", IDS)
def test_cells_and_points_are_those_of_gymnasium_robotics(env_id: str) -> None:
    import gymnasium

    maze = Maze.from_id(env_id)
    env = gymnasium.make(env_id)
    theirs = env.unwrapped.maze
    assert np.array_equal(Maze(theirs.maze_map, theirs.maze_size_scaling).walls, maze.walls)
    assert theirs.maze_size_scaling == maze.scale
    for cell in maze.free_cells:
        assert np.allclose(maze.cell_to_xy(cell), theirs.cell_rowcol_to_xy(cell), atol=1e-12)
    generator = np.random.default_rng(0)
    points = generator.uniform(-12, 12, (200, 2))
    expected = [theirs.cell_xy_to_rowcol(point) for point in points]
    assert np.array_equal(maze.xy_to_cell(points), expected)
    env.close()


@pytest.mark.parametrize("seed", range(6))
def test_paths_are_shortest_by_brute_force(seed: int) -> None:
    generator = np.random.default_rng(seed)
    maze = Maze(random_map(generator, 4 + seed, 7))
    lengths = floyd_warshall(maze)
    table = maze.next_cells()
    for goal in range(len(maze.free_cells)):
        distances = maze.distances(maze.free_cells[goal])
        headings = maze.headings(maze.free_cells[goal])
        assert (distances[maze.walls] == -1).all() and not headings[maze.walls].any()
        for here, cell in enumerate(maze.free_cells):
            expected = lengths[here, goal]
            assert distances[tuple(cell)] == (expected if np.isfinite(expected) else -1)
            if here == goal:
                assert headings[tuple(cell)].all() and table[goal, here] == goal
                continue
            nearer = []
            for step in DIRECTIONS:
                neighbour = cell + np.array(step)
                inside = maze.is_free(neighbour)
                nearer.append(inside and lengths[maze.free_index[tuple(neighbour)], goal] == expected - 1 < np.inf)
            assert headings[tuple(cell)].tolist() == nearer
            if np.isfinite(expected):
                assert lengths[table[goal, here], goal] == expected - 1 and lengths[here, table[goal, here]] == 1
            else:
                assert table[goal, here] == -1


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_clearance_against_every_wall_in_turn(scale: float) -> None:
    generator = np.random.default_rng(3)
    maze = Maze(random_map(generator, 6, 5), scale)
    margin = 0.11 * scale
    clearance = Clearance(maze, margin)
    rows, columns = maze.shape
    points = generator.uniform(-4 * scale, 4 * scale, (4000, 2))
    solid = [(r, c) for r in range(-3, rows + 3) for c in range(-3, columns + 3) if not maze.is_free((r, c))]
    gaps = np.abs(points[:, None] - maze.cell_to_xy(solid)).max(axis=2).min(axis=1)
    for dtype in (np.float64, np.float32):
        got = clearance.blocked(points.astype(dtype))
        clear_cut = np.abs(gaps - (scale / 2 + margin)) > 1e-5 * scale
        assert np.array_equal(got[clear_cut], (gaps < scale / 2 + margin)[clear_cut])
    assert 0 < got.sum() < len(got)
    assert clearance.blocked(np.array([[1e6, 0.0], [-1e6, 1e6], [0.0, -1e6], [np.nan, 0], [0, np.nan]])).all()
    whole = np.array([[-1, 2], [0, 0], [1, -2]])
    assert np.array_equal(clearance.blocked(whole), clearance.blocked(whole.astype(float)))


def test_sampled_points_fill_the_cell_up_to_the_walls_and_keep_clear() -> None:
    maze = Maze([[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1]])
    clearance = Clearance(maze, 0.2)
    generator = np.random.default_rng(0)
    for index, cell in enumerate(maze.free_cells):
        points = clearance.sample(generator, np.full(20_000, index))
        assert points.dtype == np.float32 and np.array_equal(np.unique(maze.xy_to_cell(points), axis=0), [cell])
        offsets = points - maze.cell_to_xy(cell)
        walls = [maze.walls[tuple(cell + np.array(step))] for step in DIRECTIONS]
        reach = [0.3 if wall else 0.5 for wall in walls]
        assert np.allclose([offsets[:, 0].max(), offsets[:, 1].max()], reach[:2], atol=2e-3)
        assert np.allclose([-offsets[:, 0].min(), -offsets[:, 1].min()], reach[2:], atol=2e-3)
        blocked = clearance.blocked(points)
        corner = np.zeros(len(points), bool)
        if tuple(cell) == (1, 1):  # its only diagonal neighbour with two free sides is the wall at (2, 2)
            corner = (offsets[:, 0] > 0.3) & (offsets[:, 1] < -0.3)
            assert corner.any()
        assert np.array_equal(blocked, corner)


@pytest.mark.parametrize(
    ("maze_map", "message"),
    [
        ([], "rows of equal length"),
        ([[0, 1], [0]], "rows of equal length"),
        ([[0, 2]], "not 2"),
        ([[1, 1]], "at least one free cell"),
    ],
)
def test_bad_maps_are_refused(maze_map: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Maze(maze_map)


def test_bad_goals_margins_and_ids_are_refused() -> None:
    maze = Maze.from_id("PointMaze_UMaze-v3")
    with pytest.raises(ConfigError, match=r"the goal \(0, 0\) is not a free cell"):
        maze.headings((0, 0))
    with pytest.raises(ConfigError, match="not a free cell"):
        maze.distances((9, 9))
    with pytest.raises(ConfigError, match="half a cell"):
        Clearance(maze, 0.5)
    with pytest.raises(ConfigError, match="no maze map"):
        Maze.from_id("FetchReach-v4")
    with pytest.raises(UnknownNameError, match="PointMaze_UMaze-v3"):
        Maze.from_id("PointMaze_UMaz-v3")
