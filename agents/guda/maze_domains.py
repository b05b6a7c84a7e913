"""The point maze and the ant maze as domains, on any map."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from rlopt.agents.guda.augmentations import Augmentation, Rotate, Translate
from rlopt.agents.guda.batch import Batch
from rlopt.agents.guda.domains import Domain, Layout
from rlopt.envs.tasks.mazes import Maze
from rlopt.envs.tasks.wall_clearance import Clearance, WallPlaces

BALL_RADIUS = 0.1
BALL_MARGIN = 0.105
"""Metres between the ball's centre and a wall: radius 0.1, and 0.002 contact margin of each, which MuJoCo 3 adds up."""
ANT_MARGIN = 1.25
"""Metres between the ant's torso and a wall that its stretched legs cannot reach: 0.8 sqrt(2) and their radius 0.08."""


class MazeDomain(Domain):
    """A body in a maze that is rewarded near a goal; what happens depends on the place only within reach of a wall.

    :param maze: the map
    :param goal: x and y of the goal, metres
    :param margin: metres within which a wall can be touched
    :param state: numbers of the observation without the goal
    :param goal_in_observation: whether observations end with the goal
    :param dense: reward exp(-distance) instead of 1 within ``radius``
    :param continuing: episodes do not end at the goal
    :param radius: metres within which the goal counts as reached: 0.45 in gymnasium-robotics, 0.5 in D4RL
    """

    invalid_because = "the body was within reach of a wall or inside one, before or after the step"
    unusable_because = "the recorded body is within reach of a wall, where its motion depends on the place"

    def __init__(
        self,
        maze: Maze,
        goal: Any,
        margin: float,
        state: int,
        *,
        goal_in_observation: bool = False,
        dense: bool = False,
        continuing: bool = True,
        radius: float = 0.45,
    ) -> None:
        self.maze, self.goal = maze, np.asarray(goal, np.float32)
        self.dense, self.continuing, self.radius = dense, continuing, radius
        self.clearance = Clearance(maze, margin)
        self.width = state + 2 if goal_in_observation else state
        self.goal_columns = slice(state, state + 2) if goal_in_observation else None

    def usable(self, batch: Batch) -> np.ndarray:
        return ~self.clearance.blocked(batch.observations[:, :2])

    def valid(self, batch: Batch) -> np.ndarray:
        blocked = self.clearance.blocked(batch.observations[:, :2])
        return ~(blocked | self.clearance.blocked(batch.next_observations[:, :2]))

    def positions(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """Uniform over the free cells, then over what the margins leave of the cell."""
        cells = generator.integers(0, len(self.maze.free_cells), count, dtype=np.int32)
        return self.clearance.sample(generator, cells)

    def goals(self, generator: np.random.Generator, count: int) -> np.ndarray:
        return self.positions(generator, count)

    def outcome(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """gymnasium-robotics' ``compute_reward`` and ``compute_terminated`` of its mazes."""
        goal = self.goal if self.goal_columns is None else batch.next_observations[:, self.goal_columns]
        distance = np.linalg.norm(batch.next_observations[:, :2] - goal, axis=1)
        arrived = (distance <= self.radius).astype(np.float32)
        rewards = np.exp(-distance).astype(np.float32) if self.dense else arrived
        return rewards, np.ones(len(batch), np.float32) if self.continuing else 1 - arrived


class PointMaze(MazeDomain):
    """PointMaze-v3 on any map: observation x, y, vx, vy (and the goal), action a force along x and y.

    Away from walls the ball is a free mass with axis-aligned bounds: actions in [-1, 1] and velocities within 5 m/s
    along each axis. So translations, multiples of 90 degrees and mirrors are exact, and other rotations are refused.

    The parameters are those of :class:`MazeDomain`; the margin to the walls is the ball's.
    """

    name = "pointmaze"
    rotations = exact_rotations = "quarter"
    inexact_because = "the bounds of its actions and velocities are axis-aligned squares"
    layout = Layout(points=((0, 1),), vectors=((2, 3),), action_vectors=((0, 1),))
    factors = (((0, 2), (0,)), ((1, 3), (1,)))

    def __init__(self, maze: Maze, goal: Any, **settings: Any) -> None:
        super().__init__(maze, goal, BALL_MARGIN, 4, **settings)
        self.keys = ("observation", "desired_goal") if self.goal_columns else ("observation",)

    def at_walls(self) -> PointMaze:
        """The same maze for steps that the simulator makes: the ball may touch walls, and is often put against one."""
        domain = copy.copy(self)
        domain.clearance = WallPlaces(self.maze, BALL_RADIUS)
        domain.invalid_because = "the ball was inside a wall"
        return domain

    def augmentation(self) -> Augmentation:
        """Translate and rotate: the paper's functions for maze2d."""
        return Augmentation(self, Translate(), Rotate())

    def simulator(self, env: Any = None) -> Any:
        from rlopt.agents.guda.simulators import point_maze_simulator

        return point_maze_simulator(self, env)


class AntMaze(MazeDomain):
    """AntMaze-v4/-v5 with observations of 27 numbers, on any map.

    Flat observation: x, y, z, quaternion, 8 joint angles, linear velocity (world frame), angular velocity (body frame),
    8 joint velocities: qpos and qvel, 29 numbers, then the goal if it is observed. Joint states, angular velocity and
    action belong to the body and do not change. Translations and multiples of 90 degrees are exact; any other yaw is
    approximate. A mirror would have to swap the legs; it is left out.

    The parameters are those of :class:`MazeDomain`; the margin to the walls is that of stretched legs.
    """

    name = "antmaze"
    exact_rotations = "quarter"
    inexact_because = (
        "MuJoCo's pyramidal friction cone is aligned with the world's axes, so turns other than multiples of 90 "
        "degrees change the contact forces"
    )
    mirrors = False
    layout = Layout(points=((0, 1),), vectors=((15, 16),), quaternions=(3,))

    def __init__(self, maze: Maze, goal: Any, **settings: Any) -> None:
        super().__init__(maze, goal, ANT_MARGIN, 29, **settings)
        self.keys = ("achieved_goal", "observation", *(("desired_goal",) if self.goal_columns else ()))

    def augmentation(self) -> Augmentation:
        """Translate only, as in the paper's antmaze experiments."""
        return Augmentation(self, Translate())

    def simulator(self, env: Any = None) -> Any:
        from rlopt.agents.guda.simulators import ant_maze_simulator

        return ant_maze_simulator(self, env)
