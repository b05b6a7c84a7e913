"""Settings: dataclass defaults <- preset file <- flags. Imports no torch, so that ``--help`` is instant."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union

from rlopt.errors import ConfigError, unknown_name
from rlopt.storage.json import dump_json, parse_json

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Range:
    """Bounds of a numeric setting, written ``Annotated[float, Range(ge=0, lt=1)]``."""

    gt: float = -math.inf
    ge: float = -math.inf
    lt: float = math.inf
    le: float = math.inf

    def contains(self, value: float) -> bool:
        """Whether ``value`` is within the bounds; NaN never is."""
        return self.gt < value < self.lt and self.ge <= value <= self.le

    def __str__(self) -> str:
        low = f"({self.gt:g}" if self.gt > self.ge else f"[{self.ge:g}" if self.ge > -math.inf else "(-inf"
        high = f"{self.lt:g})" if self.lt < self.le else f"{self.le:g}]" if self.le < math.inf else "inf)"
        return f"{low}, {high}"


@dataclass(frozen=True)
class JsonObject:
    """Of a text setting: it is a JSON object, written as such or, in a preset, as a mapping."""

    example: str = '{"n_states": 12}'


class _Mismatch(Exception):
    """A value does not have the wanted type."""

    def __init__(self, value: Any, expected: str) -> None:
        super().__init__(f"{value!r} is not {expected}")
        self.expected = expected


def coerce(value: Any, annotation: Any) -> Any:
    """Reads ``value``, as it comes from YAML, JSON or a flag, as the type ``annotation``.

    YAML reads ``3e-4`` as a string and ``64`` where a float is wanted as an integer; both are understood here. Raises
    :class:`rlopt.errors.ConfigError` when the value does not fit.
    """
    try:
        return _coerce(value, annotation)
    except _Mismatch as mismatch:
        raise ConfigError(str(mismatch)) from None


def _coerce(value: Any, annotation: Any) -> Any:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        for extra in args[1:]:
            if isinstance(extra, JsonObject):
                return _json_object(value, extra)
        return _coerce(value, args[0])
    if origin in (Union, types.UnionType):
        return _coerce_union(value, args)
    if origin is Literal:
        if value not in args:
            raise unknown_name("choice", str(value), [str(choice) for choice in args])
        return value
    if origin in (tuple, list):
        return _coerce_sequence(value, origin, args)
    if annotation is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if str(value).lower() in words:
            return words[str(value).lower()]
        raise _Mismatch(value, "true or false")
    if annotation in (int, float):
        return _coerce_number(value, annotation)
    if annotation is str and not isinstance(value, str):
        raise _Mismatch(value, "a text")
    return value


def _json_object(value: Any, kind: JsonObject) -> str | None:
    """The object's text in one form, so that equal settings are equal; none for no object."""
    if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
        return None
    try:
        found = parse_json(value if isinstance(value, str) else dump_json(value))
    except (ValueError, TypeError):
        found = None
    if not isinstance(found, dict):
        raise _Mismatch(value, f"a JSON object, such as '{kind.example}'")
    return dump_json(found)


def _coerce_number(value: Any, kind: type) -> int | float:
    expected = _Mismatch(value, "a whole number" if kind is int else "a number")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise expected
    if kind is float:
        try:
            return float(value)
        except ValueError:
            raise expected from None
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass
    try:
        number = float(value)
    except ValueError:
        raise expected from None
    if not number.is_integer():
        raise expected
    return int(number)


def _coerce_union(value: Any, members: tuple[Any, ...]) -> Any:
    optional = types.NoneType in members
    if optional and (value is None or (isinstance(value, str) and value.lower() in ("none", "null"))):
        return None
    expected: list[str] = []
    # Text accepts nearly everything, so it is tried last.
    for member in sorted((m for m in members if m is not types.NoneType), key=lambda m: m is str):
        try:
            return _coerce(value, member)
        except _Mismatch as mismatch:
            expected.append(mismatch.expected)
        except ConfigError:
            expected.append(" or ".join(repr(choice) for choice in typing.get_args(member)))
    raise _Mismatch(value, " or ".join([*expected, "none"] if optional else expected))


def _coerce_sequence(value: Any, origin: type, args: tuple[Any, ...]) -> Any:
    given = list(value) if isinstance(value, list | tuple) else [value]
    items = [part for item in given for part in (item.replace(",", " ").split() if isinstance(item, str) else [item])]
    if origin is list or (len(args) == 2 and args[1] is Ellipsis):
        return origin(_coerce(item, args[0]) for item in items)
    if len(items) != len(args):
        raise _Mismatch(value, f"{len(args)} values")
    return tuple(_coerce(item, member) for item, member in zip(items, args, strict=True))


def field_types(config_class: type) -> dict[str, Any]:
    """The annotation of every field of a settings dataclass, with :class:`Range` kept."""
    hints = typing.get_type_hints(config_class, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_class)}


def from_mapping(config_class: type[T], values: Mapping[str, Any], where: str) -> T:
    """Builds ``config_class`` from ``values``, each read as its field's type and checked against its range.

    :param where: what the values come from, for error messages: "preset dmc/cheetah-run"
    :raises rlopt.errors.ConfigError: for an unknown field, a value of the wrong type, or one out of range
    """
    annotations = field_types(config_class)
    settings: dict[str, Any] = {}
    for name, value in values.items():
        if name not in annotations:
            raise ConfigError(f"{where}: {unknown_name('setting', name, annotations)}")
        try:
            settings[name] = coerce(value, annotations[name])
        except ConfigError as error:
            raise ConfigError(f"{where}: {name}: {error}") from None
    config = config_class(**settings)
    check_ranges(config, where)
    return config


def check_ranges(config: Any, where: str = "") -> None:
    """Raises :class:`rlopt.errors.ConfigError` for the first setting that lies outside its :class:`Range`."""
    for name, annotation in field_types(type(config)).items():
        outside = _outside(getattr(config, name), annotation)
        if outside is not None:
            value, allowed = outside
            raise ConfigError(f"{where + ': ' if where else ''}{name} = {value!r} is outside {allowed}")


def _outside(value: Any, annotation: Any) -> tuple[Any, Range] | None:
    """The number inside ``value`` that breaks a range of ``annotation``, with that range."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        numbers = value if isinstance(value, tuple | list) else [value]
        for bounds in (extra for extra in args[1:] if isinstance(extra, Range)):
            for number in numbers:
                if isinstance(number, int | float) and not bounds.contains(number):
                    return number, bounds
        return _outside(value, args[0])
    if origin in (tuple, list) and isinstance(value, tuple | list):
        variadic = origin is list or (len(args) == 2 and args[1] is Ellipsis)
        members = [args[0]] * len(value) if variadic else args
        found = (_outside(item, member) for item, member in zip(value, members, strict=True))
        return next((outside for outside in found if outside is not None), None)
    if origin in (Union, types.UnionType) and value is not None:
        found = (_outside(value, member) for member in args)
        return next((outside for outside in found if outside is not None), None)
    return None
