"""D4RL's maze2d: its traps, and its map into the frame of gymnasium-robotics' PointMaze-v3.

Both simulate the same point mass (equal time step, integrator, damping, density, gear and velocity limit). D4RL's x is
the row of the maze and its y the column, with cell (row, column) centred at (row - 0.2, column - 0.2); PointMaze is
centred at the origin with x to the right and y up. The map between the two is a rotation by -90 degrees and a shift, so
that the transitions stay exact; rewards are those of PointMaze's own function (radius 0.45, not D4RL's 0.5).
"""

import dataclasses
from typing import Any

import numpy as np

from rlopt.data.dataset import Dataset
from rlopt.data.formats.d4rl_file import RawFile
from rlopt.data.names import D4RLName, d4rl_name
from rlopt.errors import ConfigError, DataError, unknown_name

GOALS = {"umaze": (1, 1), "medium": (6, 6), "large": (7, 9), "open": (2, 3)}
"""The fixed goal of each maze, in D4RL's coordinates."""
_CELL_OFFSET = 0.2
_POINTMAZE = {"umaze": "UMaze", "medium": "Medium", "large": "Large", "open": "Open"}
_STATE_TOLERANCE = 1e-5
GOAL_CHOICES = ("task", "recorded")


def maze_of(entry: D4RLName) -> tuple[str, bool]:
    """(maze, whether the reward is dense) of a maze2d name."""
    return entry.name.split("-")[1], "-dense-" in entry.name


def repair_states(raw: RawFile) -> None:
    """Takes the simulator's state for the observation where a file has both and they differ.

    D4RL's generation script records the observation before last in the row behind a reached waypoint, beside the right
    ``infos/qpos`` and ``infos/qvel``.
    """
    parts = [raw.extras.get(name) for name in ("qpos", "qvel")]
    if any(part is None or part.shape != (len(raw), 2) for part in parts):
        return
    states = np.concatenate([part for part in parts if part is not None], axis=1).astype(np.float32)
    stale = (np.abs(states - raw.observations) > _STATE_TOLERANCE).any(axis=1)
    if stale.any():
        raw.observations = np.where(stale[:, None], states, raw.observations)
        raw.notes.append(f"{int(stale.sum())} observations differ from infos/qpos and infos/qvel: the latter are used")


def reward_of_observation(raw: RawFile, entry: D4RLName) -> bool:
    """Whether the file's rewards are those of each row's own observation and not of the one after the step."""
    maze, dense = maze_of(entry)
    distance = np.linalg.norm(raw.observations[:, :2] - np.array(GOALS[maze], np.float32), axis=1)
    label = np.exp(-distance) if dense else (distance <= 0.5).astype(np.float32)
    own = float((np.abs(label[:-1] - raw.rewards[:-1]) < 1e-4).mean())
    following = float((np.abs(label[1:] - raw.rewards[:-1]) < 1e-4).mean())
    if max(own, following) < 0.999:
        raw.notes.append(
            f"rewards match the task's in only {100 * max(own, following):.1f} % of rows: to_pointmaze relabels them"
        )
    return own >= 0.999 and own > following


def position_to_pointmaze(position: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """D4RL positions (..., 2) in PointMaze's frame, for a maze of ``shape`` (rows, columns)."""
    rows, columns = shape
    x, y = position[..., 0], position[..., 1]
    return np.stack((y + _CELL_OFFSET - (columns - 1) / 2, (rows - 1) / 2 - (x + _CELL_OFFSET)), axis=-1)


def position_to_d4rl(position: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The inverse of :func:`position_to_pointmaze`."""
    rows, columns = shape
    x, y = position[..., 0], position[..., 1]
    return np.stack(((rows - 1) / 2 - y - _CELL_OFFSET, x + (columns - 1) / 2 - _CELL_OFFSET), axis=-1)


def vector_to_pointmaze(vector: np.ndarray) -> np.ndarray:
    """D4RL velocities or actions (..., 2) in PointMaze's frame: (a, b) -> (b, -a)."""
    return np.stack((vector[..., 1], -vector[..., 0]), axis=-1)


def vector_to_d4rl(vector: np.ndarray) -> np.ndarray:
    """The inverse of :func:`vector_to_pointmaze`."""
    return np.stack((-vector[..., 1], vector[..., 0]), axis=-1)


def to_pointmaze(data: Dataset, goal: str = "task") -> Dataset:
    """Maps a data set read from a maze2d file into PointMaze-v3, observations, goals and rewards included.

    :param goal: ``task``: D4RL's fixed goal of the maze; ``recorded``: the planner's goal at the time (``infos/goal``)
    :return: a data set of ``PointMaze_UMaze-v3`` and the like, with its goal dictionary as observations; without
        reference returns, as D4RL's do not hold there (other radius, resets and goals)
    :raises rlopt.errors.DataError: no maze2d data, a position inside a wall, no recorded goals
    :raises rlopt.errors.ConfigError: gymnasium-robotics is not installed
    """
    if goal not in GOAL_CHOICES:
        raise unknown_name("goal", goal, GOAL_CHOICES)
    entry = _maze2d_entry(data)
    maze, dense = maze_of(entry)
    env_id = f"PointMaze_{_POINTMAZE[maze]}{'Dense' if dense else ''}-v3"
    env = _make(env_id)
    try:
        return _mapped(data, goal, maze, env_id, env.unwrapped)
    finally:
        env.close()


def _mapped(data: Dataset, goal: str, maze: str, env_id: str, env: Any) -> Dataset:
    walls = np.array([[cell == 1 for cell in row] for row in env.maze.maze_map])
    shape = (walls.shape[0], walls.shape[1])
    state, following = _state(data.observations, shape), _state(data.next_observations, shape)
    for states in (state, following):
        _require_free(states[:, :2], walls, env_id)
    if goal == "task":
        target = np.broadcast_to(position_to_pointmaze(np.array(GOALS[maze], np.float64), shape), (len(data), 2))
    elif data.extras.get("goal", np.empty(0)).shape == (len(data), 2):
        target = position_to_pointmaze(data.extras["goal"].astype(np.float64), shape)
    else:
        raise DataError("the file has no infos/goal: use goal='task'")
    rewards = env.compute_reward(following[:, :2], target, {})
    extras = dict(data.extras)
    for name, convert in (("goal", None), ("qpos", None), ("qvel", vector_to_pointmaze)):
        if name in extras and extras[name].shape == (len(data), 2):
            column = extras[name].astype(np.float64)
            mapped = position_to_pointmaze(column, shape) if convert is None else convert(column)
            extras[name] = mapped.astype(np.float32)
    metadata = dataclasses.replace(data.metadata, env=env_id, generation="rlopt", reference_returns=None)
    return Dataset(
        observations=_goal_dictionary(state, target),
        actions=np.ascontiguousarray(vector_to_pointmaze(data.actions)),
        rewards=np.asarray(rewards, np.float32),
        next_observations=_goal_dictionary(following, target),
        discounts=np.ones(len(data), np.float32),
        episode_ends=data.episode_ends,
        metadata=metadata.noted(
            f"mapped from {data.metadata.env} into the frame of {env_id}; rewards by its own function, goal={goal!r}"
        ),
        extras=extras,
    )


def _maze2d_entry(data: Dataset) -> D4RLName:
    metadata = data.metadata
    if metadata.generation != "d4rl" or not metadata.env.startswith("maze2d-"):
        raise DataError(f"this data set is of {metadata.env} ({metadata.generation}): only D4RL's maze2d can be mapped")
    return d4rl_name(metadata.env)


def _make(env_id: str) -> Any:
    import gymnasium

    from rlopt.envs.names import register

    register(env_id)
    try:
        return gymnasium.make(env_id, disable_env_checker=True)
    except ImportError as error:
        raise ConfigError(f"{env_id} cannot be made ({error}): pip install 'rlopt[d4rl]'") from None


def _state(observations: Any, shape: tuple[int, int]) -> np.ndarray:
    observations = observations.astype(np.float64)
    return np.concatenate(
        (position_to_pointmaze(observations[:, :2], shape), vector_to_pointmaze(observations[:, 2:])), axis=1
    )


def _require_free(position: np.ndarray, walls: np.ndarray, env_id: str) -> None:
    rows = np.floor(walls.shape[0] / 2 - position[:, 1]).astype(np.int64)
    columns = np.floor(position[:, 0] + walls.shape[1] / 2).astype(np.int64)
    inside = (rows >= 0) & (rows < walls.shape[0]) & (columns >= 0) & (columns < walls.shape[1])
    free = inside.copy()
    free[inside] = ~walls[rows[inside], columns[inside]]
    if not free.all():
        raise DataError(
            f"{int((~free).sum())} of {len(free)} positions lie inside the walls of {env_id}, first in row "
            f"{int((~free).argmax())}: this is the data set of another maze"
        )


def _goal_dictionary(state: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "observation": state.astype(np.float32),
        "achieved_goal": state[:, :2].astype(np.float32),
        "desired_goal": np.asarray(target, np.float32).copy(),
    }
