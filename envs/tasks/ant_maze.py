"""gymnasium-robotics' ant maze with one start and one goal and flat observations, as D4RL's antmaze tasks have them."""

from collections.abc import Sequence

import gymnasium
import gymnasium_robotics
import numpy as np
from gymnasium_robotics.envs.maze.ant_maze_v5 import AntMazeEnv

from rlopt.envs.flat import FlatObservation
from rlopt.envs.tasks.mazes import Maze

gymnasium.register_envs(gymnasium_robotics)


class FixedGoalAntMaze(AntMazeEnv):
    """AntMaze-v5 without contact forces; the goal is always the centre of one cell, and episodes begin in another.

    The start is moved by up to 1 m along each axis, as AntMaze-v5 does.
    """

    def __init__(self, maze: Maze, start_cell: Sequence[int], goal_cell: Sequence[int], render: str | None) -> None:
        self._fixed_goal = maze.cell_to_xy(maze.require_free(goal_cell, "the goal"))
        self._fixed_start = maze.cell_to_xy(maze.require_free(start_cell, "the start"))
        # Only walls and free cells: "r", "g" and "c" would restrict where episodes start.
        plain = [[int(wall) for wall in row] for row in maze.walls]
        super().__init__(render, plain, continuing_task=False, include_cfrc_ext_in_observation=False)

    def generate_reset_pos(self) -> np.ndarray:
        """Called by the reset between drawing the goal and drawing the start: the goal is put back here."""
        self.goal = self._fixed_goal.copy()
        return self._fixed_start.copy()


def make_fixed_goal_ant_maze(
    base: str = "AntMaze_UMaze-v5",
    start_cell: Sequence[int] = (1, 1),
    goal_cell: Sequence[int] = (3, 1),
    maze_map: list[list[int | str]] | None = None,
    render_mode: str | None = None,
) -> FlatObservation:
    """Makes ``rlopt/AntMaze_*-v0``: AntMaze-v5's physics and walls, D4RL's start and goal, flat observations.

    Observation: x, y [m] and the 27 numbers of AntMaze-v5 without contact forces, [29]. Action: 8 torques in [-1, 1].
    Reward 1 within 0.45 m of the goal, where the episode ends; else 0.

    :param base: gymnasium-robotics' id whose map is taken if ``maze_map`` is None
    :param start_cell: row and column in which episodes begin
    :param goal_cell: row and column of the goal
    :param maze_map: a map of one's own
    :raises ConfigError: a map that is none, or a start or goal that is not a free cell of it
    """
    maze = Maze(gymnasium.spec(base).kwargs["maze_map"] if maze_map is None else maze_map, scale=4.0)
    env = FixedGoalAntMaze(maze, start_cell, goal_cell, render_mode)
    return FlatObservation(env, ("achieved_goal", "observation"))
