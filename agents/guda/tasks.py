"""From a data set and settings to a domain, an augmentation and a guide. Imports no torch."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from rlopt.agents.guda.augmentations import Augmentation, Guide, Operation, Reflect, RelabelGoal, Rotate
from rlopt.agents.guda.config import GuDAConfig
from rlopt.agents.guda.domains import Domain
from rlopt.agents.guda.generation import augment, with_source
from rlopt.agents.guda.goal_domains import BallToGoal, Fetch, Parking
from rlopt.agents.guda.guides import BallInGoal, BallToward, ParkAtGoal, ReachedGoal, ShortestPath
from rlopt.agents.guda.maze_data import goal_cell, in_our_frame, maze_domain, maze_kind
from rlopt.agents.guda.maze_domains import AntMaze, MazeDomain, PointMaze
from rlopt.data.dataset import Dataset
from rlopt.envs import names
from rlopt.errors import AugmentationError, PluginError, unknown_name
from rlopt.registry import load_plugin, plugin_names, plugin_origin, refuse_claims
from rlopt.settings.fields import check_settings

GROUP = "rlopt.augmentations"
"""Entry points that each name the :class:`Task` of a domain; the entry point's name is the domain's."""


@dataclass(frozen=True)
class Setup:
    """What :func:`set_up` found."""

    augmentation: Augmentation
    guide: Guide | None
    """None is the random arm."""
    segment_length: int | None
    """None is whole episodes."""
    simulated: float
    """Share of the transitions that the simulator makes from rest."""
    dataset: Dataset
    """The recorded transitions in the domain's frame."""

    def augment(self, n: int, seed: int) -> Dataset:
        """``n`` augmented transitions; raises as :func:`rlopt.agents.guda.generation.augment` does."""
        return augment(
            self.dataset,
            self.augmentation,
            self.guide,
            n,
            seed,
            segment_length=self.segment_length,
            simulated=self.simulated,
        )


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
    simulated: float = 0.0
    """Share of the transitions that the simulator makes from rest."""


def _shortest_path(domain: Domain, config: GuDAConfig, dataset: Dataset) -> Guide:
    assert isinstance(domain, MazeDomain)
    each = config.goal_cell is None and not _one_goal(domain, dataset)
    return ShortestPath(domain.maze, None if each else goal_cell(domain.maze, dataset, config.goal_cell))


TASKS: dict[str, Task] = {
    "pointmaze": Task(
        ("rlopt/PointMaze_", "PointMaze_"),
        lambda dataset, config: maze_domain(dataset, config, PointMaze),
        {"shortest-path": _shortest_path},
        8,
        simulated=0.2,
    ),
    "antmaze": Task(
        ("rlopt/AntMaze_", "AntMaze_"),
        lambda dataset, config: maze_domain(dataset, config, AntMaze),
        {"shortest-path": _shortest_path},
        8,
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
    kind = maze_kind(dataset.metadata.env)
    if kind is not None:
        return kind
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
        raise PluginError(f"augmentation {name!r} of {plugin_origin(GROUP, name)} is not a Task: fix or uninstall it")
    return task


def set_up(dataset: Dataset, config: GuDAConfig) -> Setup:
    """The augmentation and guide for a data set.

    :raises AugmentationError: a data set that no domain or not this one fits
    :raises ConfigError: a setting out of range, a guide or an operation that the domain does not have, a maze without a
        known goal
    """
    check_settings(config)
    if config.env:
        names.register(config.env)
        dataset = dataclasses.replace(dataset, metadata=dataclasses.replace(dataset.metadata, env=config.env))
    dataset = in_our_frame(dataset)
    name = domain_name(dataset, config)
    task = task_of(name)
    domain = task.domain(dataset, config)
    domain.check(dataset)
    own = domain.augmentation()  # type: ignore[attr-defined]
    operations = _operations(own, config)
    if isinstance(domain, MazeDomain) and (config.goal_cell is not None or not _one_goal(domain, dataset)):
        operations += [RelabelGoal()] if domain.goal_columns is not None else []
    augmentation = Augmentation(domain, *operations, anchor=own.anchor)
    length = config.segment_length
    if length is None:
        longest = int(np.diff(np.flatnonzero(dataset.episode_ends), prepend=-1).max())
        length = min(task.segment_length, longest)
    chosen = next(iter(task.guides), "random") if config.guide == "default" else config.guide
    if chosen not in ("random", *task.guides):
        raise unknown_name(f"guide of the domain {name}", chosen, ["random", *task.guides])
    guide = None if chosen == "random" else task.guides[chosen](domain, config, dataset)
    simulated = task.simulated if config.simulated is None else config.simulated
    return Setup(augmentation, guide, length or None, simulated, dataset)


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
    setup = set_up(dataset, config)
    if config.method == "learned-dynamics":
        from rlopt.agents.guda.learned_dynamics import augment_with_model

        made = augment_with_model(setup.dataset, setup.augmentation.domain, n=config.n, seed=config.seed)
    else:
        made = setup.augment(config.n, config.seed)
    return with_source(setup.dataset, made) if config.include_source else made
