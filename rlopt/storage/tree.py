"""Turns nested state into JSON plus named tensors and back; nothing is lost, and nothing is executed.

A *tree* is a nesting of dicts with string keys, lists and tuples, whose leaves are torch tensors, numpy arrays, numpy
scalars, str, int, float (infinities and NaN too), bool and None. What JSON does not have is written as a dict with one
key, a tag: ``{"$tuple": [...]}``, ``{"$tensor": [name, dtype, shape]}`` and so on.
"""

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch

from rlopt.errors import CheckpointError
from rlopt.storage.json import MAX_DEPTH

Tree: TypeAlias = Any
"""Nested dict[str, ...] / list / tuple of tensors, arrays, numpy scalars, str, int, float, bool and None."""

MAX_INT_BITS = 4096
"""Random states are the longest integers, of 128 bits; a forged one of millions would stall whatever prints it."""
_SIZES = ("i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
ARRAY_TYPES = frozenset({"|b1", "|i1", "|u1"} | {order + size for order in "<>" for size in _SIZES})
"""The numpy dtypes a tree may hold: fixed-size numbers, no objects and no text."""
_TENSOR_TYPES = {
    name: getattr(torch, name)
    for name in (
        *("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
        *("float16", "bfloat16", "float32", "float64", "complex64"),
    )
}


class TreeWriter:
    """Splits trees into JSON (:meth:`encode`) and contiguous CPU tensors (``tensors``), copying only where it must."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._shared: dict[tuple[int, str, tuple[int, ...]], str] = {}
        self._storages: set[int] = set()

    def encode(self, tree: Tree, path: tuple[str, ...] = ()) -> Any:
        """The JSON of ``tree``; raises :class:`rlopt.errors.CheckpointError` naming a value that cannot be written."""
        if len(path) > MAX_DEPTH:
            raise CheckpointError(f"{'/'.join(path[:4])}/...: nested deeper than {MAX_DEPTH} levels")
        if tree is None or type(tree) in (bool, str):
            return tree
        if type(tree) is int:
            if tree.bit_length() > MAX_INT_BITS:
                raise CheckpointError(f"{'/'.join(path)}: an integer of more than {MAX_INT_BITS} bits")
            return tree if abs(tree) < 2**63 else {"$int": hex(tree)}
        if type(tree) is float:
            return tree if math.isfinite(tree) else {"$float": struct.pack(">d", tree).hex()}
        if isinstance(tree, torch.Tensor):
            return self._tensor(tree, path)
        if type(tree) is np.ndarray:
            return self._array(tree, path)
        if isinstance(tree, np.generic) and tree.dtype.str in ARRAY_TYPES:
            return {"$scalar": [tree.dtype.str, tree.tobytes().hex()]}
        if isinstance(tree, Mapping):
            return self._mapping(tree, path)
        if isinstance(tree, (list, tuple)):  # a named tuple comes back as a plain one
            items = [self.encode(item, (*path, str(index))) for index, item in enumerate(tree)]
            return {"$tuple": items} if isinstance(tree, tuple) else items
        raise CheckpointError(
            f"{'/'.join(path)}: a {type(tree).__module__}.{type(tree).__qualname__} cannot be written to a checkpoint: "
            "keep numbers, strings, arrays and containers of those"
        )

    def _mapping(self, tree: Mapping[Any, Tree], path: tuple[str, ...]) -> Any:
        for key in tree:
            if type(key) is not str:
                raise CheckpointError(f"{'/'.join(path)}: the key {key!r} is not a string: use strings as keys")
        encoded = {key: self.encode(value, (*path, key)) for key, value in tree.items()}
        if any(key.startswith("$") for key in encoded):  # it would be read as a tag
            return {"$dict": [[key, value] for key, value in encoded.items()]}
        return encoded

    def _array(self, array: np.ndarray, path: tuple[str, ...]) -> dict[str, Any]:
        dtype, shape = array.dtype.str, list(array.shape)
        if dtype not in ARRAY_TYPES:
            raise CheckpointError(f"{'/'.join(path)}: arrays of dtype {array.dtype} cannot be written: use numbers")
        if not array.flags.c_contiguous:
            array = np.array(array, order="C")
        if dtype[0] == ">" or dtype == "<c16":  # safetensors has no such numbers: they are kept as bytes
            array = np.array(np.frombuffer(array.tobytes(), np.uint8))
        elif not array.flags.writeable:  # torch warns of such arrays
            array = array.copy()
        return {"$array": [self._keep(torch.from_numpy(array), path), dtype, shape]}

    def _tensor(self, tensor: torch.Tensor, path: tuple[str, ...]) -> dict[str, Any]:
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in _TENSOR_TYPES or tensor.layout != torch.strided:
            raise CheckpointError(f"{'/'.join(path)}: {tensor.layout} tensors of {tensor.dtype} cannot be written")
        return {"$tensor": [self._keep(tensor.detach().cpu().contiguous(), path), dtype, list(tensor.shape)]}

    def _keep(self, tensor: torch.Tensor, path: tuple[str, ...]) -> str:
        """Returns the name of ``tensor`` in the file; the same tensor twice (tied weights) is written once."""
        identity = (tensor.data_ptr(), str(tensor.dtype), tuple(tensor.shape))
        if tensor.numel() and identity in self._shared:
            return self._shared[identity]
        storage = tensor.untyped_storage().data_ptr()
        if storage in self._storages:  # another view of memory that is written already: safetensors refuses those
            tensor = tensor.clone()
        name = "/".join(path) or "value"
        while name in self.tensors or name == "__metadata__":
            name += "'"
        self.tensors[name] = tensor
        if tensor.numel():
            self._shared[identity] = name
            self._storages.add(storage)
        return name


def decode(encoded: Any, tensor: Callable[[str], torch.Tensor]) -> Tree:
    """The inverse of :meth:`TreeWriter.encode`; every malformed input raises ``ValueError``.

    :param tensor: returns a tensor of the safetensors file by name, with memory of its own; ``KeyError`` if missing
    """
    if isinstance(encoded, list):
        return [decode(item, tensor) for item in encoded]
    if not isinstance(encoded, dict):
        return encoded
    if not any(key.startswith("$") for key in encoded):
        return {key: decode(value, tensor) for key, value in encoded.items()}
    if len(encoded) != 1:
        raise ValueError("a tagged value has more than one key")
    [(tag, value)] = encoded.items()
    if tag == "$int" and isinstance(value, str) and len(value) <= MAX_INT_BITS // 4 + 3:
        return int(value, 16)
    if tag == "$float" and isinstance(value, str):
        return struct.unpack(">d", _bytes(value, 8))[0]
    if tag == "$tuple" and isinstance(value, list):
        return tuple(decode(item, tensor) for item in value)
    if tag == "$dict" and isinstance(value, list):
        return _decode_pairs(value, tensor)
    if tag == "$scalar" and isinstance(value, list) and len(value) == 2:
        dtype = _array_type(value[0])
        return np.frombuffer(_bytes(value[1], dtype.itemsize), dtype)[0]
    if tag in ("$array", "$tensor") and isinstance(value, list) and len(value) == 3:
        return _decode_stored(tag, value, tensor)
    raise ValueError(f"unknown or malformed tag {tag[:20]!r}")


def tensor_names(encoded: Any) -> Iterator[str]:
    """The name of every tensor that :func:`decode` would ask for, as often as it would."""
    pending = [encoded]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending += item
        elif isinstance(item, dict):
            reference = item.get("$array", item.get("$tensor"))
            if len(item) == 1 and isinstance(reference, list) and reference and isinstance(reference[0], str):
                yield reference[0]
            else:
                pending += item.values()


def _decode_pairs(pairs: list[Any], tensor: Callable[[str], torch.Tensor]) -> dict[str, Tree]:
    decoded: dict[str, Tree] = {}
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)) or pair[0] in decoded:
            raise ValueError("malformed or repeated key")
        decoded[pair[0]] = decode(pair[1], tensor)
    return decoded


def _decode_stored(tag: str, value: list[Any], tensor: Callable[[str], torch.Tensor]) -> Tree:
    name, dtype_name, shape = value
    if not (isinstance(name, str) and isinstance(dtype_name, str) and isinstance(shape, list)):
        raise ValueError("malformed tensor reference")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("malformed tensor shape")
    try:
        stored = tensor(name)
    except KeyError:
        raise ValueError(f"the tensor {name[:80]!r} is missing") from None
    if tag == "$tensor":
        if stored.dtype is not _TENSOR_TYPES.get(dtype_name) or list(stored.shape) != shape:
            raise ValueError(f"the tensor {name[:80]!r} has not the declared shape and dtype")
        return stored
    array, dtype = stored.numpy() if stored.dtype is not torch.bfloat16 else stored, _array_type(dtype_name)
    if dtype_name[0] == ">" or dtype_name == "<c16":
        if stored.dtype is not torch.uint8 or stored.numel() != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"the array {name[:80]!r} has not the declared size")
        return np.asarray(array).view(dtype).reshape(shape)
    if not isinstance(array, np.ndarray) or array.dtype != dtype or list(array.shape) != shape:
        raise ValueError(f"the array {name[:80]!r} has not the declared shape and dtype")
    return array


def _array_type(name: Any) -> np.dtype:
    if not isinstance(name, str) or name not in ARRAY_TYPES:
        raise ValueError("a dtype that checkpoints do not hold")
    return np.dtype(name)


def _bytes(text: Any, size: int) -> bytes:
    data = bytes.fromhex(text) if isinstance(text, str) and len(text) == 2 * size else b""
    if len(data) != size:
        raise ValueError("a number of the wrong size")
    return data
