"""gymnasium-robotics' point maze with one fixed goal and flat observations, for offline learners."""

from collections.abc import Sequence

import gymnasium
import gymnasium_robotics
import numpy as np
from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

from rlopt.envs.flat import FlatObservation
from rlopt.envs.tasks.mazes import Maze

gymnasium.register_envs(gymnasium_robotics)


class FixedGoalPointMaze(PointMazeEnv):
    """PointMaze-v3 whose goal is always the centre of one cell; everything else is as it is there.

    An episode starts in a random free cell, more than half a cell from the goal before the start is moved by up to
    0.25 m along each axis.
    """

    def __init__(self, maze: Maze, goal_cell: Sequence[int], reward_type: str, continuing: bool, render: str | None):
        self._fixed_goal = maze.cell_to_xy(maze.require_free(goal_cell, "the goal"))
        # Only walls and free cells: "r", "g" and "c" would restrict where episodes start.
        plain = [[int(wall) for wall in row] for row in maze.walls]
        super().__init__(plain, render, reward_type, continuing, reset_target=False)

    def generate_reset_pos(self) -> np.ndarray:
        """Called by the reset between drawing the goal and drawing the start: the goal is put back here."""
        self.goal = self._fixed_goal.copy()
        position: np.ndarray = super().generate_reset_pos()
        return position


def make_fixed_goal_maze(
    base: str = "PointMaze_UMaze-v3",
    goal_cell: Sequence[int] = (1, 1),
    goal_in_observation: bool = False,
    maze_map: list[list[int | str]] | None = None,
    reward_type: str = "sparse",
    continuing_task: bool = True,
    render_mode: str | None = None,
) -> FlatObservation:
    """Makes ``rlopt/PointMaze_*-v0``: PointMaze-v3's physics, walls and rewards, a fixed goal, flat observations.

    Observation: x, y [m], vx, vy [m/s], float64 [4]; with ``goal_in_observation`` the goal's x and y follow, [6].
    Action: force along x and y in [-1, 1]. Reward 1 within 0.45 m of the goal, else 0 (or exp(-distance) if dense).
    An episode is cut at the map's time limit; with ``continuing_task=False`` it ends at the goal.

    :param base: gymnasium-robotics' id whose map is taken if ``maze_map`` is None
    :param goal_cell: row and column of the goal
    :param goal_in_observation: append the goal
    :param maze_map: a map of one's own
    :param reward_type: ``sparse`` or ``dense``
    :raises ConfigError: a map that is none, or a goal that is not a free cell of it
    """
    maze = Maze(gymnasium.spec(base).kwargs["maze_map"] if maze_map is None else maze_map)
    env = FixedGoalPointMaze(maze, goal_cell, reward_type, continuing_task, render_mode)
    return FlatObservation(env, ("observation", "desired_goal") if goal_in_observation else ("observation",))
