"""PointMaze data: a planner and a PD controller with noise walk from one random cell to the next.

After the generation of D4RL's maze2d (Fu et al., arXiv 2004.07219) with the noise of Minari's point mazes: gains 10 and
-1, action noise of standard deviation 0.5, waypoints moved by up to 0.2, a waypoint is reached within 0.1.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rlopt.data.dataset import Dataset
from rlopt.data.environment import made
from rlopt.data.metadata import Metadata
from rlopt.envs.backends.pool_support import available_cores, envpool_problem, import_envpool, maze_reward
from rlopt.envs.settings import EnvSettings, derive_seeds
from rlopt.envs.tasks.mazes import Maze
from rlopt.envs.tasks.own_tasks import FIXED_GOAL_MAZES
from rlopt.errors import ConfigError, NonFiniteError, unknown_name

POSITION_GAIN = 10.0
VELOCITY_GAIN = -1.0
WAYPOINT_RADIUS = 0.1
"""Metres within which a waypoint counts as reached."""
WAYPOINT_JITTER = 0.2
"""Waypoints are moved from their cell's centre by up to this many metres along each axis."""
MAX_ENVS = 64
STEPS_PER_ENV = 4000
"""A simulator is used for at least so many transitions, so that small data sets have whole episodes."""


class Simulator(Protocol):
    """Point mazes stepped together and never reset."""

    state: np.ndarray
    """[n_envs, 4] float64: x, y, vx, vy."""

    def step(self, actions: np.ndarray) -> np.ndarray:
        """Takes one step with actions [n_envs, 2] in [-1, 1]; the new states, [n_envs, 4]."""
        ...

    def close(self) -> None:
        """Frees what the simulator holds."""
        ...


class _PoolSimulator:
    def __init__(self, env_id: str, n_envs: int, seed: int) -> None:
        # Without a limit of its own: the walks end where they arrive.
        self._pool: Any = import_envpool().make_gymnasium(
            env_id,
            num_envs=n_envs,
            num_threads=min(n_envs, available_cores()),
            seed=derive_seeds(seed, n_envs),
            max_episode_steps=2**31 - 1,
        )
        self.state = np.array(self._pool.reset()[0]["observation"])

    def step(self, actions: np.ndarray) -> np.ndarray:
        self.state = np.array(self._pool.step(actions)[0]["observation"])
        return self.state

    def close(self) -> None:
        self._pool.close()


class _GymnasiumSimulator:
    def __init__(self, env_id: str, n_envs: int, seed: int) -> None:
        from rlopt.envs.make import make_single
        from rlopt.envs.settings import EnvSettings

        self._envs: list[Any] = []
        starts = []
        for env_seed in derive_seeds(seed, n_envs):
            env = make_single(EnvSettings(id=env_id), env_seed)
            starts.append(env.reset(seed=env_seed)[0]["observation"])
            self._envs.append(env)
        # The point mass alone: no goal, no time limit.
        self._points = [env.unwrapped.point_env for env in self._envs]
        self.state = np.stack(starts)

    def step(self, actions: np.ndarray) -> np.ndarray:
        steps = zip(self._points, actions, strict=True)
        self.state = np.stack([point.step(action)[0] for point, action in steps])
        return self.state

    def close(self) -> None:
        for env in self._envs:
            env.close()


@dataclass
class Walkers:
    """Where each of E walkers is heading: a target cell, and on the way to it one waypoint after the other."""

    maze: Maze
    table: np.ndarray
    """[F, F]: :meth:`rlopt.envs.tasks.mazes.Maze.next_cells`."""
    generator: np.random.Generator
    noise: float

    def start(self, state: np.ndarray) -> None:
        """Sends every walker from where it is (``state`` [E, 4]) to a random cell that can be reached."""
        cells = self.maze.xy_to_cell(state[:, :2])
        self.cell = self.maze.free_index[cells[:, 0], cells[:, 1]]
        self.target = self.cell.copy()
        self.waypoint = np.empty((len(state), 2))
        everyone = np.arange(len(state))
        self._new_targets(everyone)
        self._place(everyone)

    def act(self, state: np.ndarray) -> np.ndarray:
        """The controller's noisy actions [E, 2] float32 in [-1, 1] for the states [E, 4]."""
        force = POSITION_GAIN * (self.waypoint - state[:, :2]) + VELOCITY_GAIN * state[:, 2:]
        force = np.clip(force, -1.0, 1.0) + self.noise * self.generator.standard_normal(force.shape)
        return np.clip(force, -1.0, 1.0).astype(np.float32)

    def advance(self, state: np.ndarray) -> np.ndarray:
        """Takes note of the states reached; returns which walkers have arrived at their target and got a new one."""
        gap = self.waypoint - state[:, :2]
        reached = gap[:, 0] ** 2 + gap[:, 1] ** 2 < WAYPOINT_RADIUS**2
        arrived = reached & (self.cell == self.target)
        rows = np.flatnonzero(reached)
        if rows.size:
            self._new_targets(np.flatnonzero(arrived))
            self.cell[rows] = self.table[self.target[rows], self.cell[rows]]
            self._place(rows)
        return arrived

    def redirect(self, rows: np.ndarray, state: np.ndarray) -> None:
        """Gives walkers that did not arrive in time a new target; they continue from the cell they are in."""
        cells = self.maze.xy_to_cell(state[rows, :2])
        self.cell[rows] = self.maze.free_index[cells[:, 0], cells[:, 1]]
        self._new_targets(rows)
        self._place(rows)

    def _new_targets(self, rows: np.ndarray) -> None:
        """Uniform over the cells that can be reached, the walker's own cell left out."""
        for row in rows:
            choices = np.flatnonzero(self.table[:, self.cell[row]] >= 0)
            others = choices[choices != self.cell[row]]
            self.target[row] = self.generator.choice(others) if len(others) else self.cell[row]

    def _place(self, rows: np.ndarray) -> None:
        centres = self.maze.cell_to_xy(self.maze.free_cells[self.cell[rows]])
        self.waypoint[rows] = centres + self.generator.uniform(-WAYPOINT_JITTER, WAYPOINT_JITTER, centres.shape)


class GoalController:
    """The planner and PD controller without noise and jitter, sent to the goal and staying there: the expert.

    :param env_id: a point maze with a fixed goal, ``rlopt/PointMaze_*-v0``
    """

    def __init__(self, env_id: str) -> None:
        self._maze = Maze.from_id(env_id)
        cell = FIXED_GOAL_MAZES[env_id].goal_cell
        goal = int(self._maze.free_index[cell])
        self._waypoints = self._maze.cell_to_xy(self._maze.free_cells[self._maze.next_cells()[goal]])

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """Actions [n, 2] float32 for observations [n, 4] or [n, 6]."""
        row, column = self._maze.xy_to_cell(observations[:, :2]).T
        gap = self._waypoints[self._maze.free_index[row, column]] - observations[:, :2]
        return np.clip(POSITION_GAIN * gap + VELOCITY_GAIN * observations[:, 2:4], -1.0, 1.0).astype(np.float32)


def generate_point_maze(
    n: int,
    *,
    maze: str = "UMaze",
    seed: int = 0,
    noise: float = 0.5,
    n_envs: int | None = None,
    backend: str = "auto",
    goal_in_observation: bool = False,
) -> Dataset:
    """Makes ``n`` transitions in PointMaze_{maze}-v3 by walking from one random cell to the next.

    An episode is the way to one target (or the maze's time limit, if it is not reached); the next one starts where it
    ended. Rewards are those of ``rlopt/PointMaze_{maze}-v0``: for its fixed goal, whatever the walkers' target was.
    Observations are that environment's, float32 [n, 4] or, with ``goal_in_observation``, [n, 6]; the extra columns are
    ``goal`` and ``walk_target`` [n, 2], metres. The same seed, number of simulators, backend and versions give the
    same data.

    :param n: transitions, at least 1
    :param maze: UMaze, Medium or Large
    :param seed: seed of everything, >= 0
    :param noise: standard deviation of the Gaussian noise added to the action, which is then clipped to [-1, 1]
    :param n_envs: simulators; None takes one for every 4000 transitions, up to 64
    :param backend: ``envpool``, ``gymnasium`` or ``auto`` (EnvPool if installed and there are at least 4 simulators)
    :raises ConfigError: a value out of range, or a backend that cannot be used
    """
    mazes = {env_id.removeprefix("rlopt/PointMaze_").removesuffix("-v0"): env_id for env_id in FIXED_GOAL_MAZES}
    if maze not in mazes:
        raise unknown_name("maze", maze, mazes)
    task = FIXED_GOAL_MAZES[mazes[maze]]
    if isinstance(noise, str) or not (np.isfinite(noise) and noise >= 0):
        raise ConfigError(f"noise must be a number >= 0, got {noise}")
    count = min(MAX_ENVS, max(1, n // STEPS_PER_ENV)) if n_envs is None else n_envs
    if isinstance(count, bool) or not hasattr(count, "__index__") or not 1 <= count <= 4096:
        raise ConfigError(f"n_envs must be in [1, 4096], got {n_envs}")
    count = min(count, n)
    chosen = _choose_backend(backend, count)
    geometry = Maze.from_id(task.base)
    make = _PoolSimulator if chosen == "envpool" else _GymnasiumSimulator
    streams = np.random.SeedSequence(seed).spawn(1)[0]
    walkers = Walkers(geometry, geometry.next_cells(), np.random.default_rng(streams), noise)
    simulator = make(task.base, count, seed)
    try:
        recorded = _walk(simulator, walkers, -(-n // count), task.episode_steps)
    finally:
        simulator.close()
    metadata = Metadata(
        **made(EnvSettings(mazes[maze], env_kwargs={"goal_in_observation": True} if goal_in_observation else None)),
        termination="never",
        reward="1 at the fixed goal, else 0",
        generator=f"shortest paths, PD controller ({POSITION_GAIN:g}, {VELOCITY_GAIN:g}), action noise {noise:g}, "
        f"waypoint jitter {WAYPOINT_JITTER:g}; {count} simulators on {chosen}",
        seed=int(seed),
        reference_returns=task.reference_returns,
        versions=_versions(chosen),
        notes=("Rewards are for the fixed goal in the extra column 'goal'.",)
        + (("Observations end with the goal: use env_kwargs={'goal_in_observation': True}.",) * goal_in_observation),
    )
    goal = geometry.cell_to_xy(task.goal_cell)
    return _assemble(recorded, n, goal, metadata, goal_in_observation)


def _choose_backend(backend: str, n_envs: int) -> str:
    known = ("auto", "envpool", "gymnasium")
    if backend not in known:
        raise unknown_name("backend", str(backend), known)
    if backend != "auto":
        return backend
    return "envpool" if n_envs >= 4 and envpool_problem() is None else "gymnasium"


def _walk(simulator: Simulator, walkers: Walkers, steps: int, limit: int) -> dict[str, np.ndarray]:
    """Steps all simulators; returns arrays [n_envs, steps, ...], ``states`` with one more step."""
    count = len(simulator.state)
    states = np.empty((steps + 1, count, 4), np.float32)
    actions = np.empty((steps, count, 2), np.float32)
    targets = np.empty((steps, count), np.int32)
    ends = np.empty((steps, count), bool)
    age = np.zeros(count, np.int64)
    state = simulator.state
    walkers.start(state)
    states[0] = state
    for step in range(steps):
        actions[step] = walkers.act(state)
        targets[step] = walkers.target
        state = simulator.step(actions[step])
        states[step + 1] = state
        arrived = walkers.advance(state)
        age += 1
        late = (age >= limit) & ~arrived
        if late.any():
            walkers.redirect(np.flatnonzero(late), state)
        ends[step] = arrived | late
        age[ends[step]] = 0
    if not np.isfinite(states).all():
        raise NonFiniteError("the simulator gave NaN or infinity: check the MuJoCo installation with rlopt doctor")
    recorded: dict[str, np.ndarray] = {
        "states": states,
        "actions": actions,
        "targets": walkers.maze.free_cells[targets],
        "ends": ends,
    }
    return {name: np.ascontiguousarray(np.swapaxes(array, 0, 1)) for name, array in recorded.items()}


def _assemble(
    recorded: dict[str, np.ndarray], n: int, goal: np.ndarray, metadata: Metadata, goal_in_observation: bool
) -> Dataset:
    """Puts the walks one behind the other; the last transition of each walk is cut off there."""
    recorded["ends"][:, -1] = True
    observations = recorded["states"][:, :-1].reshape(-1, 4)[:n]
    following = recorded["states"][:, 1:].reshape(-1, 4)[:n]
    ends = recorded["ends"].reshape(-1)[:n].copy()
    ends[-1] = True
    goals = np.tile(goal.astype(np.float32), (n, 1))
    maze = Maze.from_id(metadata.env)
    targets = maze.cell_to_xy(recorded["targets"].reshape(-1, 2)[:n]).astype(np.float32)
    if goal_in_observation:
        observations = np.concatenate((observations, goals), axis=1)
        following = np.concatenate((following, goals), axis=1)
    return Dataset(
        observations=observations,
        actions=recorded["actions"].reshape(-1, 2)[:n],
        rewards=maze_reward(following[:, :2], goals, dense=False).astype(np.float32),
        next_observations=following,
        discounts=np.ones(n, np.float32),
        episode_ends=ends,
        metadata=metadata,
        extras={"goal": goals, "walk_target": targets},
    )


def _versions(backend: str) -> dict[str, str]:
    from importlib.metadata import version

    from rlopt import __version__

    packages = {"envpool": "envpool"} if backend == "envpool" else {"mujoco": "mujoco"}
    return {"rlopt": __version__, "numpy": np.__version__} | {
        name: version(package) for name, package in packages.items()
    }
