"""Simulators that can be put into the state of an observation, to check augmented transitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rlopt.envs.calls import call
from rlopt.envs.flat import flatten
from rlopt.envs.outcomes import Interface, name_of
from rlopt.errors import ConfigError, StateUnavailableError

if TYPE_CHECKING:
    from rlopt.agents.guda.maze_domains import AntMaze, PointMaze


MAX_SPEED = 5.0
"""m/s along each axis, to which gymnasium-robotics' point mazes clip velocities before a step."""


class Simulator(Protocol):
    """One step of the true dynamics from any state."""

    def transition(self, observation: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, float | None]:
        """The successor of a flat observation [d] under an action [a], and its reward (None: not known)."""
        ...


class EnvSimulator:
    """Any environment whose state a function can set from an observation.

    :param env: a Gymnasium environment with vector or dictionary observations
    :param set_state: ``set_state(env, observation)`` puts the environment into the state of a flat observation [d],
        including whatever the solver remembers between steps
    :param keys: the entries of a dictionary observation that make a flat one
    """

    def __init__(
        self, env: Any, set_state: Callable[[Any, np.ndarray], None], keys: tuple[str, ...] = ("observation",)
    ) -> None:
        self.env, self.set_state, self.keys = env, set_state, keys
        # The base environment: a time limit has nothing to count here.
        self._interface = Interface(name_of(env), env.unwrapped.observation_space)
        call(self._interface.name, "reset", env.reset, seed=0)

    def transition(self, observation: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, float | None]:
        """Successor [d] float64 and reward of one step from a flat observation [d].

        :raises rlopt.errors.EnvFaultError: the environment raises an error, or returns what its spaces do not allow
        """
        name = self._interface.name
        call(name, "set_state", self.set_state, self.env, observation)
        outcome = call(name, "step", self.env.unwrapped.step, np.asarray(action, self.env.action_space.dtype))
        following, reward, *_ = self._interface.step(outcome)
        if isinstance(following, Mapping):
            following = flatten(following, self.keys)
        return np.asarray(following, np.float64), reward


def maze_state(inner: str, n_positions: int, goal: np.ndarray | None, start: int) -> Callable[[Any, np.ndarray], None]:
    """Makes ``set_state`` of a maze environment of gymnasium-robotics.

    :param inner: attribute of the MuJoCo environment inside: ``point_env`` or ``ant_env``
    :param n_positions: qpos has that many numbers; the rest up to ``start`` is qvel
    :param goal: the fixed goal, or None where observations have it from column ``start``
    """

    def set_state(env: Any, observation: np.ndarray) -> None:
        import mujoco

        base = env.unwrapped
        body = getattr(base, inner)
        base.goal = np.asarray(observation[start:] if goal is None else goal, np.float64)
        # Velocities, controls and the solver's warm start of the last step would else show in the next one.
        mujoco.mj_resetData(body.model, body.data)
        body.set_state(
            np.asarray(observation[:n_positions], np.float64), np.asarray(observation[n_positions:start], np.float64)
        )

    return set_state


class PointMazePhysics:
    """The steps of a point maze from many states at once: what gymnasium-robotics' ``point_env`` does, without Python.

    :raises StateUnavailableError: gymnasium-robotics is not installed
    """

    def __init__(self, domain: PointMaze) -> None:
        point_maze = point_maze_simulator(domain).env.unwrapped.point_env
        self._model, self._skip = point_maze.model, point_maze.frame_skip

    def roll(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The states after each action.

        :param states: [S, 4]: x, y, vx, vy
        :param actions: [S, L, 2] in [-1, 1]
        :returns: [S, L, 4] float64
        """
        import mujoco
        from mujoco import rollout

        # Time, then positions and velocities.
        size = mujoco.mj_stateSize(self._model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        full = np.zeros((len(states), size))
        full[:, 1:5] = states
        data = mujoco.MjData(self._model)
        made = np.empty((*actions.shape[:2], 4))
        for step in range(actions.shape[1]):
            np.clip(full[:, 3:5], -MAX_SPEED, MAX_SPEED, out=full[:, 3:5])
            force = np.repeat(actions[:, step : step + 1].astype(np.float64), self._skip, axis=1)
            full = rollout.rollout(self._model, [data], full, np.clip(force, -1, 1))[0][:, -1]
            made[:, step] = full[:, 1:5]
        return made


def point_maze_simulator(domain: PointMaze, env: Any = None) -> EnvSimulator:
    """The simulator of a PointMaze domain; ``env`` None makes an environment with the domain's map."""
    _require_robotics()
    if env is None:
        from rlopt.envs.tasks.point_maze import make_fixed_goal_maze

        env = make_fixed_goal_maze(
            maze_map=_map(domain),
            goal_cell=domain.maze.free_cells[0],
            reward_type="dense" if domain.dense else "sparse",
        )
    goal = None if domain.goal_columns else domain.goal
    return EnvSimulator(env, maze_state("point_env", 2, goal, 4), domain.keys)


def ant_maze_simulator(domain: AntMaze, env: Any = None) -> EnvSimulator:
    """The simulator of an AntMaze domain; ``env`` None makes AntMaze-v5 with 27 numbers on the domain's map."""
    _require_robotics()
    if env is None:
        import gymnasium

        env = gymnasium.make(
            "AntMaze_UMaze-v5",
            maze_map=_map(domain),
            include_cfrc_ext_in_observation=False,
            reward_type="dense" if domain.dense else "sparse",
        )
    goal = None if domain.goal_columns else domain.goal
    return EnvSimulator(env, maze_state("ant_env", 15, goal, 29), domain.keys)


def _map(domain: PointMaze | AntMaze) -> list[list[int | str]]:
    return [[int(wall) for wall in row] for row in domain.maze.walls]


def _require_robotics() -> None:
    from rlopt.envs import names

    try:
        names.register("PointMaze_UMaze-v3")
    except ConfigError as error:
        raise StateUnavailableError(f"checking needs the simulator: {error}") from None


def parking_state(env: Any, observation: np.ndarray) -> None:
    """Puts highway-env's parking into the state of a flat observation [12]."""
    base = env.unwrapped
    car, row = base.vehicle, np.asarray(observation, np.float64)
    car.position = row[0:2] * 100.0
    car.heading = float(np.arctan2(row[5], row[4]))
    car.speed = float(5.0 * (row[2] * np.cos(car.heading) + row[3] * np.sin(car.heading)))
    car.crashed, car.impact = False, None
    car.goal.position = row[6:8] * 100.0
    car.goal.heading = float(np.arctan2(row[11], row[10]))
    base.time = base.steps = 0


def ball_state(env: Any, observation: np.ndarray) -> None:
    """Puts ``rlopt/BallToGoal-v0`` into the state of a flat observation [10]."""
    env.unwrapped.state = np.array(observation[:8], np.float64)
    env.unwrapped.goal = np.array(observation[8:10], np.float64)


def make_registered(env_id: str, **kwargs: Any) -> Any:
    """One environment of a registered id; raises :class:`rlopt.errors.ConfigError` if its package is missing."""
    import gymnasium

    from rlopt.envs import names

    names.check_id(env_id)
    names.register(env_id)  # an id that EnvPool has too need not be
    return gymnasium.make(env_id, **kwargs)
