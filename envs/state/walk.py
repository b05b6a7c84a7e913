"""Walks from objects along attributes, items and closures, and describes each as a node of arrays and plain values."""

import enum
import functools
import hashlib
import io
import itertools
import logging
import random
import re
import threading
import types
import warnings
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
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
PLAIN = (type(None), bool, int, float, str)
CONTAINERS = (list, dict, set, deque, bytearray, OrderedDict, defaultdict)
ITERATORS = {name: type(iter(value)) for name, value in (("list", []), ("tuple", ()), ("range", range(0)))}
GENERATORS: dict[str, type] = {
    "random.Random": random.Random,
    "RandomState": np.random.RandomState,
    "torch.Generator": torch.Generator,
}
WITHOUT_STATE: tuple[type, ...] = (
    *(types.BuiltinFunctionType, types.ModuleType, types.GetSetDescriptorType, types.MemberDescriptorType),
    *(types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType, types.CodeType, np.ufunc),
    *(np.dtype, torch.dtype, torch.device, re.Pattern, logging.Logger, property, types.MappingProxyType, weakref.ref),
    *(type(threading.Lock()), type(threading.RLock()), type(Ellipsis)),
    gymnasium.envs.registration.EnvSpec,
)


class Walk:
    """Turns objects into nodes, breadth first, so that depth takes no stack and short paths name what is found.

    :param kept: objects that are not looked into
    :param unchanged: the checksum of a large array that is as it was when it was made, which then is all that is kept
    :param most: nodes; what is beyond is opaque
    :param enter_envs: False does not look into environments
    """

    def __init__(
        self,
        kept: Iterable[Any] = (),
        unchanged: Callable[[np.ndarray], str | None] = lambda array: None,
        most: int = MAX_NODES,
        enter_envs: bool = True,
    ) -> None:
        self._most, self._enter_envs = most, enter_envs
        self.nodes: list[Any] = []
        self.opaque: dict[str, str] = {}
        self.classes: set[type] = set()
        self.modules: set[str] = set()
        """Where functions were met that are attributes."""
        self.large: list[np.ndarray] = []
        self._kept = {id(value) for value in kept}
        self._unchanged = unchanged
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
                self.nodes[number] = {"kind": "opaque", "class": name_of(type(value))}

    def encode(self, value: Any, path: str) -> Any:
        """A plain value as it is, everything else as a dict of one key that says what it is."""
        try:
            return self._encoded(value, path)
        except Exception:  # such as a proxy whose target is gone
            return self._no(value, path)

    def _encoded(self, value: Any, path: str) -> Any:
        kind = type(value)
        if kind in PLAIN:
            return value if kind is not int or value.bit_length() <= MAX_INT_BITS else self._no(value, path)
        if isinstance(value, np.generic):
            return value if value.dtype.str in ARRAY_TYPES else self._no(value, path)
        if isinstance(value, enum.Enum):
            self.classes.add(kind)
            return {"enum": [name_of(kind), value.name]} if value.name else self._no(value, path)
        if kind is complex:
            return {"complex": [value.real, value.imag]}
        if kind is bytes:
            return {"bytes": value.hex()} if len(value) < LARGE else self._no(value, path)
        if kind is range:
            return {"range": [value.start, value.stop, value.step]}
        if isinstance(value, tuple):
            self.classes.add(kind)
            return {"tuple": [name_of(kind), [self.encode(item, f"{path}[{i}]") for i, item in enumerate(value)]]}
        if kind is frozenset:
            return {"frozenset": [self.encode(item, f"{path}{{}}") for item in value]}
        if kind is functools.partial:
            parts = (value.func, value.args, tuple(value.keywords), tuple(value.keywords.values()))
            return {"partial": [self.encode(part, path) for part in parts]}
        if isinstance(value, type):
            self.classes.add(value)
            return {"class": name_of(value)}
        if isinstance(value, types.MethodType):
            return {"method": [value.__func__.__name__, self.encode(value.__self__, f"{path}.__self__")]}
        if isinstance(value, WITHOUT_STATE):
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
        node: State = {"kind": "object", "class": name_of(kind)}
        if isinstance(value, types.FunctionType):
            node["kind"], node["class"] = "function", name_of(value)
            cells = [(name, cell_content(cell)) for name, cell in
                     zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)]  # fmt: skip
            node["cells"] = [self.encode(part, f"{path}:{name}") for name, part in cells]
            self.modules.add(value.__module__)
            node["attributes"] = self._attributes(vars(value), path)
            return node
        if isinstance(value, gymnasium.Space):  # its bounds do not change, its generator does
            names = ("_np_random", "spaces")
            node["attributes"] = self._attributes({n: vars(value)[n] for n in names if n in vars(value)}, path)
            return node
        base = next((cls for cls in CONTAINERS[::-1] if isinstance(value, cls)), None)
        if base is not None:
            node["kind"] = "dict" if issubclass(base, dict) else base.__name__
            node |= self._items(value, base, path)
        elif not is_python(kind):
            self._no(value, path)
            return {"kind": "opaque", "class": name_of(kind)}
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
            return seeds_of(value)
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
        for name, kind in ITERATORS.items():
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
        beside = self._memory.setdefault(id(memory_of(value)), [])
        shared = [number for other, number in beside if np.may_share_memory(value, other)]
        memory = shared[0] if shared else next(self._unused)
        beside.append((value, memory))
        node = {"kind": "array", "memory": memory}
        if value.nbytes >= LARGE:
            self.large.append(value)
            digest = self._unchanged(value)
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


def walked(roots: Sequence[tuple[str, Any]], kept: Iterable[Any] = ()) -> Walk:
    """A walk through all of ``roots``."""
    walk = Walk(kept)
    for name, value in roots:
        walk.encode(value, name)
    walk.finish()
    return walk


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


def seeds_of(value: Any) -> State | None:
    if not isinstance(value, np.random.SeedSequence):
        return None
    entropy = value.entropy
    entropy = entropy if isinstance(entropy, int) or entropy is None else [int(part) for part in entropy]
    key, spawned = [int(part) for part in value.spawn_key], value.n_children_spawned
    return {"kind": "seeds", "entropy": entropy, "key": key, "spawned": spawned, "pool": value.pool_size}


def name_of(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"


def cell_content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def memory_of(array: np.ndarray) -> Any:
    """What owns the memory of an array."""
    value: Any = array
    while isinstance(value, np.ndarray) and value.base is not None:
        value = value.base
    return value


def digest_of(array: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()


def _copied(tree: Any) -> Any:
    """A generator's state with arrays of its own."""
    if isinstance(tree, dict):
        return {key: _copied(part) for key, part in tree.items()}
    return tree.copy() if isinstance(tree, np.ndarray) else tree


def is_python(cls: type) -> bool:
    """Whether Python's own attributes are all that instances of ``cls`` hold."""
    if "pybind11" in type(cls).__name__ or "nb_" in type(cls).__name__ or issubclass(cls, (io.IOBase, BaseException)):
        return False
    bases = [base for base in cls.__mro__ if base is not object and base not in CONTAINERS]
    return all(
        base.__flags__ & _HEAP_TYPE
        # What is no larger than an object holds nothing else: typing.Generic, which Python 3.12 writes in C.
        and (
            base.__basicsize__ == object.__basicsize__
            or "__slots__" in vars(base)
            or any("__dict__" in vars(parent) for parent in base.__mro__)
        )
        for base in bases
    )
