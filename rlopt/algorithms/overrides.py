"""Methods that a subclass of the user's own puts in the place of an agent's: their names and arguments are checked."""

import inspect
import warnings
from typing import Any

from rlopt.errors import ConfigError, meant_by_slip

_LOSSES = ("loss", "objective")
"""What the names of the methods end in that say what is minimised."""


def check_overrides(cls: type) -> None:
    """Warns of a method that overrides nothing but for a slip, which would train as before in silence.

    :raises rlopt.errors.ConfigError: for a loss that cannot take what it will be called with
    """
    inherited: dict[str, Any] = {}
    for base in cls.__mro__[-2:0:-1]:
        inherited |= {name: value for name, value in vars(base).items() if name[0] != "_" and _is_method(value)}
    own = {name: value for name, value in vars(cls).items() if name[0] != "_" and _is_method(value)}
    helps = any(name.endswith(_LOSSES) for name in own.keys() & inherited.keys())  # others may be parts of that loss
    for name, value in own.items():
        if name in inherited and name.endswith(_LOSSES):
            _check_arguments(cls.__name__, name, value, inherited[name])
        elif name not in inherited and (advice := _advice(name, list(inherited), helps)):
            modules = [frame.frame.f_globals.get("__name__") for frame in inspect.stack(0)]
            level = modules.index(cls.__module__) + 1 if cls.__module__ in modules else 1
            message = f"{cls.__name__}.{name} overrides nothing, and rlopt does not call it: {advice}"
            warnings.warn(message, stacklevel=level)


def _is_method(value: Any) -> bool:
    return isinstance(value, staticmethod | classmethod) or (callable(value) and not isinstance(value, type))


def _advice(name: str, known: list[str], helps: bool) -> str:
    """What was meant by a method that is not in ``known``; empty where it may well be one of the user's own."""
    meant = meant_by_slip(name, known)
    if meant is None and (helps or not name.endswith(_LOSSES)):
        return ""
    losses = [other for other in known if other.endswith(_LOSSES)]
    if meant is None and name.replace("loss", "objective") in losses:
        meant = name.replace("loss", "objective")
    return f"did you mean {meant!r}?" if meant else f"its losses are {', '.join(losses)}" if losses else ""


def _check_arguments(cls: str, name: str, value: Any, replaced: Any) -> None:
    calls = [part for part in _parameters(replaced) if part.kind is not part.VAR_KEYWORD]
    given = [part.name for part in calls if part.kind is part.POSITIONAL_OR_KEYWORD and part.default is part.empty]
    named = [part.name for part in calls if part.kind is part.KEYWORD_ONLY and part.default is part.empty]
    if _takes(_parameters(value), given, named):
        return
    cure = f"called as {name}({', '.join([*given, *(f'{each}=...' for each in named)])})"
    if not isinstance(value, staticmethod) and _takes(_parameters(staticmethod(value)), given, named):
        cure = f"called without the model: write {name} = staticmethod(...)"
    raise ConfigError(f"{cls}.{name} cannot take its arguments: it is {cure}")


def _parameters(method: Any) -> list[inspect.Parameter]:
    """Of a method in a class body, without the model itself."""
    own = list(inspect.signature(getattr(method, "__func__", method)).parameters.values())
    bound = not isinstance(method, staticmethod) and bool(own) and own[0].kind is own[0].POSITIONAL_OR_KEYWORD
    return own[1:] if bound else own


def _takes(parameters: list[inspect.Parameter], given: list[str], named: list[str]) -> bool:
    try:
        inspect.Signature(parameters).bind(*given, **dict.fromkeys(named))
    except TypeError:
        return False
    return True
