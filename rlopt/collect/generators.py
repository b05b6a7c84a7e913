"""Data sets that rlopt makes itself, because nothing can be hosted: name -> function. Imports no simulator."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rlopt.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from rlopt.data.dataset import Dataset


@dataclass(frozen=True)
class Option:
    """A setting of a generator beyond its size and seed; a keyword argument of its function."""

    kind: type
    """int, float, bool or str; a bool is a flag of the command line that sets True."""
    default: Any
    help: str


@dataclass(frozen=True)
class Generator:
    """How a data set is made."""

    function: str
    """``module:name`` of a function ``(n, *, seed, **fixed, **options) -> Dataset``."""
    summary: str
    """One line for ``rlopt data generate --help``."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments that belong to the name."""
    options: Mapping[str, Option] = field(default_factory=dict)
    """Keyword arguments that a user may choose."""


_POINT_MAZE_OPTIONS = {
    "noise": Option(float, 0.5, "standard deviation of the noise on the controller's action, >= 0"),
    "n_envs": Option(int, None, "simulators stepped together (default: by the size, up to 64)"),
    "backend": Option(str, "auto", "auto, envpool or gymnasium"),
    "goal_in_observation": Option(bool, False, "append the goal to the observations: 6 numbers instead of 4"),
}


def _point_maze(name: str) -> Generator:
    return Generator(
        "rlopt.collect.point_maze:generate_point_maze",
        f"PointMaze_{name}: a planner, a PD controller and noise walk between random cells",
        {"maze": name},
        _POINT_MAZE_OPTIONS,
    )


_ANT_MAZE_OPTIONS = {"noise": Option(float, 0.1, "standard deviation of the noise on the torques, >= 0")}


def _ant_maze(name: str, kind: str) -> Generator:
    cells = "dead ends, corners and junctions" if kind == "play" else "any cells"
    return Generator(
        "rlopt.collect.ant_maze:generate_ant_maze",
        f"AntMaze_{name}: a planner and a scripted trot walk between {cells}",
        {"maze": name, "kind": kind},
        _ANT_MAZE_OPTIONS,
    )


_PARKING_OPTIONS = {
    "noise": Option(float, 0.3, "standard deviation of the noise on the planner's action, >= 0"),
    "n_envs": Option(int, 1, "lots stepped together"),
    "backend": Option(str, "auto", "auto, envpool or gymnasium"),
}
_SNAPSHOT_OPTIONS = {
    "run": Option(str, None, "run folder of rlopt train in this task, or several with commas between"),
    "medium_fraction": Option(float, 1 / 3, "share of the way from random to expert return that is medium, in (0, 1)"),
    "tolerance": Option(float, 0.1, "largest distance from that share, > 0"),
    "episodes": Option(int, 10, "episodes that tell the return of a checkpoint"),
    "n_envs": Option(int, 8, "environments stepped together"),
    "backend": Option(str, "auto", "auto, envpool or gymnasium"),
}
_LEVELS = {
    "random": "uniformly random actions",
    "medium": "the checkpoint of a run whose return is nearest to a third of the expert's",
    "medium-replay": "what a run collected up to its medium checkpoint",
    "expert": "the best checkpoint of a run",
}


def _snapshots(task: str, env_id: str) -> dict[str, Generator]:
    return {
        f"mujoco-{task}-{level}": Generator(
            "rlopt.collect.snapshots:generate_snapshots",
            f"{env_id}: {summary}",
            {"env_id": env_id, "level": level},
            _SNAPSHOT_OPTIONS,
        )
        for level, summary in _LEVELS.items()
    }


GENERATORS: dict[str, Generator] = {
    "pointmaze-umaze": _point_maze("UMaze"),
    "pointmaze-medium": _point_maze("Medium"),
    "pointmaze-large": _point_maze("Large"),
    **{
        f"antmaze-{name.lower()}-{kind}": _ant_maze(name, kind)
        for name in ("UMaze", "Medium", "Large")
        for kind in ("play", "diverse")
    },
    "parking": Generator(
        "rlopt.collect.parking:generate_parking",
        "parking-v0: a planner that knows the car's equations drives to the spot, with noise",
        options=_PARKING_OPTIONS,
    ),
    **_snapshots("halfcheetah", "HalfCheetah-v5"),
    **_snapshots("hopper", "Hopper-v5"),
    **_snapshots("walker2d", "Walker2d-v5"),
}
"""Name -> generator; another family of data sets is another entry."""


def generator(name: str) -> Generator:
    """The generator of that name; raises :class:`rlopt.errors.UnknownNameError` with the nearest one."""
    if name not in GENERATORS:
        raise unknown_name("data set to generate", name, GENERATORS)
    return GENERATORS[name]


def check_size(n: Any, seed: Any) -> None:
    """Raises :class:`rlopt.errors.ConfigError` unless a data set of ``n`` transitions can be drawn from ``seed``."""
    if isinstance(n, bool) or not hasattr(n, "__index__") or n < 1:
        raise ConfigError(f"n must be a whole number of transitions from 1, got {n!r}")
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or seed < 0:
        raise ConfigError(f"seed must be a whole number from 0, got {seed!r}")


def generate(name: str, n: int, *, seed: int = 0, **options: Any) -> Dataset:
    """Makes the data set ``name`` with ``n`` transitions, the same ones for the same arguments and versions.

    :param options: of that generator, see :data:`GENERATORS`
    :raises UnknownNameError: for a name or an option that does not exist
    :raises ConfigError: for a value out of range
    """
    spec = generator(name)
    for option in options:
        if option not in spec.options:
            raise unknown_name(f"option of {name}", option, spec.options)
    check_size(n, seed)
    module, _, function = spec.function.partition(":")
    make: Callable[..., Dataset] = getattr(importlib.import_module(module), function)
    return make(int(n), seed=seed, **spec.fixed, **options)
