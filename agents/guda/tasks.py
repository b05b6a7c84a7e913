"""From a data set and settings to a domain, an augmentation and a guide. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from rlopt.agents.guda.augmentations import Augmentation, Guide, Operation, Reflect, RelabelGoal, Rotate
from rlopt.agents.guda.config import GuDAConfig
from rlopt.agents.guda.domains import Domain
from rlopt.agents.guda.generation import augment, with_source
from rlopt.agents.guda.goal_domains import BallToGoal, Fetch, Parking
from rlopt.agents.guda.guides import BallInGoal, BallToward, ParkAtGoal, ReachedGoal, ShortestPath
from rlopt.agents.guda.maze_domains import AntMaze, MazeDomain, PointMaze
from rlopt.data.dataset import Dataset
from rlopt.envs.tasks.mazes import Maze
from rlopt.envs.tasks.own_tasks import FIXED_GOAL_MAZES
from rlopt.errors import AugmentationError, ConfigError, PluginError, unknown_name
from rlopt.registry import load_plugin, plugin_names, plugin_origin, refuse_claims
from rlopt.settings.fields import check_settings

GROUP = "rlopt.augmentations"
"""Entry points that each name the :class:`Task` of a domain; the entry point's name is the domain's."""
ANT_GOALS = {"UMaze": (3, 1), "Medium": (6, 6), "Large": (7, 9)}
"""D4RL's goal cells in the ant mazes of these names."""


@dataclass(frozen=True)
class Setup:
    """What :func:`set_up` found."""

    augmentation: Augmentation
    guide: Guide | None
    """None is the random arm."""
    segment_length: int | None
    """None is whole episodes."""


@dataclass(frozen=True)
class Task:
    """How a domain is made and what it offers."""

    prefixes: tuple[str, ...]
    """Beginnings of the environment ids that it belongs to."""
    domain: Callable[[Dataset, GuDAConfig], Domain]
    guides: Mapping[str, Callable[[Domain, GuDAConfig, Dataset], Guide]]
    """By name; the first is the default, without any it is random."""
    segment_length: int
    """0: whole episodes."""


def _maze(dataset: Dataset, config: GuDAConfig, kind: type[PointMaze] | type[AntMaze], state: int) -> Domain:
    observations = dataset.observations
    width = observations.shape[1] if isinstance(observations, np.ndarray) and observations.ndim == 2 else 0
    observed = isinstance(observations, dict) or width == state + 2
    env_id = dataset.metadata.env
    maze = Maze.from_id(env_id)
    if not env_id.startswith(TASKS[kind.name].prefixes):
        raise AugmentationError(f"the domain {kind.name} does not fit data of {env_id}: choose the one that does")
    # The cell only places the goal where observations do not have it.
    goal = (0.0, 0.0) if observed else maze.cell_to_xy(_goal_cell(maze, dataset, config.goal_cell))
    return kind(maze, goal, goal_in_observation=observed, dense="Dense" in env_id)


def _goal_cell(maze: Maze, dataset: Dataset, wanted: tuple[int, ...] | None) -> tuple[int, int]:
    """The goal cell that is asked for, or that of the data set's environment."""
    env_id = dataset.metadata.env
    if wanted is not None:
        return maze.require_free(wanted, "the goal cell")
    goals = dataset.extras.get("goal")
    if isinstance(dataset.observations, dict):
        goals = dataset.observations.get("desired_goal", goals)
    if goals is not None and goals.shape == (len(dataset), 2) and (goals == goals[0]).all():
        row, column = maze.xy_to_cell(goals[0]).tolist()
        return maze.require_free((row, column), "the goal cell of the data set's column 'goal'")
    if env_id in FIXED_GOAL_MAZES:
        return FIXED_GOAL_MAZES[env_id].goal_cell
    name = env_id.partition("_")[2].partition("-")[0].removesuffix("Dense")
    for task in FIXED_GOAL_MAZES.values():
        if env_id.startswith("PointMaze_") and task.base == f"PointMaze_{name}-v3":
            return task.goal_cell
    if env_id.startswith("AntMaze_") and name in ANT_GOALS:
        return ANT_GOALS[name]
    raise ConfigError(f"which cell of {env_id} is the goal? give --goal-cell ROW COLUMN")


def _shortest_path(domain: Domain, config: GuDAConfig, dataset: Dataset) -> Guide:
    maze = domain.maze  # type: ignore[attr-defined]
    return ShortestPath(maze, _goal_cell(maze, dataset, config.goal_cell))


TASKS: dict[str, Task] = {
    "pointmaze": Task(
        ("rlopt/PointMaze_", "PointMaze_"),
        lambda dataset, config: _maze(dataset, config, PointMaze, 4),
        {"shortest-path": _shortest_path},
        1,
    ),
    "antmaze": Task(
        ("AntMaze_",), lambda dataset, config: _maze(dataset, config, AntMaze, 29), {"shortest-path": _shortest_path}, 8
    ),
    "parking": Task(
        ("parking-",),
        lambda dataset, config: Parking(),
        {"park-at-goal": lambda domain, config, dataset: ParkAtGoal()},
        0,
    ),
    "ball": Task(
        ("rlopt/BallToGoal-",),
        lambda dataset, config: BallToGoal(),
        {
            "ball-toward-goal": lambda domain, config, dataset: BallToward(),
            "ball-in-goal": lambda domain, config, dataset: BallInGoal(),
        },
        8,
    ),
    "fetch": Task(
        ("Fetch",),
        lambda dataset, config: Fetch(dataset, dense="Dense" in dataset.metadata.env),
        {"reached-goal": lambda domain, config, dataset: ReachedGoal()},
        1,
    ),
}
"""Our domains by the name that ``--domain`` gives them."""


def domain_name(dataset: Dataset, config: GuDAConfig) -> str:
    """The name of the domain that belongs to the data set; raises :class:`rlopt.errors.AugmentationError` if none."""
    if config.domain != "auto":
        return config.domain
    broken = ""
    for name in task_names():
        try:
            if dataset.metadata.env.startswith(task_of(name).prefixes):
                return name
        except PluginError as error:  # which is no reason to give up the others
            broken = f"; {error}"
    raise AugmentationError(
        f"no augmentation is known for {dataset.metadata.env}: give --domain, one of {', '.join(task_names())}, "
        f"or write a Domain{broken}"
    )


def task_names() -> list[str]:
    """The domains by name: ours, then those of installed distributions."""
    return [*TASKS, *(name for name in plugin_names(GROUP) if name not in TASKS)]


def task_of(name: str) -> Task:
    """The domain of that name.

    :raises rlopt.errors.UnknownNameError: there is none, with the nearest name
    :raises rlopt.errors.PluginError: two distributions claim the name, or its plug-in is broken
    """
    if name in TASKS:
        refuse_claims(GROUP, name)
        return TASKS[name]
    if name not in plugin_names(GROUP):
        raise unknown_name("domain", name, ["auto", *task_names()])
    task = load_plugin(GROUP, name)
    if not isinstance(task, Task):
        raise PluginError(f"augmentation {name!r} of {plugin_origin(GROUP, name)} is no Task: mend or uninstall it")
    return task


def set_up(dataset: Dataset, config: GuDAConfig) -> Setup:
    """The augmentation and guide for a data set.

    :raises AugmentationError: a data set that no domain or not this one fits
    :raises ConfigError: a setting out of range, a guide or an operation that the domain does not have, a maze without a
        known goal
    """
    check_settings(config)
    name = domain_name(dataset, config)
    task = task_of(name)
    domain = task.domain(dataset, config)
    domain.check(dataset)
    own = domain.augmentation()  # type: ignore[attr-defined]
    operations = _operations(own, config)
    if isinstance(domain, MazeDomain) and (config.goal_cell is not None or not _one_goal(domain, dataset)):
        operations += [RelabelGoal()] if domain.goal_columns is not None else []
    augmentation = Augmentation(domain, *operations, anchor=own.anchor)
    length = task.segment_length if config.segment_length is None else config.segment_length
    chosen = next(iter(task.guides), "random") if config.guide == "default" else config.guide
    if chosen == "random":
        return Setup(augmentation, None, length or None)
    if chosen not in task.guides:
        raise unknown_name(f"guide of the domain {name}", chosen, ["random", *task.guides])
    return Setup(augmentation, task.guides[chosen](domain, config, dataset), length or None)


def _one_goal(domain: Domain, dataset: Dataset) -> bool:
    """Whether all transitions have the same goal."""
    if domain.goal_columns is None:
        return True
    goals = domain.flat(dataset.observations)[:, domain.goal_columns]
    return bool((goals == goals[0]).all())


def _operations(own: Augmentation, config: GuDAConfig) -> list[Operation]:
    """The domain's own operations as the settings change them."""
    operations = [
        operation for operation in own.operations if config.rotate == "default" or not isinstance(operation, Rotate)
    ]
    if config.rotate in ("quarter", "any"):
        operations.append(Rotate(quarter=config.rotate == "quarter"))
    if config.reflect and not any(isinstance(operation, Reflect) for operation in operations):
        operations.append(Reflect())
    return operations


def make_augmented(dataset: Dataset, config: GuDAConfig) -> Dataset:
    """The data set that ``config`` describes, with the recorded transitions first if it says so.

    :raises AugmentationError: see :func:`set_up` and :func:`rlopt.agents.guda.generation.augment`
    :raises ConfigError: see there
    """
    if config.method == "learned-dynamics":
        from rlopt.agents.guda.learned_dynamics import augment_with_model

        made = augment_with_model(dataset, set_up(dataset, config).augmentation.domain, n=config.n, seed=config.seed)
    else:
        setup = set_up(dataset, config)
        made = augment(
            dataset, setup.augmentation, setup.guide, config.n, config.seed, segment_length=setup.segment_length
        )
    return with_source(dataset, made) if config.include_source else made
