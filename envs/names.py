"""Environment ids: where each comes from, and which one a misspelt id was meant to be.

Ids of another distribution, ``theirs/Task-v0``, come by the entry point ``theirs`` of the group ``rlopt.envs``: a
module that registers them with Gymnasium, or a function that does. It is imported when such an id is made.
"""

import contextlib
import functools
import importlib
import importlib.util
import io
import os
import re
import sys

import gymnasium

from rlopt.envs.tables import DM_CONTROL_EPISODE_STEPS, DM_CONTROL_TASKS, POOL_TASKS
from rlopt.errors import ConfigError, one_line, unknown_name
from rlopt.registry import load_plugin, plugin_names, refuse_claims

ENV_GROUP = "rlopt.envs"
DM_CONTROL_PREFIX = "dm_control/"
_ROBOTICS_PREFIXES = ("PointMaze_", "AntMaze_", "Fetch", "Hand", "Adroit", "FrankaKitchen")
_OWN_NAMESPACES = ("rlopt", "dm_control")
_OWN_ROBOTICS_PREFIXES = ("rlopt/PointMaze_", "rlopt/AntMaze_")
_OWN_TASKS = ("rlopt.envs.tasks.own_tasks", "rlopt.envs.tasks.toy")
"""Modules that register rlopt/*, imported as those of a plug-in are: when an id is looked up."""


def is_dm_control(env_id: str) -> bool:
    """Whether ``env_id`` is written as a dm_control task."""
    return env_id.startswith(DM_CONTROL_PREFIX)


def check_id(env_id: str) -> None:
    """Makes sure that ``env_id`` can be made, importing the packages that register it.

    Raises :class:`rlopt.errors.UnknownNameError` with the nearest id, or :class:`rlopt.errors.ConfigError` when the
    package that provides the environment is not installed.
    """
    for module in _OWN_TASKS:
        importlib.import_module(module)
    if is_dm_control(env_id):
        if env_id.removeprefix(DM_CONTROL_PREFIX) not in DM_CONTROL_TASKS:
            raise _unknown(env_id)
        return
    if env_id not in POOL_TASKS:
        register(env_id)


def time_limit(env_id: str) -> int | None:
    """Agent steps after which an environment that was registered ends episodes by itself, None where it does not."""
    if is_dm_control(env_id):
        return DM_CONTROL_EPISODE_STEPS
    if env_id in POOL_TASKS:
        return POOL_TASKS[env_id].episode_steps
    spec = gymnasium.registry.get(env_id.rpartition(":")[2])
    return None if spec is None else spec.max_episode_steps


def register(env_id: str) -> None:
    """Imports the package that registers a Gymnasium id; raises as :func:`check_id` does."""
    module, colon, name = env_id.rpartition(":")
    if colon:
        _import(module, env_id)
    if name.startswith(_OWN_ROBOTICS_PREFIXES):
        _register_robotics(env_id)
    if name.startswith("parking-"):
        _register_parking(env_id)
    _register_plugin(name)
    if name not in gymnasium.registry and name.startswith(_ROBOTICS_PREFIXES):
        _register_robotics(env_id)
    if name not in gymnasium.registry:
        raise _unknown(env_id)
    _refuse_retired(name)


def _register_plugin(name: str) -> None:
    """Has a plug-in register the ids of its namespace."""
    namespace, slash, _ = name.partition("/")
    if slash and namespace in _OWN_NAMESPACES:
        refuse_claims(ENV_GROUP, namespace)
    elif slash and name not in gymnasium.registry and namespace in plugin_names(ENV_GROUP):
        _register_namespace(namespace)


@functools.cache
def _register_namespace(namespace: str) -> None:
    """Once: Gymnasium warns of an id that is registered again."""
    load_plugin(ENV_GROUP, namespace, call=True)


def entry_point(env_id: str) -> str:
    """Where the class of a registered id comes from, as text."""
    return str(gymnasium.spec(env_id.rpartition(":")[2]).entry_point)


def _import(module: str, env_id: str) -> None:
    """Imports the module of a ``module:id``; the working directory is searched last, the command does not have it."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"environment {env_id!r}: cannot import {error.name!r}; install it, fix its name, or run the command in "
            f"its folder"
        ) from None
    except Exception as error:
        raise ConfigError(
            f"environment {env_id!r}: importing {module!r} failed ({type(error).__name__}: {one_line(error)})"
        ) from error


def _register_robotics(env_id: str) -> None:
    try:
        # On import it prints a notice about the Adroit tasks, whatever is made.
        with contextlib.redirect_stderr(sys.stderr if "Adroit" in env_id else io.StringIO()):
            import gymnasium_robotics
    except ModuleNotFoundError:
        raise ConfigError(f"environment {env_id!r} comes with gymnasium-robotics: pip install 'rlopt[d4rl]'") from None
    gymnasium.register_envs(gymnasium_robotics)


def _register_parking(env_id: str) -> None:
    try:
        import highway_env
    except ModuleNotFoundError:
        raise ConfigError(f"environment {env_id!r} comes with highway-env: pip install 'rlopt[parking]'") from None
    gymnasium.register_envs(highway_env)


def _unknown(env_id: str) -> Exception:
    if told := _elsewhere(env_id):
        return unknown_name("environment", env_id, (), told)
    known = [DM_CONTROL_PREFIX + task for task in DM_CONTROL_TASKS] + list(POOL_TASKS)
    known += [name for name in gymnasium.registry if not _is_retired(name)]
    module, colon, _ = env_id.rpartition(":")
    known = [f"{module}{colon}{name}" for name in known]
    hint = "write dm_control/<domain>-<task>, an id of Gymnasium, or module:id where module registers it"
    return unknown_name("environment", env_id, known, hint)


def _elsewhere(env_id: str) -> str:
    """What a well-known name is that no environment here has, however near one is; "" for any other name."""
    if env_id.startswith("minari:") or _D4RL.fullmatch(env_id):
        return "it names a data set (--dataset, --demos) and no environment: give --env, such as --env Hopper-v5"
    if env_id.startswith("ALE/") or "NoFrameskip" in env_id:
        return "Atari comes with ale-py: pip install ale-py, and write ale_py:ALE/Pong-v5"
    return ""


_D4RL = re.compile(r"(hopper|halfcheetah|walker2d|ant|maze2d|antmaze|pen|door|hammer|relocate|kitchen)-.+-v\d")
"""What D4RL's data sets are called, for those who know them by d4rl's environments of the same names."""


def _is_retired(name: str) -> bool:
    """Whether the id is in the registry only to say that it was given up, or needs the former mujoco-py."""
    entry = gymnasium.registry[name].entry_point
    if _MUJOCO_PY.search(str(entry)):
        return importlib.util.find_spec("mujoco_py") is None
    return getattr(entry, "__name__", "").startswith("_raise_")


_MUJOCO_PY = re.compile(r":MujocoPy|^gymnasium_robotics\.envs\.(mujoco\.|maze\.ant_maze_v3:)")
"""Where the classes on mujoco-py come from."""


def _refuse_retired(name: str) -> None:
    if not _is_retired(name):
        return
    stem = name.rpartition("-v")[0]
    later = [other for other in gymnasium.registry if other.rpartition("-v")[0] == stem and not _is_retired(other)]
    cure = f"take {max(later, key=lambda other: int(other.rpartition('-v')[2]))}" if later else "take another"
    raise ConfigError(f"environment {name!r} was given up by the package that made it: {cure}")
