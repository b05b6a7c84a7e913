"""Strict JSON: what is written reads back the same, and what cannot be honest is refused. Imports no torch."""

import json
import math
from typing import Any

MAX_DEPTH = 64
MAX_CONTAINERS = 2**20
"""Lists and objects of one text: empty ones take a byte or two there, and sixty in memory."""
MAX_VALUES = 2**22
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def dump_json(value: Any) -> str:
    """Strict JSON, one line, keys in the order given."""
    return _ENCODER.encode(value)


def check_size(text: str | bytes) -> None:
    """Raises ``ValueError`` for a JSON text that would take many times its size in memory; big data are not JSON."""
    lists, objects, commas = (text.count(mark if isinstance(text, str) else mark.encode()) for mark in "[{,")  # type: ignore[arg-type]
    if lists + objects > MAX_CONTAINERS or commas > MAX_VALUES:
        raise ValueError(f"it has more than {MAX_CONTAINERS} lists and objects, or {MAX_VALUES} values")


def parse_json(text: str | bytes) -> Any:
    """Strict JSON: ``ValueError`` for repeated keys, NaN, infinities, too deep nesting or many values, or text after
    the end.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            raise ValueError("repeated key")
        return value

    def finite(number: str) -> float:
        value = float(number)
        if not math.isfinite(value):
            raise ValueError("a number out of range")
        return value

    def constant(name: str) -> float:
        raise ValueError(f"{name} is not JSON")

    check_size(text)
    try:
        value = json.loads(text, object_pairs_hook=unique, parse_float=finite, parse_constant=constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        if depth > 4 * MAX_DEPTH:
            raise ValueError("nested too deeply")
        level = [item for parent in level for item in (parent.values() if isinstance(parent, dict) else parent)]
    return value
