"""Saves what Python objects hold as arrays and plain values, and puts it back into objects made alike. No pickle.

:func:`capture` walks from its roots along attributes, items and closures. Every object that can change becomes a
*node*, once, so that what two paths share stays shared and cycles end. :func:`restore` walks through the fresh objects
along the same paths and changes them in place; what a fresh object does not have is made anew, of the classes that the
modules of the fresh objects define. Nothing that a state says is imported or called.

What no Python code can read (a simulator in C, an open file, a generator that has begun) is *opaque*: a fresh
object's own is kept, and its path is told.
"""

from __future__ import annotations

import dis
import enum
import functools
import hashlib
import io
import itertools
import json
import logging
import random
import re
import sys
import types
import warnings
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch

from rlopt.storage.tree import ARRAY_TYPES, MAX_INT_BITS

State = dict[str, Any]

MAX_NODES, MAX_ITEMS, MAX_BYTES = 200_000, 500_000, 2**28
"""Bounds of what is captured, of all roots together. Beyond them, values are opaque."""
LARGE = 2**20
"""Bytes from which an array that has not changed since it was made is kept as a checksum only."""

_HEAP_TYPE = 1 << 9
"""CPython's flag of classes that a class statement, or C code at run time, has made."""
_PLAIN = (type(None), bool, int, float, str)
_DICTS: dict[str, type] = {cls.__name__: cls for cls in (dict, OrderedDict, defaultdict, Counter)}
_CONTAINERS = (list, dict, set, deque, bytearray, OrderedDict, defaultdict)
_FACTORIES: dict[str, Any] = {cls.__name__: cls for cls in (list, dict, set, int, float, deque)}
_ITERATORS = {name: type(iter(value)) for name, value in (("list", []), ("tuple", ()), ("range", range(0)))}
_GENERATORS: dict[str, type] = {
    "random.Random": random.Random,
    "RandomState": np.random.RandomState,
    "torch.Generator": torch.Generator,
}
_BIT_GENERATORS = {name: getattr(np.random, name) for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")}
_WITHOUT_STATE: tuple[type, ...] = (
    *(types.BuiltinFunctionType, types.ModuleType, types.GetSetDescriptorType, types.MemberDescriptorType),
    *(types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType, types.CodeType, np.ufunc),
    *(np.dtype, torch.dtype, torch.device, re.Pattern, logging.Logger, property, types.MappingProxyType, weakref.ref),
    *(type(__import__("threading").Lock()), type(__import__("threading").RLock()), type(Ellipsis)),
    gymnasium.envs.registration.EnvSpec,
)
_LIBRARIES = sys.stdlib_module_names | {
    *("gymnasium", "gymnasium_robotics", "stable_baselines3", "rlopt", "numpy", "torch", "scipy", "matplotlib"),
    *("mujoco", "dm_control", "dm_env", "pygame", "Box2D", "highway_env", "envpool"),
}
"""Packages whose modules and classes keep no state of an environment, or too much that is not."""


def capture(roots: Sequence[tuple[str, Any]], kept: Iterable[Any] = (), baseline: Baseline | None = None) -> State:
    """The state of ``roots``: ``{"nodes", "roots", "shared", "aliases", "opaque"}``, a tree of arrays and plain values.

    :param roots: objects, each with the name that the paths of its parts begin with
    :param kept: objects that are met but not looked into: another part of the state has them
    :param baseline: leaves out what has not changed since; None keeps nothing of classes and modules
    """
    walk = _Walk(kept, baseline)
    state: State = {"roots": [walk.encode(value, name) for name, value in roots]}
    walk.finish()
    state["shared"], state["aliases"] = ([], {}) if baseline is None else baseline.changes(walk)
    walk.finish()
    return {"nodes": walk.nodes, **state, "opaque": walk.opaque}


def restore(roots: Sequence[tuple[str, Any]], state: State, kept: Iterable[Any] = ()) -> list[str]:
    """Puts ``roots``, made alike, into a captured state; returns the paths of what could not be put there.

    :raises ValueError: for a state of other roots
    """
    try:
        return _Restorer(roots, state, kept).run()
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"the state is damaged: {error!r}") from error


def contents(roots: Sequence[tuple[str, Any]]) -> dict[str, str]:
    """What ``roots`` hold as text, by path, to be compared with that of others; without the seeds of generators."""
    walk = _walked(roots)

    def text(part: Any) -> Any:
        if isinstance(part, dict):
            return {
                k: walk.paths[v] if k == "ref" else text(v) for k, v in part.items() if k not in ("sequence", "memory")
            }
        return [text(inner) for inner in part] if isinstance(part, (list, tuple)) else part

    found: dict[str, str] = {}
    named = list(zip(walk.paths, walk.nodes, strict=True))
    spaces = tuple(path for path, node in named if node.get("class", "").startswith("gymnasium.spaces."))
    for path, node in named:
        if node["kind"] != "seeds" and not path.startswith(spaces):
            own = node.get("attributes", {})
            found[path] = _json(text({key: value for key, value in node.items() if key != "attributes"}))
            prefix = f"{path}." if path else ""
            found |= {prefix + name: _json(text(value)) for name, value in own.items() if name != "_np_random_seed"}
    return found


class Baseline:
    """What classes, modules and large arrays held when the environments were made."""

    def __init__(self, roots: Sequence[tuple[str, Any]], kept: Iterable[Any] = ()) -> None:
        walk = _walked(roots, kept)
        self._arrays = {id(array): (array, _digest(array)) for array in walk.large}
        self._shared = {path: _fingerprint(value) for path, (_, _, value) in _shared(walk).items()}

    def digest(self, array: np.ndarray) -> str | None:
        """The checksum of a large array that is as it was; None for another one."""
        kept = self._arrays.get(id(array))
        return kept[1] if kept is not None and kept[0] is array and _digest(array) == kept[1] else None

    def changes(self, walk: _Walk) -> tuple[list[Any], dict[str, int]]:
        """What classes and modules hold otherwise than they did, ``[[path, value], ...]``, and which nodes are theirs."""
        shared = _shared(walk)
        aliases = {path: walk.numbers[id(value)] for path, value in _held(shared).items() if id(value) in walk.numbers}
        changed = [
            [path, walk.encode(value, path)]
            for path, (_, _, value) in shared.items()
            if _fingerprint(value) != self._shared.get(path)
        ]
        return changed, aliases


def shared_state(roots: Sequence[tuple[str, Any]], kept: Iterable[Any] = ()) -> tuple[State, _Walk]:
    """All that classes and modules of ``roots`` hold, and where, for :func:`put_back`."""
    walk = _walked(roots, kept)
    values = _Walk((), None, enter_envs=False)
    shared = [[path, values.encode(value, path)] for path, (_, _, value) in _shared(walk).items()]
    values.finish()
    return {"nodes": values.nodes, "roots": [], "shared": shared, "aliases": {}, "opaque": values.opaque}, walk


def put_back(state: State, walk: _Walk) -> None:
    """Puts classes and modules where :func:`shared_state` found them."""
    _Restorer([], state, (), walk).run()


def statistics_of(layers: Iterable[Any]) -> list[Any]:
    """The running mean and variance of each layer that normalises, from the outside in."""
    return [
        {"name": name, **{part: _number(getattr(vars(layer)[name], part)) for part in ("mean", "var", "count")}}
        for layer, name in _normalizers(layers)
    ]


def set_statistics(layers: Iterable[Any], statistics: Sequence[Any], counting: bool) -> bool:
    """Gives layers that normalise the ``statistics`` of :func:`statistics_of`; ``counting`` switches their updates.

    Returns False, with nothing changed, if the layers are not those that the statistics are of.
    """
    own = _normalizers(layers)
    shapes = [(name, np.shape(getattr(layer, name).mean)) for layer, name in own]
    if shapes != [(entry["name"], np.shape(entry["mean"])) for entry in statistics]:
        return False
    for (layer, name), entry in zip(own, statistics, strict=True):
        for part in ("mean", "var", "count"):
            setattr(getattr(layer, name), part, _number(entry[part]))
        layer.update_running_mean = counting
    return True


def _normalizers(layers: Iterable[Any]) -> list[tuple[Any, str]]:
    return [
        (layer, name)
        for layer in layers
        for name in ("obs_rms", "return_rms")
        if isinstance(vars(layer).get(name), gymnasium.wrappers.utils.RunningMeanStd)
    ]


def _number(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value


class _Walk:
    """Turns objects into nodes, breadth first, so that depth takes no stack and short paths name what is found."""

    def __init__(
        self, kept: Iterable[Any], baseline: Baseline | None, most: int = MAX_NODES, enter_envs: bool = True
    ) -> None:
        self._most, self._enter_envs = most, enter_envs
        self.nodes: list[Any] = []
        self.opaque: dict[str, str] = {}
        self.classes: set[type] = set()
        self.modules: set[str] = set()
        """Where functions were met that are attributes."""
        self.large: list[np.ndarray] = []
        self._kept = {id(value) for value in kept}
        self._baseline = baseline
        self.numbers: dict[int, int] = {}
        self.alive: list[Any] = []  # an id is that of one object only while the object lives
        self._queue: deque[tuple[int, Any, str]] = deque()
        self.paths: list[str] = []
        """By which path each node was met first."""
        self._memory: dict[int, list[tuple[np.ndarray, int]]] = {}
        """The arrays met, by what owns their memory, each with the number of that memory."""
        self._unused = itertools.count()
        self._bytes = self._items_met = 0

    def finish(self) -> None:
        """Looks into everything that was met."""
        while self._queue:
            number, value, path = self._queue.popleft()
            try:
                self.nodes[number] = self._node(value, path)
            except Exception:
                self._no(value, path)
                self.nodes[number] = {"kind": "opaque", "class": _name(type(value))}

    def encode(self, value: Any, path: str) -> Any:
        """A plain value as it is, everything else as a dict of one key that says what it is."""
        try:
            return self._encoded(value, path)
        except Exception:  # such as a proxy whose target is gone
            return self._no(value, path)

    def _encoded(self, value: Any, path: str) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value if kind is not int or value.bit_length() <= MAX_INT_BITS else self._no(value, path)
        if isinstance(value, np.generic):
            return value if value.dtype.str in ARRAY_TYPES else self._no(value, path)
        if isinstance(value, enum.Enum):
            self.classes.add(kind)
            return {"enum": [_name(kind), value.name]} if value.name else self._no(value, path)
        if kind is complex:
            return {"complex": [value.real, value.imag]}
        if kind is bytes:
            return {"bytes": value.hex()} if len(value) < LARGE else self._no(value, path)
        if kind is range:
            return {"range": [value.start, value.stop, value.step]}
        if isinstance(value, tuple):
            self.classes.add(kind)
            return {"tuple": [_name(kind), [self.encode(item, f"{path}[{i}]") for i, item in enumerate(value)]]}
        if kind is frozenset:
            return {"frozenset": [self.encode(item, f"{path}{{}}") for item in value]}
        if kind is functools.partial:
            parts = (value.func, value.args, tuple(value.keywords), tuple(value.keywords.values()))
            return {"partial": [self.encode(part, path) for part in parts]}
        if isinstance(value, type):
            self.classes.add(value)
            return {"class": _name(value)}
        if isinstance(value, types.MethodType):
            return {"method": [value.__func__.__name__, self.encode(value.__self__, f"{path}.__self__")]}
        if isinstance(value, _WITHOUT_STATE):
            return {"same": kind.__name__}
        if id(value) not in self.numbers:
            if len(self.nodes) >= self._most:
                return self._no(value, path)
            self.numbers[id(value)] = len(self.nodes)
            self.alive.append(value)
            self._queue.append((len(self.nodes), value, path))
            self.nodes.append(None)
            self.paths.append(path)
        return {"ref": self.numbers[id(value)]}

    def _no(self, value: Any, path: str) -> Any:
        if len(self.opaque) < 100:
            self.opaque[path] = type(value).__name__
        return {"same": type(value).__name__}

    def _node(self, value: Any, path: str) -> Any:
        kind = type(value)
        self.classes.add(kind)
        if id(value) in self._kept or (isinstance(value, gymnasium.Env) and not self._enter_envs):
            return {"kind": "kept"}
        leaf = self._leaf(value, path)
        if leaf is not None:
            return leaf
        node: State = {"kind": "object", "class": _name(kind)}
        if isinstance(value, types.FunctionType):
            node["kind"], node["class"] = "function", _name(value)
            cells = [(name, _cell(cell)) for name, cell in
                     zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)]  # fmt: skip
            node["cells"] = [self.encode(part, f"{path}:{name}") for name, part in cells]
            self.modules.add(value.__module__)
            node["attributes"] = self._attributes(vars(value), path)
            return node
        if isinstance(value, gymnasium.Space):  # its bounds do not change, its generator does
            names = ("_np_random", "spaces")
            node["attributes"] = self._attributes({n: vars(value)[n] for n in names if n in vars(value)}, path)
            return node
        base = next((cls for cls in _CONTAINERS[::-1] if isinstance(value, cls)), None)
        if base is not None:
            node["kind"] = "dict" if issubclass(base, dict) else base.__name__
            node |= self._items(value, base, path)
        elif not _is_python(kind):
            self._no(value, path)
            return {"kind": "opaque", "class": _name(kind)}
        own = attributes_of(value)
        if own:
            node["attributes"] = self._attributes(own, path)
        return node

    def _attributes(self, own: dict[str, Any], path: str) -> State:
        prefix = f"{path}." if path else ""
        return {name: self.encode(part, prefix + name) for name, part in own.items() if type(name) is str}

    def _items(self, value: Any, base: type, path: str) -> State:
        if base is bytearray:
            return {"bytes": bytes(value).hex()}
        if issubclass(base, dict):
            self._items_met += len(value)
            if self._items_met > MAX_ITEMS:
                return {"same": self._no(value, path)}
            node: State = {
                "keys": [self.encode(key, f"{path}.keys") for key in value],
                "values": [self.encode(part, f"{path}[{key!r:.40}]") for key, part in value.items()],
            }
            factory = getattr(value, "default_factory", None)
            return node | ({"factory": getattr(factory, "__name__", "")} if factory is not None else {})
        if len(value) > 64 and base in (list, deque):
            only = set(map(type, value))
            if only == {float} or (only == {int} and max(map(abs, value)) < 2**63):
                node = {"numbers": np.array(value, float if only == {float} else np.int64)}
                return node | ({"maxlen": value.maxlen} if base is deque else {})
        self._items_met += len(value)
        if self._items_met > MAX_ITEMS:
            return {"same": self._no(value, path)}
        node = {"items": [self.encode(part, f"{path}[{i}]") for i, part in enumerate(value)]}
        return node | ({"maxlen": value.maxlen} if base is deque else {})

    def _leaf(self, value: Any, path: str) -> State | None:
        """A node of what holds no other objects; None for what may."""
        if type(value) is random.Random:
            version, words, gauss = value.getstate()
            return {"kind": "random.Random", "version": version, "words": np.array(words, np.uint32), "gauss": gauss}
        if type(value) is np.random.Generator:
            return {"kind": "generator", "bits": self.encode(value.bit_generator, f"{path}.bit_generator")}
        if isinstance(value, np.random.BitGenerator):
            sequence = self.encode(value.seed_seq, f"{path}.seed_seq")
            return {"kind": "bits", "class": type(value).__name__, "state": _copied(value.state), "sequence": sequence}
        if isinstance(value, np.random.SeedSequence):
            return _seeds(value)
        if isinstance(value, np.random.RandomState):
            return {"kind": "RandomState", "state": _copied(value.get_state(legacy=False))}
        if isinstance(value, torch.Generator):
            return {"kind": "torch.Generator", "state": value.get_state()}
        if isinstance(value, np.ndarray):
            return self._array(value, path)
        if isinstance(value, torch.Tensor):
            self._bytes += value.nbytes
            if self._bytes > MAX_BYTES or value.layout != torch.strided:
                self._no(value, path)
                return {"kind": "opaque", "class": "Tensor"}
            return {"kind": "tensor", "value": value.detach().cpu().clone()}
        for name, kind in _ITERATORS.items():
            if type(value) is kind:
                made = value.__reduce__()
                rest = made[2] if len(made) > 2 else None
                return {"kind": "iterator", "class": name, "over": self.encode(made[1][0], path), "at": rest}
        if type(value) is itertools.count:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                return {"kind": "count", "next": [self.encode(part, path) for part in value.__reduce__()[1]]}
        return None

    def _array(self, value: np.ndarray, path: str) -> State:
        if value.dtype.kind == "O" and type(value) is np.ndarray:
            items = [self.encode(part, f"{path}.flat[{i}]") for i, part in enumerate(value.flat)]
            return {"kind": "objects", "shape": list(value.shape), "items": items}
        text = value.dtype.kind in "US" and value.dtype.itemsize > 0
        if type(value) is not np.ndarray or not (text or value.dtype.str in ARRAY_TYPES):
            self._no(value, path)
            return {"kind": "opaque", "class": type(value).__name__}
        beside = self._memory.setdefault(id(_owner(value)), [])
        shared = [number for other, number in beside if np.may_share_memory(value, other)]
        memory = shared[0] if shared else next(self._unused)
        beside.append((value, memory))
        node = {"kind": "array", "memory": memory}
        if value.nbytes >= LARGE:
            self.large.append(value)
            digest = self._baseline.digest(value) if self._baseline is not None else None
            if digest is not None:
                return node | {"digest": digest}
        self._bytes += value.nbytes
        if self._bytes > MAX_BYTES:
            self._no(value, path)
            return {"kind": "opaque", "class": "ndarray"}
        if text:
            raw = np.frombuffer(value.tobytes(), np.uint8).copy()
            return node | {"text": value.dtype.str, "shape": list(value.shape), "value": raw}
        return node | {"value": np.array(value)}


def attributes_of(value: Any) -> dict[str, Any]:
    """The attributes that an object itself holds: of its ``__dict__`` and of slots. No property is asked."""
    own = dict(value.__dict__) if isinstance(getattr(value, "__dict__", None), dict) else {}
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name in ("__dict__", "__weakref__"):
                continue
            if name.startswith("__") and not name.endswith("__"):
                name = f"_{cls.__name__.lstrip('_')}{name}"
            try:
                own[name] = object.__getattribute__(value, name)
            except AttributeError:
                continue
    return own


def _walked(roots: Sequence[tuple[str, Any]], kept: Iterable[Any] = ()) -> _Walk:
    walk = _Walk(kept, None)
    for name, value in roots:
        walk.encode(value, name)
    walk.finish()
    return walk


class _Restorer:
    """Walks through fresh objects beside the nodes of a state. A fresh object stands for one node at most."""

    def __init__(
        self, roots: Sequence[tuple[str, Any]], state: State, kept: Iterable[Any], walk: _Walk | None = None
    ) -> None:
        self._roots, self._state, self._nodes = roots, state, state["nodes"]
        self._kept = {id(value) for value in kept}
        walk = _walked(roots, kept) if walk is None else walk
        self._shared = _shared(walk)
        self._classes, self._functions = _known(walk)
        self._protected: set[int] = set()
        self._made: dict[int, Any] = {}
        self._claimed: dict[int, Any] = {}
        self._owners: dict[int, Any] = {}
        self._memory: dict[int, list[tuple[np.ndarray, int]]] = {}
        """Which memory of fresh arrays stands for which of the state's: the owner of each, and the arrays of each."""
        self._views = Counter(node["memory"] for node in self._nodes if "memory" in node)
        self._queue: deque[tuple[int, Any, str]] = deque()
        self.lost: list[str] = []

    def run(self) -> list[str]:
        state = self._state
        held = _held(self._shared)
        for path, number in state["aliases"].items():
            if path in held and self._same_kind(self._nodes[number], held[path]):
                self._bind(number, held[path], path)
        # What belongs to a class or a module is changed for its own sake only: an attribute may have been it once.
        self._protected = {id(value) for value in held.values()}
        for (name, value), encoded in zip(self._roots, state["roots"], strict=True):
            self.value(encoded, value, name)
        self._finish()
        self._protected = set()
        for path, encoded in state["shared"]:
            if path not in self._shared:
                self.lost.append(path)
                continue
            owner, name, fresh = self._shared[path]
            value = self.value(encoded, fresh, path)
            if owner is not None and value is not _LOST and value is not fresh:
                setattr(owner, name, value)
        self._finish()
        return self.lost

    def _finish(self) -> None:
        while self._queue:
            number, value, path = self._queue.popleft()
            try:
                self._fill(self._nodes[number], value, path)
            except Exception:
                self.lost.append(path)

    def value(self, encoded: Any, fresh: Any, path: str) -> Any:
        """The value that ``encoded`` says; ``fresh`` is what stands there now."""
        if not isinstance(encoded, dict):
            # A state must not send an environment to other files.
            foreign = type(encoded) is str and encoded != fresh and ("/" in encoded or "\\" in encoded)
            return self._lose(path) if foreign else encoded
        [(tag, content)] = encoded.items()
        if tag == "ref":
            return self._object(content, fresh, path)
        if tag == "same":
            return fresh if type(fresh).__name__ == content else self._lose(path)
        if tag in ("tuple", "frozenset"):
            name, items = content if tag == "tuple" else ("", content)
            old = fresh if isinstance(fresh, tuple) else ()
            made = [self.value(item, old[i] if i < len(old) else None, f"{path}[{i}]") for i, item in enumerate(items)]
            if any(item is _LOST for item in made):
                return _LOST
            if tag == "frozenset":
                return frozenset(made)
            cls = self._class(name, tuple)
            return self._lose(path) if cls is None else tuple.__new__(cls, made)
        if tag == "enum":
            cls = self._class(content[0], enum.Enum)
            return self._lose(path) if cls is None or content[1] not in cls.__members__ else cls[content[1]]
        if tag == "class":
            return self._classes.get(content) or (fresh if _name(fresh) == content else self._lose(path))
        if tag == "method":
            owner = self.value(content[1], getattr(fresh, "__self__", None), path)
            function = getattr(type(owner), content[0], None)
            known = isinstance(function, types.FunctionType) and _name(type(owner)) in self._classes
            return types.MethodType(function, owner) if known else self._lose(path)
        if tag == "partial":
            was: Sequence[Any] = (None, (), (), ())
            if isinstance(fresh, functools.partial):
                was = (fresh.func, fresh.args, (), tuple(fresh.keywords.values()))
            made = [self.value(part, old, path) for part, old in zip(content, was, strict=True)]
            if any(part is _LOST for part in made):
                return _LOST
            return functools.partial(made[0], *made[1], **dict(zip(made[2], made[3], strict=True)))
        if tag == "complex":
            return complex(*content)
        if tag == "bytes":
            return bytes.fromhex(content)
        if tag == "range":
            return range(*content)
        raise ValueError(f"unknown value {tag!r}")

    def _lose(self, path: str) -> Any:
        self.lost.append(path)
        return _LOST

    def _class(self, name: str, base: type) -> Any:
        cls = self._classes.get(name, tuple if name == "builtins.tuple" else None)
        return cls if cls is not None and issubclass(cls, base) else None

    def _object(self, number: int, fresh: Any, path: str) -> Any:
        if number not in self._made:
            node = self._nodes[number]
            value = self._claim(node, fresh)
            if value is _LOST:
                value = self._create(node, path)
            if value is _LOST:
                self.lost.append(path)
            if value is _LOST:
                self._made[number] = _LOST
            else:
                self._bind(number, value, path)
        return self._made[number]

    def _bind(self, number: int, value: Any, path: str) -> None:
        self._made[number] = self._claimed[id(value)] = value
        self._queue.append((number, value, path))

    def _claim(self, node: State, fresh: Any) -> Any:
        """``fresh`` if it can be changed into what ``node`` says and stands for no other node."""
        if id(fresh) in self._claimed or id(fresh) in self._protected or not self._same_kind(node, fresh):
            return _LOST
        if node["kind"] == "array":
            owner, memory = _owner(fresh), node["memory"]
            beside = self._memory.setdefault(id(owner), [])
            others = any(number != memory and np.may_share_memory(other, fresh) for other, number in beside)
            if others or self._owners.setdefault(memory, owner) is not owner:
                return _LOST
            beside.append((fresh, memory))
        return fresh

    def _create(self, node: State, path: str) -> Any:
        """A new object for ``node``, to be filled; ``_LOST`` where none can be made."""
        kind, name = node["kind"], node.get("class", "")
        if kind in ("list", "set", "deque", "bytearray", "dict", "object"):
            base = {"list": list, "set": set, "deque": deque, "bytearray": bytearray, "dict": dict}.get(kind, object)
            cls = self._class_of_container(name, base)
            if cls is None or hasattr(cls, "__del__") or "same" in node:
                return _LOST
            if issubclass(cls, deque):
                return cls((), node["maxlen"])
            if issubclass(cls, defaultdict):
                factory = _FACTORIES.get(node.get("factory", ""))
                return _LOST if factory is None else defaultdict(factory)
            return cls.__new__(cls) if cls.__new__ in (object.__new__, base.__new__) or kind == "dict" else _LOST
        if kind == "function":
            return self._functions.get(name, _LOST) if not node["cells"] else _LOST
        if kind == "array" and "value" in node:
            if self._views[node["memory"]] > 1:
                self.lost.append(path)  # two views of one memory, which are to stay so
            if "text" in node:
                if not re.fullmatch(r"[<>|][US]\d{1,6}", node["text"]):
                    raise ValueError("an odd dtype")
                return np.frombuffer(node["value"].tobytes(), node["text"]).reshape(node["shape"]).copy()
            return node["value"].copy()
        if kind == "objects":
            return np.empty(node["shape"], object)
        if kind == "tensor":
            return node["value"].clone()
        if kind == "random.Random":
            return random.Random()
        if kind == "RandomState":
            return np.random.RandomState()
        if kind == "torch.Generator":
            return torch.Generator()
        if kind == "seeds":
            entropy, key = node["entropy"], tuple(node["key"])
            return np.random.SeedSequence(
                entropy, spawn_key=key, n_children_spawned=node["spawned"], pool_size=node["pool"]
            )
        if kind == "bits":
            sequence = self.value(node["sequence"], None, path)
            return _BIT_GENERATORS[node["class"]](0 if sequence is _LOST else sequence)
        if kind == "generator":
            bits = self.value(node["bits"], None, path)
            return _LOST if bits is _LOST else np.random.Generator(bits)
        if kind == "iterator":
            over = self.value(node["over"], None, path)
            return _LOST if over is _LOST else iter(over)
        if kind == "count":
            return itertools.count(*[self.value(part, None, path) for part in node["next"]])
        return _LOST

    def _class_of_container(self, name: str, base: type) -> Any:
        builtin = {f"{cls.__module__}.{cls.__qualname__}": cls for cls in _CONTAINERS} | {
            "collections.Counter": Counter
        }
        cls = builtin.get(name) or self._classes.get(name)
        return cls if cls is not None and issubclass(cls, base) and (base is not object or _is_python(cls)) else None

    def _fill(self, node: State, value: Any, path: str) -> None:
        kind = node["kind"]
        if kind == "random.Random":
            value.setstate((node["version"], tuple(int(word) for word in node["words"]), node["gauss"]))
        elif kind == "bits":
            value.state = node["state"]
        elif kind == "generator":
            self.value(node["bits"], value.bit_generator, f"{path}.bit_generator")
        elif kind in ("RandomState", "torch.Generator"):
            value.set_state(node["state"])
        elif kind == "tensor":
            with torch.no_grad():
                value.copy_(node["value"])
        elif kind == "array":
            self._fill_array(node, value, path)
        elif kind == "objects":
            for index, item in enumerate(node["items"]):
                value.flat[index] = self.value(item, value.flat[index], f"{path}.flat[{index}]")
        elif kind == "iterator":
            if node["at"] is not None:
                value.__setstate__(node["at"])
        elif kind == "function":
            for cell, encoded in zip(value.__closure__ or (), node["cells"], strict=True):
                made = self.value(encoded, _cell(cell), path)
                if made is not _LOST:
                    cell.cell_contents = made
        elif kind in ("list", "deque", "set", "dict", "bytearray") and "same" not in node:
            self._fill_items(node, value, path)
        if "attributes" in node:
            self._fill_attributes(node["attributes"], value, path)

    def _fill_array(self, node: State, value: np.ndarray, path: str) -> None:
        if "digest" in node:
            if _digest(value) != node["digest"]:
                self.lost.append(path)
        elif "text" not in node:
            if value.tobytes() != node["value"].tobytes():
                value[...] = node["value"]
        else:
            value[...] = np.frombuffer(node["value"].tobytes(), node["text"]).reshape(node["shape"])

    def _fill_items(self, node: State, value: Any, path: str) -> None:
        if node["kind"] == "bytearray":
            value[:] = bytes.fromhex(node["bytes"])
            return
        if node["kind"] == "dict":
            old = dict(value)
            keys = [self.value(key, None, path) if isinstance(key, dict) else key for key in node["keys"]]
            parts = [
                self.value(part, None if key is _LOST else old.get(key), f"{path}[{key!r:.40}]")
                for key, part in zip(keys, node["values"], strict=True)
            ]
            value.clear()
            for key, part in zip(keys, parts, strict=True):
                if key is not _LOST:
                    value[key] = old.get(key) if part is _LOST else part
            return
        if "numbers" in node:
            made = node["numbers"].tolist()
        else:
            # Equal elements of a set are found by their value: what is fresh has no order.
            old_items = [] if node["kind"] == "set" else list(value)
            made = []
            for index, item in enumerate(node["items"]):
                was = old_items[index] if index < len(old_items) else None
                part = self.value(item, was, f"{path}[{index}]")
                made.append(was if part is _LOST else part)
        value.clear()
        (value.update if node["kind"] == "set" else value.extend)(made)

    def _fill_attributes(self, attributes: State, value: Any, path: str) -> None:
        own = attributes_of(value)
        held = getattr(value, "__dict__", {})
        prefix = f"{path}." if path else ""
        for name, encoded in attributes.items():
            made = self.value(encoded, own.get(name), prefix + name)
            if made is _LOST or (name in own and own[name] is made):
                continue
            if name in held or not _has_slot(type(value), name):
                held[name] = made
            else:
                object.__setattr__(value, name, made)
        if not isinstance(value, gymnasium.Space):
            for name in own.keys() - attributes.keys():
                if name in held:
                    del held[name]

    def _same_kind(self, node: State, fresh: Any) -> bool:
        """Whether a fresh object can become what ``node`` says by changing what it holds."""
        kind = node["kind"]
        if kind == "kept":
            return id(fresh) in self._kept
        if kind == "array":
            if type(fresh) is not np.ndarray or fresh.dtype.kind == "O":
                return False
            if "digest" in node:
                return True
            dtype = node["text"] if "text" in node else node["value"].dtype.str
            shape = tuple(node["shape"]) if "text" in node else node["value"].shape
            same = fresh.dtype.str == dtype and fresh.shape == shape
            return same and (fresh.flags.writeable or fresh.tobytes() == node["value"].tobytes())
        if kind == "objects":
            return type(fresh) is np.ndarray and fresh.dtype.kind == "O" and list(fresh.shape) == node["shape"]
        if kind == "tensor":
            saved = node["value"]
            return isinstance(fresh, torch.Tensor) and fresh.shape == saved.shape and fresh.dtype == saved.dtype
        if kind == "generator":
            return type(fresh) is np.random.Generator and self._same_kind(
                self._target(node["bits"]), fresh.bit_generator
            )
        if kind == "bits":
            sequence = getattr(fresh, "seed_seq", None)
            saved = node["sequence"] and self._target(node["sequence"])
            return type(fresh).__name__ == node["class"] and _seeds(sequence) == (saved or None)
        if kind in ("seeds", "iterator", "count"):
            return False  # made anew: what they hold cannot be set
        if kind in _GENERATORS:
            return type(fresh) is _GENERATORS[kind]
        return _name(fresh if kind == "function" else type(fresh)) == node["class"]

    def _target(self, encoded: State) -> State:
        node: State = self._nodes[encoded["ref"]]
        return node


_LOST: Any = type("Lost", (), {})()


def _seeds(value: Any) -> State | None:
    if not isinstance(value, np.random.SeedSequence):
        return None
    entropy = value.entropy
    entropy = entropy if isinstance(entropy, int) or entropy is None else [int(part) for part in entropy]
    key, spawned = [int(part) for part in value.spawn_key], value.n_children_spawned
    return {"kind": "seeds", "entropy": entropy, "key": key, "spawned": spawned, "pool": value.pool_size}


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _owner(array: np.ndarray) -> Any:
    """What owns the memory of an array."""
    value: Any = array
    while isinstance(value, np.ndarray) and value.base is not None:
        value = value.base
    return value


def _digest(array: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()


def _copied(tree: Any) -> Any:
    """A generator's state with arrays of its own."""
    if isinstance(tree, dict):
        return {key: _copied(part) for key, part in tree.items()}
    return tree.copy() if isinstance(tree, np.ndarray) else tree


def _is_python(cls: type) -> bool:
    """Whether Python's own attributes are all that instances of ``cls`` hold."""
    if "pybind11" in type(cls).__name__ or "nb_" in type(cls).__name__ or issubclass(cls, (io.IOBase, BaseException)):
        return False
    bases = [base for base in cls.__mro__ if base is not object and base not in _CONTAINERS]
    return all(
        base.__flags__ & _HEAP_TYPE
        and ("__slots__" in vars(base) or any("__dict__" in vars(parent) for parent in base.__mro__))
        for base in bases
    )


def _has_slot(cls: type, name: str) -> bool:
    return isinstance(getattr(cls, name, None), types.MemberDescriptorType)


def _is_own(module: str) -> bool:
    return module in sys.modules and module.partition(".")[0] not in _LIBRARIES


def _is_data(value: Any) -> bool:
    try:
        return _holds_data(value)
    except Exception:  # such as a proxy whose target is gone
        return False


def _holds_data(value: Any) -> bool:
    kind = type(value)
    if kind in _PLAIN:
        return True
    held = (*_CONTAINERS, np.ndarray, torch.Tensor, np.random.Generator, *_GENERATORS.values(), *_ITERATORS.values())
    if isinstance(value, (*held, itertools.count)):
        return True
    odd = (type, types.FunctionType, enum.Enum, gymnasium.Space, *_WITHOUT_STATE)
    return _is_python(kind) and not isinstance(value, odd) and not hasattr(kind, "__get__")


def _shared(walk: _Walk) -> dict[str, tuple[Any, str, Any]]:
    """What lies in the classes and modules that a walk met: path -> (its owner or None, its name there, its value)."""
    found: dict[str, tuple[Any, str, Any]] = {}
    classes = {cls for cls in walk.classes if _is_own(cls.__module__)}
    classes |= {base for cls in classes for base in cls.__mro__ if _is_own(base.__module__)}
    names = {cls.__module__ for cls in classes} | {name for name in walk.modules if name and _is_own(name)}
    for name in sorted(names):
        module = sys.modules[name]
        rebound = {name for value in vars(module).values() for name in _rebound(value, module)}
        for key, value in list(vars(module).items()):
            # A plain value that no function rebinds is a constant.
            if not key.startswith("__") and _is_data(value) and (type(value) not in _PLAIN or key in rebound):
                found[f"{name}.{key}"] = (module, key, value)
            found |= _held_by(value, f"{name}.{key}", name)
    for cls in sorted(classes, key=_name):
        if issubclass(cls, enum.Enum):
            continue
        for key, value in list(vars(cls).items()):
            if not key.startswith(("__", "_abc_")) and _is_data(value):
                found[f"{_name(cls)}.{key}"] = (cls, key, value)
            found |= _held_by(value, f"{_name(cls)}.{key}", cls.__module__)
    return found


def _held(shared: dict[str, tuple[Any, str, Any]]) -> dict[str, Any]:
    """Every object in what :func:`_shared` found, by path; environments that lie there are not entered."""
    walk = _Walk((), None, enter_envs=False)
    for path, (_, _, value) in shared.items():
        walk.encode(value, path)
    walk.finish()
    return dict(zip(walk.paths, walk.alive, strict=True))


def _held_by(function: Any, path: str, module: str) -> dict[str, tuple[Any, str, Any]]:
    """What a function of ``module`` keeps from call to call: attributes, closures, defaults that can change."""
    if not isinstance(function, types.FunctionType) or function.__module__ != module:
        return {}
    found = {f"{path}.{key}": (function, key, value) for key, value in vars(function).items() if _is_data(value)}
    for key, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if _is_data(_cell(cell)):
            found[f"{path}:{key}"] = (cell, "cell_contents", _cell(cell))
    for index, value in enumerate(function.__defaults__ or ()):
        if _is_data(value) and type(value) not in _PLAIN:
            found[f"{path}({index})"] = (None, "", value)
    return found


def _rebound(value: Any, module: types.ModuleType) -> Iterator[str]:
    """The names of a module that a function, or a method of a class, of it assigns to."""
    if isinstance(value, type) and value.__module__ == module.__name__:
        for part in vars(value).values():
            yield from _rebound(getattr(part, "__func__", part) if not isinstance(part, type) else None, module)
    elif isinstance(value, types.FunctionType) and value.__module__ == module.__name__:
        yield from _assigned_globals(value.__code__)


@functools.lru_cache(4096)
def _assigned_globals(code: types.CodeType) -> tuple[str, ...]:
    instructions = dis.get_instructions(code)
    return tuple(str(i.argval) for i in instructions if i.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"))


def _known(walk: _Walk) -> tuple[dict[str, type], dict[str, Any]]:
    """The classes and functions that a state may name: those of live objects, and of the modules that define them."""
    classes = {_name(cls): cls for cls in walk.classes}
    functions: dict[str, Any] = {}
    for name in {cls.__module__ for cls in walk.classes} | walk.modules:
        if name and _is_own(name):
            for value in list(vars(sys.modules[name]).values()):
                if getattr(value, "__module__", None) == name:
                    if isinstance(value, type):
                        classes |= {_name(cls): cls for cls in (value, *vars(value).values()) if isinstance(cls, type)}
                    elif isinstance(value, types.FunctionType):
                        functions[_name(value)] = value
    return classes, functions


def _fingerprint(value: Any) -> str:
    walk = _Walk((), None, 20_000, enter_envs=False)
    encoded = walk.encode(value, "")
    walk.finish()
    return _json([encoded, walk.nodes])


def _json(tree: Any) -> str:
    def content(part: Any) -> Any:
        array = part.numpy() if isinstance(part, torch.Tensor) else np.asarray(part)
        return [array.dtype.str, list(array.shape), _digest(array)]

    return json.dumps(tree, default=content)
