"""Settings: dataclass defaults <- preset file <- flags. Imports no torch, so that ``--help`` is instant."""

import contextlib
import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union

from rlopt.errors import ConfigError, UnknownNameError, nearest, one_line, unknown_name
from rlopt.storage.json import dump_json, parse_json

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Range:
    """Bounds of a numeric setting, written ``Annotated[float, Range(ge=0, lt=1)]``."""

    gt: float = -math.inf
    ge: float = -math.inf
    lt: float = math.inf
    le: float = math.inf
    infinite: bool = False
    """Whether infinity is inside, where there is no upper bound."""

    def contains(self, value: float) -> bool:
        """Whether ``value`` is within the bounds; NaN never is, and infinity only where it is declared."""
        below = value < self.lt or (self.infinite and value == self.lt)
        return self.gt < value and below and self.ge <= value <= self.le

    def __str__(self) -> str:
        low = f"({_figure(self.gt)}" if self.gt >= self.ge else f"[{_figure(self.ge)}"
        high = f"{_figure(self.lt)})" if self.lt <= self.le else f"{_figure(self.le)}]"
        return f"{low}, {'inf]' if self.infinite else high}"


def _figure(bound: float) -> str:
    """The shortest text that is the bound itself: 0.5, 1e+06, 2147483648."""
    return short if float(short := f"{bound:g}") == bound else str(bound)


@dataclass(frozen=True)
class JsonObject:
    """Of a text setting: it is a JSON object, written as such or, in a preset, as a mapping."""

    example: str = '{"n_states": 12}'


@dataclass(frozen=True)
class Text:
    """Of a text setting: the texts that it takes, written ``Annotated[str, Text(is_auto, "auto")]``."""

    accepts: Callable[[str], bool]
    expected: str
    """What those are, for people."""


@dataclass(frozen=True)
class OrPython:
    """Of a setting: values that can be given only in Python, not by a flag or a preset."""

    accepts: Callable[[Any], bool]
    expected: str = ""
    """What those are, for people."""


OR_SCHEDULE = OrPython(
    callable,
    "a function of the remaining progress, from 1 to 0, such as rlopt.settings.schedules.DecayingRate(3e-4, 'linear')",
)
"""Of a learning rate: in Python it may be a function of the remaining progress, as in Stable-Baselines3."""


class AgentConfig:
    """Base of an agent's settings, a frozen, keyword-only dataclass. Each setting is declared once, as a field.

    The annotation holds type and range (:class:`Range`, ``Literal``, :class:`Text`, :class:`OrPython`); the text under
    the field gives meaning, unit and source. Flags, presets, the constructor's defaults (``tau: float =
    SACConfig.tau``), its checks (:func:`check_arguments`) and the documentation come from these declarations.
    """

    run_defaults: ClassVar[dict[str, Any]] = {}
    """Defaults of :class:`rlopt.settings.run.RunConfig` that are others for this agent."""
    former_settings: ClassVar[Mapping[str, Any]] = {}
    """Settings that the agent had in version 0.1 and no longer has, each with the value that changed nothing."""

    later_settings: ClassVar[Mapping[str, Any]] = {}
    """Settings that the agent did not have in version 0.1, each with the value that means what it did then."""
    other_names: ClassVar[Mapping[str, str]] = {}
    """Further names of settings, each with the one that it has here; flags, presets and files may use them."""

    @classmethod
    def check_together(cls, settings: Mapping[str, Any]) -> None:
        """Raises :class:`rlopt.errors.ConfigError` for settings, each in its range, that contradict each other.

        :param settings: a value for every field; in a constructor also such as only Python has
        """

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The constructor arguments of the agent's class."""
        return {name: getattr(self, name) for name in field_types(type(self))}


def coerce(value: Any, annotation: Any) -> Any:
    """Reads ``value``, as it comes from YAML, JSON or a flag, as the type ``annotation``, and checks its range.

    YAML reads ``3e-4`` as a string and ``64`` where a float is wanted as an integer; both are understood here. Raises
    :class:`rlopt.errors.ConfigError` when the value does not fit.
    """
    return read_setting("", value, annotation)


def read_setting(name: str, value: Any, annotation: Any) -> Any:
    """:func:`coerce` for the setting ``name``, which the error begins with: "tau = 2.0 is outside [0, 1]"."""
    try:
        return _read(value, annotation, text=True)
    except _Refusal as refusal:
        raise refusal.error(name) from None


def check_setting(name: str, value: Any, annotation: Any) -> Any:
    """Raises the error of :func:`read_setting` unless ``value``, of Python and not of text, fits the ``annotation``.

    It is returned with Python's own numbers and tuples. Numbers of numpy are numbers; a text that could be read as a
    number is none, and neither is a bool.
    """
    try:
        return _read(value, annotation, text=False)
    except _Refusal as refusal:
        readable = isinstance(value, str) and _fits_as_text(value, annotation)
        raise refusal.error(name, repr(value) if readable else "") from None


def check_arguments(config_class: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Checks a constructor's arguments against the declarations of ``config_class``, as flags are checked.

    :param arguments: by name, such as ``locals()`` in a constructor's first line; what is not a field is left alone;
        settings of the networks are also looked for in ``policy_kwargs``
    :returns: the arguments that are fields, with Python's own numbers and tuples
    :raises rlopt.errors.ConfigError: for the first argument of the wrong type or out of range, or for arguments that
        contradict each other
    """
    annotations = field_types(config_class)
    given = {
        name: check_setting(name, arguments[name], annotation)
        for name, annotation in annotations.items()
        if name in arguments
    }
    policy_kwargs = arguments.get("policy_kwargs") or {}
    for name in policy_kwargs.keys() & (_settings_of_policy(config_class) if policy_kwargs else ()):
        _check_of_policy(name, policy_kwargs[name], annotations[name])
    check_together = getattr(config_class, "check_together", None)
    if check_together is not None:
        defaults = {name: getattr(config_class, name) for name in annotations if hasattr(config_class, name)}
        check_together(defaults | given)
    return given


def from_arguments(config_class: type[T], arguments: Mapping[str, Any]) -> T:
    """Builds ``config_class`` from a constructor's ``**settings``, checked by :func:`check_arguments`.

    :raises rlopt.errors.ConfigError: also for an argument that is not a setting, with the nearest one
    """
    for name in arguments:
        if name not in field_types(config_class):
            raise unknown_name("setting", name, field_types(config_class))
    return config_class(**check_arguments(config_class, arguments))


def _settings_of_policy(config_class: Any) -> set[str]:
    """The settings that the constructor takes in ``policy_kwargs``."""
    named = config_class().algorithm_kwargs() if hasattr(config_class, "algorithm_kwargs") else {}
    return named.get("policy_kwargs", {}).keys() & field_types(config_class).keys()


def _check_of_policy(name: str, value: Any, annotation: Any) -> None:
    """A setting in ``policy_kwargs`` may also be a class, none for the policy's own, or one value for each network."""
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        value = value[0]  # a former way to write net_arch, of which Stable-Baselines3 warns
    for part in value.values() if isinstance(value, Mapping) else [value]:
        if part is not None and not isinstance(part, type):
            check_setting(name, part, annotation)


def check_settings(config: Any, where: str = "") -> None:
    """Checks the fields of ``config``, one by one and together; errors begin with ``where``.

    :raises rlopt.errors.ConfigError: for the first setting of the wrong type, out of range, or in contradiction
    """
    try:
        check_arguments(type(config), {name: getattr(config, name) for name in field_types(type(config))})
    except ConfigError as error:
        raise type(error)(f"{where}: {error}" if where else str(error)) from None


class _Refusal(Exception):
    """A value does not fit.

    :param reason: what follows "value is"
    :param expected: the type that was wanted, for people; empty for a value of the right type that is out of range
    """

    def __init__(self, value: Any, reason: str, expected: str = "", kind: type[ConfigError] = ConfigError) -> None:
        super().__init__(reason)
        self.value, self.reason, self.expected, self.kind = value, reason, expected, kind

    def error(self, name: str, shown: str = "") -> ConfigError:
        return self.kind(f"{f'{name} = ' if name else ''}{shown or _shown(self.value)} is {self.reason}")


def _mismatch(value: Any, expected: str) -> _Refusal:
    return _Refusal(value, f"not {expected}", expected)


def _shown(value: Any) -> str:
    """``value`` as a flag has it, so that the command line and Python give one message."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value and not value.isspace() and len(value.split()) == 1:
        return one_line(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return one_line(repr(value))


def _fits_as_text(value: str, annotation: Any) -> bool:
    try:
        _read(value, annotation, text=True)
    except _Refusal:
        return False
    return True


def _read(value: Any, annotation: Any, text: bool, extras: tuple[Any, ...] = ()) -> Any:
    """``value`` as ``annotation``; with ``text``, words are read as numbers, booleans, none and sequences.

    :param extras: the metadata of the ``Annotated`` around the annotation
    """
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        try:
            return _read(value, args[0], text, (*extras, *args[1:]))
        except _Refusal as refusal:
            python = [extra.expected for extra in args[1:] if isinstance(extra, OrPython) and extra.expected]
            if not python or not refusal.expected:
                raise
            raise _mismatch(value, ", or in Python ".join([refusal.expected, *python])) from None
    if not text:
        if any(isinstance(extra, OrPython) and extra.accepts(value) for extra in extras):
            return value
        value = _plain(value)
    for extra in extras:
        if isinstance(extra, JsonObject):
            return _json_object(value, extra)
    if origin in (Union, types.UnionType):
        return _read_union(value, args, text, extras)
    if origin is Literal:
        return _read_choice(value, args)
    if origin in (tuple, list):
        return _read_sequence(value, origin, args, text, extras)
    if annotation is bool:
        return _read_bool(value, text)
    if annotation in (int, float):
        return _read_number(value, annotation, text, extras)
    if annotation is str:
        return _read_text(value, extras)
    return value


def _plain(value: Any) -> Any:
    """A scalar of numpy as Python's; numpy is not imported for it."""
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () else value


def _is_none(value: Any, text: bool) -> bool:
    return value is None or (text and isinstance(value, str) and value.lower() in ("none", "null"))


def _json_object(value: Any, kind: JsonObject) -> str | None:
    """The object's text in one form, so that equal settings are equal; none for no object."""
    if _is_none(value, True):
        return None
    try:
        found = parse_json(value if isinstance(value, str) else dump_json(value))
    except (ValueError, TypeError):
        found = None
    if not isinstance(found, dict):
        raise _mismatch(value, f"a JSON object, such as '{kind.example}'")
    return dump_json(found)


def _read_choice(value: Any, choices: tuple[Any, ...]) -> Any:
    if "on" in choices and "off" in choices:  # which YAML reads as true and false
        value = {"true": "on", "false": "off"}.get(str(value).lower(), value)
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    advice = nearest(_shown(value), [str(choice) for choice in choices])
    expected = " or ".join(str(choice) for choice in choices)
    raise _Refusal(value, f"not a choice: {advice}", expected, UnknownNameError)


def _read_bool(value: Any, text: bool) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(value, bool):
        return value
    if text and str(value).lower() in words:
        return words[str(value).lower()]
    raise _mismatch(value, "true or false")


def _read_number(value: Any, kind: type, text: bool, extras: tuple[Any, ...]) -> int | float:
    number = _number(value, kind, text)
    for bounds in [extra for extra in extras if isinstance(extra, Range)] or [Range()]:
        if not bounds.contains(number):
            raise _Refusal(number, f"outside {bounds}")
    return number


def _number(value: Any, kind: type, text: bool) -> int | float:
    expected = _mismatch(value, "a whole number" if kind is int else "a number")
    if isinstance(value, bool) or not isinstance(value, int | float | str) or (isinstance(value, str) and not text):
        raise expected
    try:
        if kind is float:
            return float(value)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                return int(value)
        elif isinstance(value, int):
            return value
        # 1e6 is a whole number where it is text: YAML and the shell have no other short way to write it.
        number = float(value)
    except (ValueError, OverflowError):
        raise expected from None
    if not text or not number.is_integer():
        raise expected
    return int(number)


def _read_text(value: Any, extras: tuple[Any, ...]) -> str:
    kinds = [extra for extra in extras if isinstance(extra, Text)]
    if not isinstance(value, str) or not all(kind.accepts(value) for kind in kinds):
        if not kinds:
            raise _Refusal(value, "not a text: write it in quotes", "a text")
        raise _mismatch(value, kinds[0].expected)
    return value


def _read_union(value: Any, members: tuple[Any, ...], text: bool, extras: tuple[Any, ...]) -> Any:
    optional = types.NoneType in members
    if optional and _is_none(value, text):
        return None
    expected: list[str] = []
    # Text accepts nearly everything, so it is tried last.
    kinds = sorted((member for member in members if member is not types.NoneType), key=_is_text)
    for member in kinds:
        try:
            return _read(value, member, text, extras)
        except _Refusal as refusal:
            of_an_item = refusal.value is not value and isinstance(value, list | tuple)
            if not refusal.expected or (len(kinds) == 1 and (of_an_item or refusal.kind is UnknownNameError)):
                raise
            expected.append(refusal.expected)
    raise _mismatch(value, " or ".join([*expected, "none"] if optional else expected))


def _is_text(annotation: Any) -> bool:
    return annotation is str or (typing.get_origin(annotation) is Annotated and typing.get_args(annotation)[0] is str)


def _read_sequence(value: Any, origin: type, args: tuple[Any, ...], text: bool, extras: tuple[Any, ...]) -> Any:
    if not text and not isinstance(value, list | tuple):
        raise _mismatch(value, "a list")
    items = list(value) if isinstance(value, list | tuple) else [value]
    if text:
        items = [
            part for item in items for part in (item.replace(",", " ").split() if isinstance(item, str) else [item])
        ]
    if origin is list or (len(args) == 2 and args[1] is Ellipsis):
        return origin(_read(item, args[0], text, extras) for item in items)
    if len(items) != len(args):
        raise _mismatch(value, f"{len(args)} values")
    return tuple(_read(item, member, text, extras) for item, member in zip(items, args, strict=True))


def field_types(config_class: Any) -> dict[str, Any]:
    """The annotation of every field of a settings dataclass, with :class:`Range` kept."""
    return dict(_field_types(config_class))


@functools.cache
def _field_types(config_class: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(config_class, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_class)}


def read_settings(config_class: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``values``, each read as the type of its field in ``config_class`` and checked against its range.

    :param where: what the values come from, for error messages: "preset dmc/cheetah-run"; flags have none
    :raises rlopt.errors.ConfigError: for an unknown field, a value of the wrong type, or one out of range
    """
    annotations = field_types(config_class)
    place = f"{where}: " if where else ""
    settings: dict[str, Any] = {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{place}{one_line(repr(values))} is not a mapping of settings")
    for name, value in values.items():
        if name not in annotations:
            raise ConfigError(f"{place}{unknown_name('setting', name, annotations)}")
        try:
            settings[name] = read_setting(name, value, annotations[name])
        except ConfigError as error:
            raise type(error)(f"{place}{error}") from None
    return settings


def without_former(config_class: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``values``, all that this version or an earlier one had, without :attr:`AgentConfig.former_settings`.

    Those under :attr:`AgentConfig.other_names` get the present names.

    :attr:`AgentConfig.later_settings` that are not among them get the value that means what the earlier version did.

    :raises rlopt.errors.ConfigError: one of those changed something
    """
    former = getattr(config_class, "former_settings", {})
    names = getattr(config_class, "other_names", {})
    values = {names.get(name, name): value for name, value in values.items()}
    for name in former.keys() & values.keys():
        if values[name] != former[name]:
            raise ConfigError(
                f"{where}: {name} = {_shown(values[name])} is of version 0.1, whose agent of this name had more "
                "settings: read it with rlopt 0.1"
            )
    later = getattr(config_class, "later_settings", {})
    return {**later, **{name: value for name, value in values.items() if name not in former}}


def from_mapping(config_class: type[T], values: Mapping[str, Any], where: str) -> T:
    """Builds ``config_class`` from ``values``, read by :func:`read_settings` and checked together."""
    config = config_class(**read_settings(config_class, values, where))
    check_settings(config, where)
    return config
