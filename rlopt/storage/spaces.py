"""Gymnasium spaces as JSON and back, bounds bit for bit."""

import math
from collections import OrderedDict
from typing import Any

import numpy as np
from gymnasium import spaces

from rlopt.errors import ConfigError
from rlopt.storage.budget import Budget

_LARGEST = 2**27
"""Bytes of all bounds of a space; an array of one number is written as that number, whatever its shape."""
_PIXELS_OF_A_PARAMETER = 16
_DTYPES = frozenset(
    ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]
)


def encode_space(space: spaces.Space[Any]) -> dict[str, Any]:
    """The JSON of a Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple space.

    :raises rlopt.errors.ConfigError: for a space of another kind
    """
    if type(space) is spaces.Box:
        return {"type": "Box", "low": encode_array(space.low), "high": encode_array(space.high)}
    if type(space) is spaces.Discrete:
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if type(space) is spaces.MultiDiscrete:
        return {"type": "MultiDiscrete", "nvec": encode_array(space.nvec), "start": encode_array(space.start)}
    if type(space) is spaces.MultiBinary:
        return {"type": "MultiBinary", "shape": list(space.shape), "flat": isinstance(space.n, (int, np.integer))}
    if type(space) is spaces.Dict:
        return {"type": "Dict", "spaces": [[key, encode_space(part)] for key, part in space.spaces.items()]}
    if type(space) is spaces.Tuple:
        return {"type": "Tuple", "spaces": [encode_space(part) for part in space.spaces]}
    raise ConfigError(f"a {type(space).__name__} space cannot be written to a checkpoint: use Box, Discrete or Dict")


def decode_space(encoded: Any, budget: Budget | None = None) -> spaces.Space[Any]:
    """The inverse of :func:`encode_space`; ``ValueError``, ``KeyError`` or ``TypeError`` for malformed JSON.

    :param budget: of the file; the default is enough for stacks of large images
    """
    kind, budget = encoded["type"], budget or Budget(_LARGEST)
    if kind == "Box":
        low, high = (decode_array(encoded[side], budget) for side in ("low", "high"))
        if low.shape != high.shape or low.dtype != high.dtype:
            raise ValueError("the bounds of a Box differ in shape or dtype")
        return spaces.Box(low, high, dtype=low.dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(_integer(encoded["n"]), start=_integer(encoded["start"]))
    if kind == "MultiDiscrete":
        nvec, start = (decode_array(encoded[part], budget) for part in ("nvec", "start"))
        return spaces.MultiDiscrete(nvec, dtype=nvec.dtype.type, start=start)
    if kind == "MultiBinary":
        shape = _shape(encoded["shape"])
        budget.charge(math.prod(shape), "shape")
        return spaces.MultiBinary(shape[0] if encoded["flat"] else shape)
    if kind == "Dict":
        parts = [(key, decode_space(part, budget)) for key, part in encoded["spaces"]]
        if not all(isinstance(key, str) for key, _ in parts):
            raise ValueError("a Dict space has keys that are not strings")
        return spaces.Dict(OrderedDict(parts))
    if kind == "Tuple":
        return spaces.Tuple([decode_space(part, budget) for part in encoded["spaces"]])
    raise ValueError(f"unknown space {str(kind)[:40]!r}")


def encode_array(array: np.ndarray) -> dict[str, Any]:
    """dtype, shape and bytes in hexadecimal; one element's where all are the same."""
    if array.dtype.name not in _DTYPES:
        raise ConfigError(f"an array of dtype {array.dtype} cannot be written to a checkpoint: use numbers")
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    raw, size = native.tobytes(), array.dtype.itemsize
    uniform = array.size > 1 and raw == raw[:size] * array.size
    return {"dtype": array.dtype.name, "shape": list(array.shape), "hex": (raw[:size] if uniform else raw).hex()}


def least_inputs(space: spaces.Space[Any]) -> int:
    """The parameters that a network has, at least, for its elements: one for each number and each value of a Discrete
    part. Convolutions share theirs, so that images need fewer.
    """
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        return sum(map(least_inputs, parts))
    shape = space.shape or ()
    return math.prod(shape) // (_PIXELS_OF_A_PARAMETER if len(shape) == 3 else 1)


def decode_array(encoded: Any, budget: Budget) -> np.ndarray:
    """The inverse of :func:`encode_array`; ``ValueError``, ``KeyError`` or ``TypeError`` for malformed JSON."""
    if encoded["dtype"] not in _DTYPES:
        raise ValueError("unknown dtype")
    shape, dtype, raw = _shape(encoded["shape"]), np.dtype(encoded["dtype"]), bytes.fromhex(encoded["hex"])
    elements = math.prod(shape)
    budget.charge(elements * dtype.itemsize, "shape")
    if len(raw) == dtype.itemsize and elements > 1:
        return np.full(shape, np.frombuffer(raw, dtype)[0], dtype)
    if len(raw) != elements * dtype.itemsize:
        raise ValueError("an array has not the size of its shape")
    return np.frombuffer(bytearray(raw), dtype).reshape(shape)


def _shape(encoded: Any) -> tuple[int, ...]:
    shape = tuple(_integer(size) for size in encoded)
    if any(size < 0 for size in shape):
        raise ValueError("a shape is negative")
    return shape


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{str(value)[:40]!r} is not an integer")
    return value
