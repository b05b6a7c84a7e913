"""D4RL's data set names: which file each is, where it was published, and what its transitions look like.

The names, files, limits and addresses are those of D4RL's public tables (``d4rl/infos.py`` and its environment
registrations). A file is looked up in ``RLOPT_DATA_DIR`` or ``~/.d4rl/datasets``, where D4RL itself kept it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from rlopt.errors import unknown_name

DATA_DIR_VARIABLE = "RLOPT_DATA_DIR"
PUBLISHED_AT = "http://rail.eecs.berkeley.edu/datasets/offline_rl"


@dataclass(frozen=True)
class D4RLName:
    """What is known about a data set from its name."""

    name: str
    family: str
    """``gym``, ``maze2d``, ``antmaze``, ``adroit`` or ``kitchen``."""
    path: str | None
    """Folder and file below :data:`PUBLISHED_AT`; None where the published address is not known."""
    file: str
    """Name of the file on this machine."""
    observation_size: int
    action_size: int
    max_episode_steps: int

    @property
    def url(self) -> str | None:
        """The published address; None if it is not known."""
        return None if self.path is None else f"{PUBLISHED_AT}/{self.path}"


_GYM = {"hopper": (11, 3), "halfcheetah": (17, 6), "walker2d": (17, 6), "ant": (111, 8)}
_ADROIT = {"pen": (45, 24, 100), "door": (39, 28, 200), "hammer": (46, 26, 200), "relocate": (39, 30, 200)}
_MAZE2D_STEPS = {"open": 150, "umaze": 300, "medium": 600, "large": 800}
_ANTMAZE = {
    "umaze": ("u-maze", False, False),
    "umaze-diverse": ("u-maze", True, True),
    "medium-play": ("big-maze", True, False),
    "medium-diverse": ("big-maze", True, True),
    "large-play": ("hardest-maze", True, False),
    "large-diverse": ("hardest-maze", True, True),
}
_KITCHEN = {
    "complete": "mini_kitchen_microwave_kettle_light_slider-v0.hdf5",
    "partial": "kitchen_microwave_kettle_light_slider-v0.hdf5",
    "mixed": "kitchen_microwave_kettle_bottomburner_light-v0.hdf5",
}
_GYM_KINDS = ("random", "medium", "expert", "medium-replay", "medium-expert")


def _table() -> dict[str, D4RLName]:
    table: dict[str, D4RLName] = {}

    def add(name: str, family: str, folder: str, file: str, sizes: tuple[int, int], steps: int) -> None:
        table[name] = D4RLName(name, family, f"{folder}/{file}", file, *sizes, steps)

    for agent, sizes in _GYM.items():
        for kind in _GYM_KINDS:
            short = "walker" if (agent, kind) == ("walker2d", "medium-replay") else agent
            old = "mixed" if kind == "medium-replay" else kind.replace("-", "_")
            add(f"{agent}-{kind}-v0", "gym", "gym_mujoco", f"{short}_{old}.hdf5", sizes, 1000)
        for version in ("v1", "v2"):
            for kind in (*_GYM_KINDS, "full-replay"):
                file = f"{agent}_{kind.replace('-', '_')}-{version}.hdf5"
                add(f"{agent}-{kind}-{version}", "gym", f"gym_mujoco_{version}", file, sizes, 1000)
    for maze, steps in _MAZE2D_STEPS.items():
        version, suffix = ("v0", "") if maze == "open" else ("v1", "-v1")
        for dense, reward in (("", "sparse"), ("-dense", "dense")):
            file = f"maze2d-{maze}-{reward}{suffix}.hdf5"
            add(f"maze2d-{maze}{dense}-{version}", "maze2d", "maze2d", file, (4, 2), steps)
    for kind, (maze, starts, goals) in _ANTMAZE.items():
        stem = f"Ant_maze_{maze}_noisy_multistart_{starts}_multigoal_{goals}_sparse"
        steps = 700 if maze == "u-maze" else 1000
        add(f"antmaze-{kind}-v0", "antmaze", "ant_maze_new", f"{stem}.hdf5", (29, 8), steps)
        add(f"antmaze-{kind}-v2", "antmaze", "ant_maze_v2", f"{stem}_fixed.hdf5", (29, 8), steps)
    for hand, (observation, action, steps) in _ADROIT.items():
        old_files = {
            "human": f"{hand}-v0_demos_clipped.hdf5",
            "cloned": f"{hand}-demos-v0-bc-combined.hdf5",
            "expert": f"{hand}-v0_expert_clipped.hdf5",
        }
        for kind, file in old_files.items():
            add(f"{hand}-{kind}-v0", "adroit", "hand_dapg", file, (observation, action), steps)
            name = f"{hand}-{kind}-v1"
            add(name, "adroit", "hand_dapg_v1", f"{name}.hdf5", (observation, action), steps)
    for kind, file in _KITCHEN.items():
        add(f"kitchen-{kind}-v0", "kitchen", "kitchen", file, (60, 9), 280)
    for kind in _ANTMAZE:
        steps = 700 if kind.startswith("umaze") else 1000
        name = f"antmaze-{kind}-v1"
        table[name] = D4RLName(name, "antmaze", None, f"{name}.hdf5", 29, 8, steps)
    return table


D4RL_NAMES: dict[str, D4RLName] = _table()


def d4rl_name(name: str) -> D4RLName:
    """The entry of ``name``; raises :class:`rlopt.errors.UnknownNameError` with the nearest name."""
    if name not in D4RL_NAMES:
        raise unknown_name("D4RL data set", name, D4RL_NAMES)
    return D4RL_NAMES[name]


_IN_GYMNASIUM = {"hopper": "Hopper", "halfcheetah": "HalfCheetah", "walker2d": "Walker2d"}
"""D4RL's agents whose observations and actions are those of Gymnasium's newest version."""


def gymnasium_id(name: str) -> str | None:
    """Gymnasium's newest environment with the spaces of a D4RL data set; None where it has none.

    Its rewards differ from those of the version that D4RL recorded in.
    """
    from gymnasium import registry

    agent = _IN_GYMNASIUM.get(name.partition("-")[0], "none") if name in D4RL_NAMES else "none"
    versions = [int(each.rpartition("-v")[2]) for each in registry if each.rpartition("-v")[0] == agent]
    return f"{agent}-v{max(versions)}" if versions else None


def name_of_file(file: str | Path) -> D4RLName | None:
    """The data set that a file of this name is, if D4RL published one of that name."""
    found = [entry for entry in D4RL_NAMES.values() if Path(file).name in (entry.file, f"{entry.name}.hdf5")]
    return found[0] if found else None


def data_dir() -> Path:
    """Where data set files are looked up and downloaded to."""
    return Path(os.environ.get(DATA_DIR_VARIABLE) or Path.home() / ".d4rl" / "datasets").expanduser()


def local_file(entry: D4RLName) -> Path:
    """Where the file of ``entry`` is, or would be; ``<name>.hdf5`` is accepted besides D4RL's file name."""
    plain = data_dir() / f"{entry.name}.hdf5"
    return plain if plain.exists() else data_dir() / entry.file
