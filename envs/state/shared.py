"""State in classes, modules and functions of environments, and what of it has changed since they were made."""

import dis
import enum
import functools
import itertools
import json
import random
import sys
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch

from rlopt.envs.state.walk import (
    CONTAINERS,
    GENERATORS,
    ITERATORS,
    PLAIN,
    WITHOUT_STATE,
    Walk,
    cell_content,
    digest_of,
    is_python,
    name_of,
    walked,
)

_LIBRARIES = sys.stdlib_module_names | {
    *("gymnasium", "gymnasium_robotics", "stable_baselines3", "rlopt", "numpy", "torch", "scipy", "matplotlib"),
    *("mujoco", "dm_control", "dm_env", "pygame", "Box2D", "highway_env", "envpool"),
}
"""Packages whose modules and classes keep no state of an environment, or too much that is not."""


class Baseline:
    """What classes, modules and large arrays held when the environments were made."""

    def __init__(self, roots: Sequence[tuple[str, Any]], kept: Iterable[Any] = ()) -> None:
        walk = walked(roots, kept)
        self._arrays = {id(array): (array, digest_of(array)) for array in walk.large}
        self._shared = {path: _fingerprint(value) for path, (_, _, value) in shared_values(walk).items()}

    def digest(self, array: np.ndarray) -> str | None:
        """The checksum of a large array that is as it was; None for another one."""
        kept = self._arrays.get(id(array))
        return kept[1] if kept is not None and kept[0] is array and digest_of(array) == kept[1] else None

    def changes(self, walk: Walk) -> tuple[list[Any], dict[str, int]]:
        """What classes and modules now hold, ``[[path, value], ...]``, and which nodes belong to them."""
        shared = shared_values(walk)
        held = shared_objects(shared)
        aliases = {path: walk.numbers[id(value)] for path, value in held.items() if id(value) in walk.numbers}
        changed = [
            [path, walk.encode(value, path)]
            for path, (_, _, value) in shared.items()
            if _fingerprint(value) != self._shared.get(path)
        ]
        return changed, aliases


def own_objects(roots: Sequence[tuple[str, Any]], kept: Iterable[Any] = ()) -> dict[int, tuple[Any, str]]:
    """What ``roots`` hold that belongs to no class and no module, with its path, by id."""
    walk = walked(roots, kept)
    others = shared_objects(shared_values(walk))
    common = {id(value) for value in (*others.values(), random._inst, np.random.mtrand._rand)}
    found = zip(walk.alive, walk.paths, strict=True)
    return {
        id(value): (value, path)
        for value, path in found
        if id(value) not in common and not isinstance(value, types.FunctionType)
    }


def shared_values(walk: Walk) -> dict[str, tuple[Any, str, Any]]:
    """What lies in the classes and modules that a walk met: path -> (its owner or None, its name there, its value)."""
    found: dict[str, tuple[Any, str, Any]] = {}
    classes = {cls for cls in walk.classes if _is_own(getattr(cls, "__module__", ""))}
    classes |= {base for cls in classes for base in cls.__mro__ if _is_own(base.__module__)}
    names = {cls.__module__ for cls in classes} | {name for name in walk.modules if name and _is_own(name)}
    for name in sorted(names):
        module = sys.modules[name]
        rebound = {name for value in vars(module).values() for name in _rebound(value, module)}
        for key, value in list(vars(module).items()):
            # A plain value that no function rebinds is a constant.
            if not key.startswith("__") and _is_data(value) and (type(value) not in PLAIN or key in rebound):
                found[f"{name}.{key}"] = (module, key, value)
            found |= _held_by(value, f"{name}.{key}", name)
    for cls in sorted(classes, key=name_of):
        if issubclass(cls, enum.Enum):
            continue
        for key, value in list(vars(cls).items()):
            if not key.startswith(("__", "_abc_")) and _is_data(value):
                found[f"{name_of(cls)}.{key}"] = (cls, key, value)
            found |= _held_by(value, f"{name_of(cls)}.{key}", cls.__module__)
    return found


def shared_objects(shared: dict[str, tuple[Any, str, Any]]) -> dict[str, Any]:
    """Every object in what :func:`shared_values` found, by path; environments that lie there are not entered."""
    walk = Walk(enter_envs=False)
    for path, (_, _, value) in shared.items():
        walk.encode(value, path)
    walk.finish()
    return dict(zip(walk.paths, walk.alive, strict=True))


def _held_by(function: Any, path: str, module: str) -> dict[str, tuple[Any, str, Any]]:
    """What a function of ``module`` keeps from call to call: attributes, closures, defaults that can change."""
    if not isinstance(function, types.FunctionType) or function.__module__ != module:
        return {}
    found: dict[str, tuple[Any, str, Any]] = {
        f"{path}.{key}": (function, key, value) for key, value in vars(function).items() if _is_data(value)
    }
    for key, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if _is_data(cell_content(cell)):
            found[f"{path}:{key}"] = (cell, "cell_contents", cell_content(cell))
    for index, value in enumerate(function.__defaults__ or ()):
        if _is_data(value) and type(value) not in PLAIN:
            found[f"{path}({index})"] = (None, "", value)
    return found


def _rebound(value: Any, module: types.ModuleType) -> Iterator[str]:
    """The names of a module that a function, or a method of a class, of it assigns to."""
    if isinstance(value, type) and getattr(value, "__module__", None) == module.__name__:  # bindings may name none
        for part in vars(value).values():
            yield from _rebound(getattr(part, "__func__", part) if not isinstance(part, type) else None, module)
    elif isinstance(value, types.FunctionType) and value.__module__ == module.__name__:
        yield from _assigned_globals(value.__code__)


@functools.lru_cache(4096)
def _assigned_globals(code: types.CodeType) -> tuple[str, ...]:
    instructions = dis.get_instructions(code)
    return tuple(str(i.argval) for i in instructions if i.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"))


def known_names(walk: Walk) -> tuple[dict[str, type], dict[str, Any]]:
    """The classes and functions that a state may name: those of live objects, and of the modules that define them."""
    classes = {name_of(cls): cls for cls in walk.classes}
    functions: dict[str, Any] = {}
    for name in {cls.__module__ for cls in walk.classes} | walk.modules:
        if name and _is_own(name):
            for value in list(vars(sys.modules[name]).values()):
                if getattr(value, "__module__", None) == name:
                    if isinstance(value, type):
                        inner = [cls for cls in vars(value).values() if isinstance(cls, type)]
                        classes |= {name_of(cls): cls for cls in (value, *inner)}
                    elif isinstance(value, types.FunctionType):
                        functions[name_of(value)] = value
    return classes, functions


def _fingerprint(value: Any) -> str:
    walk = Walk(most=20_000, enter_envs=False)
    encoded = walk.encode(value, "")
    walk.finish()
    return as_json([encoded, walk.nodes])


def as_json(tree: Any) -> str:
    def content(part: Any) -> Any:
        array = part.numpy() if isinstance(part, torch.Tensor) else np.asarray(part)
        return [array.dtype.str, list(array.shape), digest_of(array)]

    return json.dumps(tree, default=content)


def _is_own(module: str) -> bool:
    return module in sys.modules and module.partition(".")[0] not in _LIBRARIES


def _is_data(value: Any) -> bool:
    try:
        return _holds_data(value)
    except Exception:  # such as a proxy whose target is gone
        return False


def _holds_data(value: Any) -> bool:
    kind = type(value)
    if kind in PLAIN:
        return True
    held = (*CONTAINERS, np.ndarray, torch.Tensor, np.random.Generator, *GENERATORS.values(), *ITERATORS.values())
    if isinstance(value, (*held, itertools.count)):
        return True
    odd = (type, types.FunctionType, enum.Enum, gymnasium.Space, *WITHOUT_STATE)
    return is_python(kind) and not isinstance(value, odd) and not hasattr(kind, "__get__")
