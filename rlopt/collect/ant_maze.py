"""Ant-maze data: a planner and a scripted trot walk from one cell to the next.

After the generation of D4RL's antmaze (Fu et al., arXiv 2004.07219), where a trained policy walks: this gait was made
by hand, so that nothing has to be trained or downloaded.
"""

from importlib.metadata import version
from typing import Any

import numpy as np

from rlopt.data.dataset import Dataset
from rlopt.data.environment import made
from rlopt.data.metadata import Metadata
from rlopt.envs.settings import EnvSettings
from rlopt.envs.tasks.mazes import Maze
from rlopt.envs.tasks.own_tasks import FIXED_GOAL_ANT_MAZES
from rlopt.errors import ConfigError

STEP = 0.05
"""Seconds of an environment step."""
LEG_ANGLES = np.deg2rad([45.0, 135.0, 225.0, 315.0])
"""Where the legs point in the torso's frame, in the order of their joints."""
ANKLE_SIGNS = np.array([1.0, -1.0, -1.0, 1.0])
DIAGONALS = np.array([0.0, np.pi, 0.0, np.pi])
"""Phases of the legs: a trot moves diagonal ones together."""
FREQUENCY, STIFFNESS, DAMPING = 2.871, 2.344, 0.243
"""Hertz, torque a radian, torque a radian/s."""
SWING, STANCE_ANKLE, LIFTED_ANKLE, LIFT_LEAD, PUSH = 0.554, 0.794, 0.482, -0.614, -0.208
"""Radians. All found by CMA-ES for the distance covered in a straight line."""
TO_ACTUATORS = [6, 7, 0, 1, 2, 3, 4, 5]
"""The ant's actuators begin with its last leg."""
WAYPOINT_RADIUS, GOAL_RADIUS = 1.0, 0.45
"""Metres within which the centre of a cell on the way, and the task's goal, count as reached."""
START_JITTER = 0.5
"""Metres by which starts are moved from the centre of their cell along each axis, at most."""
FALLEN = 0.3
"""The vertical component of the torso's axis below which the ant lies on its side or back."""


def trot(observations: np.ndarray, directions: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """Torques that walk into a direction, whatever way the torso is turned.

    :param observations: [n, 29] of ``rlopt/AntMaze_*-v0``
    :param directions: [n] radians in the world's frame
    :param phases: [n] radians
    :returns: [n, 8] in [-1, 1]
    """
    w, x, y, z = observations[:, 3:7].T
    yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    phase = phases[:, None] + DIAGONALS
    ahead = (directions - yaw)[:, None] - LEG_ANGLES
    # A leg on the floor turns against the direction, by as much as it stands across it, and pushes from behind.
    hips = SWING * np.sin(ahead) * np.cos(phase)
    lifted = np.clip(-2 * np.sin(phase + LIFT_LEAD), 0, 1)
    bent = STANCE_ANKLE + (LIFTED_ANKLE - STANCE_ANKLE) * lifted + PUSH * np.cos(ahead) * np.cos(phase)
    ankles = ANKLE_SIGNS * bent
    targets = np.stack((hips, ankles), axis=2).reshape(-1, 8)
    torques = STIFFNESS * (targets - observations[:, 7:15]) - DAMPING * observations[:, 21:29]
    return np.clip(torques, -1, 1)[:, TO_ACTUATORS]


def landmarks(maze: Maze) -> np.ndarray:
    """The free cells that are not a straight piece of a corridor: dead ends, corners and junctions, [k, 2]."""
    padded = np.pad(~maze.walls, 1)
    row, column = maze.free_cells.T + 1
    left, right = padded[row, column - 1], padded[row, column + 1]
    above, below = padded[row - 1, column], padded[row + 1, column]
    across, along = left & right & ~above & ~below, above & below & ~left & ~right
    return maze.free_cells[~(across | along)]


class Walker:
    """An ant on its way from cell to cell.

    :param env: of ``rlopt/AntMaze_*-v0``
    :param cells: [k, 2] cells between which it walks
    :param goal_cell: row and column of the task's goal, where no walk begins
    """

    def __init__(
        self,
        env: Any,
        maze: Maze,
        cells: np.ndarray,
        goal_cell: tuple[int, int],
        noise: float,
        generator: np.random.Generator,
    ) -> None:
        self.env, self.maze, self.noise, self.generator = env.unwrapped, maze, noise, generator
        self._cells = maze.free_index[cells[:, 0], cells[:, 1]]
        self._starts = self._cells[self._cells != maze.free_index[goal_cell]]
        self._next = maze.next_cells()

    def begin(self) -> np.ndarray:
        """Puts the ant at rest into one of the cells and gives it another as its target; returns the observation."""
        start = self.generator.choice(self._starts)
        self._target = self.generator.choice(self._cells[self._cells != start])
        place = self.maze.cell_to_xy(self.maze.free_cells[start])
        place = place + self.generator.uniform(-START_JITTER, START_JITTER, 2)
        self._waypoint = self._next[self._target, start]
        self._phase = self.generator.uniform(0, 2 * np.pi)
        ant = self.env.ant_env
        ant.reset()
        ant.set_state(np.concatenate((place, ant.init_qpos[2:])), np.zeros_like(ant.init_qvel))
        return self._observation()

    def step(self, observation: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        """Walks on; returns the action, the observation after it, and whether the walk is over."""
        gap = self.maze.cell_to_xy(self.maze.free_cells[self._waypoint]) - observation[:2]
        torques = trot(observation[None], np.arctan2(gap[1:], gap[:1]), np.array([self._phase]))[0]
        self._phase += 2 * np.pi * FREQUENCY * STEP
        action = np.clip(torques + self.noise * self.generator.standard_normal(8), -1, 1).astype(np.float32)
        self.env.step(action)
        following = self._observation()
        gap = self.maze.cell_to_xy(self.maze.free_cells[self._waypoint]) - following[:2]
        reached = bool(gap @ gap < WAYPOINT_RADIUS**2)
        over = (reached and self._waypoint == self._target) or upright(following) < FALLEN
        if reached:
            self._waypoint = self._next[self._target, self._waypoint]
        return action, following, over

    def _observation(self) -> np.ndarray:
        data = self.env.ant_env.data
        return np.concatenate((data.qpos, data.qvel))


def upright(observation: np.ndarray) -> float:
    """The vertical component of the torso's axis, in [-1, 1]."""
    return float(1 - 2 * (observation[4] ** 2 + observation[5] ** 2))


def generate_ant_maze(
    n: int, *, maze: str = "UMaze", kind: str = "diverse", seed: int = 0, noise: float = 0.1
) -> Dataset:
    """Makes ``n`` transitions in ``rlopt/AntMaze_{maze}-v0`` by walking from one random cell to another.

    A walk, which is an episode, ends truly at the task's goal, wherever it was to lead; it is cut at its target, at the
    task's time limit, and where the ant has fallen. Rewards are the task's.

    :param n: transitions, at least 1
    :param maze: UMaze, Medium or Large
    :param kind: ``play`` walks between dead ends, corners and junctions, ``diverse`` between any free cells
    :param noise: standard deviation of the Gaussian noise on the action, which is then clipped to [-1, 1], >= 0
    :raises ConfigError: a value out of range, or gymnasium-robotics is not installed
    """
    from rlopt.envs.make import make_single

    if not (np.isfinite(noise) and noise >= 0):
        raise ConfigError(f"noise must be a number >= 0, got {noise}")
    env_id = f"rlopt/AntMaze_{maze}-v0"
    task = FIXED_GOAL_ANT_MAZES[env_id]
    geometry = Maze.from_id(env_id)
    goal = geometry.cell_to_xy(task.goal_cell)
    env = make_single(EnvSettings(id=env_id), seed)
    env.reset(seed=seed)
    generator = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
    cells = landmarks(geometry) if kind == "play" else geometry.free_cells
    walker = Walker(env, geometry, cells, task.goal_cell, noise, generator)
    states, actions, following = (np.empty((n, size), np.float32) for size in (29, 8, 29))
    arrived, ends = np.zeros(n, bool), np.zeros(n, bool)
    observation, age = walker.begin(), 0
    for row in range(n):
        states[row] = observation
        actions[row], observation, over = walker.step(observation)
        following[row] = observation
        age += 1
        arrived[row] = np.linalg.norm(following[row, :2] - goal) <= GOAL_RADIUS
        ends[row] = over or arrived[row] or age == task.episode_steps
        if ends[row]:
            observation, age = walker.begin(), 0
    env.close()
    ends[-1] = True
    metadata = Metadata(
        **made(EnvSettings(env_id)),
        termination="at the fixed goal",
        reward="1 at the fixed goal, else 0",
        generator=f"shortest paths and a scripted trot between {kind} cells, action noise {noise:g}",
        seed=int(seed),
        versions={name: version(name) for name in ("rlopt", "numpy", "mujoco")},
    )
    return Dataset(
        observations=states,
        actions=actions,
        rewards=arrived.astype(np.float32),
        next_observations=following,
        discounts=(~arrived).astype(np.float32),
        episode_ends=ends,
        metadata=metadata,
    )
