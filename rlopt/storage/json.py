"""Strict JSON: what is written reads back the same, and what cannot be honest is refused. Imports no torch."""

from __future__ import annotations

import json
import math
from typing import Any

MAX_DEPTH = 64


def dump_json(value: Any) -> str:
    """Strict JSON, one line, keys in the order given."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def parse_json(text: str | bytes) -> Any:
    """Strict JSON: ``ValueError`` for repeated keys, NaN, infinities, too deep nesting, or text after the end."""

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
