"""What a data set says of its maze: map, goals, rewards, ends. Imports no simulator."""

import dataclasses
from typing import Any

import numpy as np

from rlopt.agents.guda.config import GuDAConfig
from rlopt.agents.guda.maze_domains import AntMaze, MazeDomain, PointMaze
from rlopt.data.dataset import Dataset
from rlopt.data.names import D4RL_NAMES
from rlopt.envs.names import check_id, register
from rlopt.envs.tasks.mazes import Maze, is_ant_maze, registered_maze
from rlopt.envs.tasks.own_tasks import FIXED_GOAL_ANT_MAZES, FIXED_GOAL_MAZES, FixedGoalAntMaze, FixedGoalMaze
from rlopt.errors import AugmentationError, ConfigError
from rlopt.registry import refuse_import

D4RL_RADIUS = 0.5
"""Metres from the goal within which D4RL's ant has arrived."""
_STATE = {"pointmaze": 4, "antmaze": 29}
"""Numbers of an observation without the goal."""


def maze_kind(env_id: str) -> str | None:
    """``pointmaze`` or ``antmaze`` for D4RL's names and registered environments with a maze map; None for others."""
    if env_id in D4RL_NAMES:
        return {"maze2d": "pointmaze", "antmaze": "antmaze"}.get(D4RL_NAMES[env_id].family)
    try:
        refuse_import(env_id, "the data set")
        check_id(env_id)
        register(env_id)
        if "maze_map" not in registered_maze(env_id):
            return None
    except ConfigError:
        return None
    return "antmaze" if is_ant_maze(env_id) else "pointmaze"


def in_our_frame(dataset: Dataset) -> Dataset:
    """A data set of D4RL's maze2d as one of ``rlopt/PointMaze_*-v0``, the same maze and goal; others as they are."""
    env_id = dataset.metadata.env
    if env_id not in D4RL_NAMES or D4RL_NAMES[env_id].family != "maze2d":
        return dataset
    from rlopt.data.formats.maze2d import to_pointmaze

    mapped = to_pointmaze(dataset, "task")
    same = [ours for ours, maze in FIXED_GOAL_MAZES.items() if maze.base == mapped.metadata.env]
    if not same:
        return mapped
    columns = mapped.columns()
    for name in ("observations", "next_observations"):
        columns[name] = columns[name]["observation"]
    references = FIXED_GOAL_MAZES[same[0]].reference_returns
    metadata = dataclasses.replace(
        mapped.metadata, env=same[0], env_kwargs={}, reference_returns=references, observation_space=None
    )
    return Dataset(**columns, metadata=metadata)


def maze_domain(dataset: Dataset, config: GuDAConfig, kind: type[PointMaze] | type[AntMaze]) -> MazeDomain:
    """The domain of a maze data set: on its own map, with its own goals, rewards and ends.

    :raises AugmentationError: terminals that are not at the goal, or a maze of the other kind
    :raises ConfigError: no maze, or a goal that is not known
    """
    env_id = dataset.metadata.env
    refuse_import(env_id, "the data set")
    state = _STATE[kind.name]
    observations = dataset.observations
    width = observations.shape[1] if isinstance(observations, np.ndarray) and observations.ndim == 2 else 0
    observed = isinstance(observations, dict) or width == state + 2
    settings: dict[str, Any] = {"goal_in_observation": observed, "dense": "Dense" in env_id}
    if env_id in D4RL_NAMES and D4RL_NAMES[env_id].family == "antmaze":
        maze, kwargs = _d4rl_ant_maze(env_id), {"continuing_task": False}
        settings["radius"] = D4RL_RADIUS
    else:
        own = dataset.metadata.env_kwargs
        maze = Maze.from_id(env_id, own.get("maze_map"))
        # Our ant mazes end at the goal.
        kwargs = {"continuing_task": env_id not in FIXED_GOAL_ANT_MAZES, **registered_maze(env_id), **own}
        settings["dense"] = kwargs.get("reward_type", "dense" if settings["dense"] else "sparse") == "dense"
    if maze_kind(env_id) not in (None, kind.name):
        raise AugmentationError(f"the domain {kind.name} does not fit data of {env_id}: choose the one that does")
    settings["continuing"] = kwargs.get("continuing_task", True) and not (dataset.discounts == 0).any()
    domain = kind(maze, (0.0, 0.0), **settings)
    if not observed:
        domain.goal = _goal(maze, dataset, config.goal_cell)
    domain.check(dataset)
    _check_terminals(domain, dataset)
    return domain


def _check_terminals(domain: MazeDomain, dataset: Dataset) -> None:
    """Moved transitions end at the goal alone, so the recorded ones must."""
    terminal = dataset.discounts == 0
    goals = _recorded_goals(domain, dataset)
    if not terminal.any() or goals is None:
        return
    arrived = domain.flat(dataset.next_observations)[terminal, :2]
    away = np.linalg.norm(arrived - goals[terminal], axis=1) > domain.radius + 1e-3
    if away.any():
        raise AugmentationError(
            f"{away.sum()} of {terminal.sum()} terminal transitions end away from the goal, first in row "
            f"{np.flatnonzero(terminal)[away.argmax()]}, and moved ones would not know why: leave their episodes out, "
            "or mark them as truncated"
        )


def _recorded_goals(domain: MazeDomain, dataset: Dataset) -> np.ndarray | None:
    """The goal of each row, [N, 2]; None where the data set does not tell."""
    if domain.goal_columns is not None:
        return domain.flat(dataset.next_observations)[:, domain.goal_columns]
    goals = dataset.extras.get("goal")
    return goals if goals is not None and goals.shape == (len(dataset), 2) else None


def _one_goal(goals: np.ndarray | None, dataset: Dataset) -> np.ndarray | None:
    """The goal in the plane that all rows have, [2]; None where they do not have the same."""
    if goals is None or goals.shape != (len(dataset), 2) or not (goals == goals[0]).all():
        return None
    return goals[0]


def _goal(maze: Maze, dataset: Dataset, wanted: tuple[int, ...] | None) -> np.ndarray:
    """The one goal's place, [2] float32: as recorded if it is, else the centre of its cell."""
    recorded = _one_goal(dataset.extras.get("goal"), dataset)
    if wanted is None and recorded is not None:
        return recorded.astype(np.float32)
    return maze.cell_to_xy(goal_cell(maze, dataset, wanted)).astype(np.float32)


def goal_cell(maze: Maze, dataset: Dataset, wanted: tuple[int, ...] | None) -> tuple[int, int]:
    """The goal cell that is asked for, or that of the data set's environment.

    :raises ConfigError: it is not known, or a wall
    """
    env_id = dataset.metadata.env
    if wanted is not None:
        return maze.require_free(wanted, "the goal cell")
    goals = dataset.extras.get("goal")
    if isinstance(dataset.observations, dict):
        goals = dataset.observations.get("desired_goal", goals)
    recorded = _one_goal(goals, dataset)
    if recorded is not None:
        row, column = maze.xy_to_cell(recorded).tolist()
        return maze.require_free((row, column), "the goal cell of the data set's column 'goal'")
    if env_id in D4RL_NAMES:  # rows of an ant maze are the other way round, see _d4rl_ant_maze
        row, column = _d4rl_task(env_id).goal_cell
        return maze.shape[0] - 1 - row, column
    kwargs = {**registered_maze(env_id), **dataset.metadata.env_kwargs}
    marked = np.argwhere(np.array(kwargs.get("maze_map", [[0]]), dtype=object) == "g")
    own = kwargs.get("goal_cell", marked[0].tolist() if len(marked) == 1 else None)
    if own is not None:
        return maze.require_free(own, "the goal cell of the environment")
    stem = env_id.rpartition("-v")[0].removesuffix("Dense")
    tasks: tuple[FixedGoalMaze | FixedGoalAntMaze, ...] = (*FIXED_GOAL_MAZES.values(), *FIXED_GOAL_ANT_MAZES.values())
    for task in tasks:
        if stem == task.base.rpartition("-v")[0] and "maze_map" not in dataset.metadata.env_kwargs:
            return task.goal_cell
    raise ConfigError(f"which cell of {env_id} is the goal? give --goal-cell ROW COLUMN")


def _d4rl_task(env_id: str) -> FixedGoalAntMaze:
    """Our task with the map and goal of an antmaze name."""
    name = {"umaze": "UMaze", "medium": "Medium", "large": "Large"}[env_id.split("-")[1]]
    return FIXED_GOAL_ANT_MAZES[f"rlopt/AntMaze_{name}-v0"]


def _d4rl_ant_maze(env_id: str) -> Maze:
    """D4RL's map of an antmaze name in D4RL's frame: cell (1, 1) at the origin, x a column on, y a row on.

    Our rows go the other way, so the map is upside down.
    """
    maze = Maze.from_id(_d4rl_task(env_id).base)
    rows, columns = maze.shape
    half = maze.scale / 2
    centre = (half * columns - 1.5 * maze.scale, half * rows - 1.5 * maze.scale)
    return Maze(maze.walls[::-1].astype(int).tolist(), maze.scale, centre)
