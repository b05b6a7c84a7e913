"""Saves what Python objects hold as arrays and plain values, and puts it back into objects made alike. No pickle.

:func:`capture` walks from its roots along attributes, items and closures. Every object that can change becomes a
*node*, once, so that what two paths share stays shared and cycles end. :func:`restore` walks through the fresh objects
along the same paths and changes them in place; what a fresh object does not have is recreated, of the classes that the
modules of the fresh objects define. Nothing that a state says is imported or called.

What no Python code can read (a simulator in C, an open file, a generator that has begun) is *opaque*: a fresh
object's own is kept, and its path is told.
"""

import enum
import functools
import itertools
import random
import re
import types
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch

from rlopt.envs.state.shared import Baseline, as_json, known_names, shared_objects, shared_values
from rlopt.envs.state.walk import (
    CONTAINERS,
    GENERATORS,
    State,
    Walk,
    attributes_of,
    cell_content,
    digest_of,
    is_python,
    memory_of,
    name_of,
    seeds_of,
    walked,
)

_FACTORIES: dict[str, Any] = {cls.__name__: cls for cls in (list, dict, set, int, float, deque)}
_BIT_GENERATORS = {name: getattr(np.random, name) for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")}


def capture(roots: Sequence[tuple[str, Any]], kept: Iterable[Any] = (), baseline: Baseline | None = None) -> State:
    """The state of ``roots``: ``{"nodes", "roots", "shared", "aliases", "opaque"}``, a tree of arrays and plain values.

    :param roots: objects, each with the name that the paths of its parts begin with
    :param kept: objects that are met but not looked into: another part of the state has them
    :param baseline: leaves out what has not changed since; None keeps nothing of classes and modules
    """
    walk = Walk(kept) if baseline is None else Walk(kept, baseline.digest)
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
    walk = walked(roots)

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
            found[path] = as_json(text({key: value for key, value in node.items() if key != "attributes"}))
            prefix = f"{path}." if path else ""
            found |= {prefix + name: as_json(text(value)) for name, value in own.items() if name != "_np_random_seed"}
    return found


def shared_state(roots: Sequence[tuple[str, Any]], kept: Iterable[Any] = ()) -> tuple[State, Walk]:
    """All that classes and modules of ``roots`` hold, and where, for :func:`put_back`."""
    walk = walked(roots, kept)
    values = Walk(enter_envs=False)
    shared = [[path, values.encode(value, path)] for path, (_, _, value) in shared_values(walk).items()]
    values.finish()
    return {"nodes": values.nodes, "roots": [], "shared": shared, "aliases": {}, "opaque": values.opaque}, walk


def put_back(state: State, walk: Walk) -> None:
    """Puts classes and modules where :func:`shared_state` found them."""
    _Restorer([], state, (), walk).run()


class _Restorer:
    """Walks through fresh objects beside the nodes of a state. A fresh object stands for one node at most."""

    def __init__(
        self, roots: Sequence[tuple[str, Any]], state: State, kept: Iterable[Any], walk: Walk | None = None
    ) -> None:
        self._roots, self._state, self._nodes = roots, state, state["nodes"]
        self._kept = {id(value) for value in kept}
        walk = walked(roots, kept) if walk is None else walk
        self._shared = shared_values(walk)
        self._classes, self._functions = known_names(walk)
        self._protected: set[int] = set()
        self._made: dict[int, Any] = {}
        self._claimed: dict[int, Any] = {}
        self._owners: dict[int, Any] = {}
        self._memory: dict[int, list[tuple[np.ndarray, int]]] = {}
        """Which memory of fresh arrays stands for which of the state's: the owner of each, and the arrays of each."""
        self._views = Counter(node["memory"] for node in self._nodes if "memory" in node)
        self._queue: deque[tuple[int, Any, str]] = deque()
        self._arrays: list[tuple[State, np.ndarray, str]] = []
        self.lost: list[str] = []

    def run(self) -> list[str]:
        state = self._state
        held = shared_objects(self._shared)
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
        # Two views of one memory in a damaged state: the second has overwritten the first.
        filled = [entry for entry in self._arrays if "value" in entry[0]]
        self.lost += [path for node, value, path in filled if value.tobytes() != node["value"].tobytes()]
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
            return self._classes.get(content) or (fresh if name_of(fresh) == content else self._lose(path))
        if tag == "method":
            owner = self.value(content[1], getattr(fresh, "__self__", None), path)
            function = getattr(type(owner), content[0], None)
            known = isinstance(function, types.FunctionType) and name_of(type(owner)) in self._classes
            return types.MethodType(function, owner) if known and function is not None else self._lose(path)
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
            # Arrays grow; that one gets more dimensions is damage.
            damaged = isinstance(fresh, np.ndarray) and np.ndim(node.get("value", fresh)) != fresh.ndim
            if value is _LOST and not (damaged and "text" not in node):
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
            owner, memory = memory_of(fresh), node["memory"]
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
        builtin = {f"{cls.__module__}.{cls.__qualname__}": cls for cls in CONTAINERS} | {"collections.Counter": Counter}
        cls = builtin.get(name) or self._classes.get(name)
        return cls if cls is not None and issubclass(cls, base) and (base is not object or is_python(cls)) else None

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
                made = self.value(encoded, cell_content(cell), path)
                if made is not _LOST:
                    cell.cell_contents = made
        elif kind in ("list", "deque", "set", "dict", "bytearray") and "same" not in node:
            self._fill_items(node, value, path)
        if "attributes" in node:
            self._fill_attributes(node["attributes"], value, path)

    def _fill_array(self, node: State, value: np.ndarray, path: str) -> None:
        self._arrays.append((node, value, path))
        if "digest" in node:
            if digest_of(value) != node["digest"]:
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
            return type(fresh).__name__ == node["class"] and seeds_of(sequence) == (saved or None)
        if kind in ("seeds", "iterator", "count"):
            return False  # recreated: what they hold cannot be set
        if kind in GENERATORS:
            return type(fresh) is GENERATORS[kind]
        return name_of(fresh if kind == "function" else type(fresh)) == node["class"]

    def _target(self, encoded: State) -> State:
        node: State = self._nodes[encoded["ref"]]
        return node


_LOST: Any = type("Lost", (), {})()


def _has_slot(cls: type, name: str) -> bool:
    return isinstance(getattr(cls, name, None), types.MemberDescriptorType)
