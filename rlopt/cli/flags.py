"""Command-line flags from settings dataclasses: read, checked and explained. Imports no torch.

A mistake becomes one line that names the nearest valid flag or choice.
"""

import argparse
import ast
import dataclasses
import inspect
import itertools
import sys
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union

from rlopt.cli.parsing import refuse_option
from rlopt.errors import ConfigError
from rlopt.registry import agent_names, agent_spec, refuse_import
from rlopt.settings.fields import JsonObject, Range, field_types, from_mapping, read_setting
from rlopt.settings.presets import complete_settings, default_settings, split_settings
from rlopt.settings.run import RunConfig


def parse_training(agent: str, agent_config: type, argv: Sequence[str]) -> tuple[RunConfig, Any]:
    """Merges dataclass defaults <- the agent's ``run_defaults`` <- preset <- flags; ``--help`` prints and exits.

    :returns: the run's settings and the agent's settings, within their ranges
    :raises rlopt.errors.ConfigError: for the first mistake, in one line
    """
    if _asks_help(argv):
        hidden = _REFUSED if agent in agent_names() and agent_spec(agent).builder else ()
        _print_help(f"rlopt train {agent}", default_settings(agent, agent_config, _preset_in(argv)), agent, hidden)
    own = field_types(agent_config)
    own |= {name: own[meant] for name, meant in getattr(agent_config, "other_names", {}).items()}
    values = read_flags(argv, field_types(RunConfig) | own, f"rlopt train {agent}")
    run, settings = default_settings(agent, agent_config, values.get("preset"))
    if "env" not in values:
        refuse_import(run.env, f"preset {values.get('preset')}")
    run_values, agent_values = split_settings(values, agent_config, "flags")
    return complete_settings(
        agent, dataclasses.replace(run, **run_values), dataclasses.replace(settings, **agent_values)
    )


def parse_settings(prog: str, config_class: type, argv: Sequence[str]) -> Any:
    """Reads flags into ``config_class``; ``--help`` prints and exits.

    :param prog: the command before the flags, for the help: "rlopt data augment IN OUT"
    :raises rlopt.errors.ConfigError: for the first mistake, in one line
    """
    if _asks_help(argv):
        _print_help(prog, [config_class()])
    return from_mapping(config_class, read_flags(argv, field_types(config_class), prog), prog)


def _asks_help(argv: Sequence[str]) -> bool:
    return any(token in ("-h", "--help") for token in argv)


def _preset_in(argv: Sequence[str]) -> str | None:
    """The preset of a command that asks for help, whose other flags are not read."""
    found = [after for token, after in itertools.pairwise(argv) if token == "--preset"]
    found += [token.partition("=")[2] for token in argv if token.startswith("--preset=")]
    return found[-1] if found else None


_REFUSED = ("init_from", "reward")
"""Settings of a run that agents with a builder of their own refuse (:func:`rlopt.runs.build.build`)."""


def _print_help(prog: str, configs: Sequence[Any], summary: str = "", hidden: Sequence[str] = ()) -> typing.NoReturn:
    described = " ".join((configs[-1].__doc__ or summary).split("\n\n")[0].split())
    parser = argparse.ArgumentParser(prog, usage=f"{prog} [options]", description=described, add_help=False)
    parser.add_argument("-h", "--help", action="store_true", help="Prints this text.")
    for config in configs:
        texts = field_help(type(config))
        for name, annotation in field_types(type(config)).items():
            if name in hidden:
                continue
            flag = f"--{name}".replace("_", "-")
            notes = [f"default: {shown_default(getattr(config, name))}", *ranges_of(annotation)]
            text = f"{texts.get(name, '')} ({'; '.join(notes)})".replace("%", "%%")
            if annotation is bool:
                parser.add_argument(flag, flag.replace("--", "--no-", 1), action="store_true", help=text)
            else:
                parser.add_argument(flag, metavar=kind_of(annotation), help=text)
    parser.print_help()
    sys.exit(0)


def shown_default(value: Any) -> str:
    """A default as one would write it after its flag."""
    if isinstance(value, tuple | list):
        return " ".join(map(str, value)) or "nothing"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value) or "nothing"


def kind_of(annotation: Any) -> str:
    """What a flag takes, for its help: INT, FLOAT, TEXT, JSON, or the choices."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return "JSON" if any(isinstance(extra, JsonObject) for extra in args[1:]) else kind_of(args[0])
    if origin in (Union, types.UnionType):
        return "|".join(kind_of(member) for member in args)
    if origin is Literal:
        return "|".join(map(str, args))
    if origin in (tuple, list):
        return f"{kind_of(args[0])} ..."
    return {int: "INT", float: "FLOAT", str: "TEXT", bool: "BOOL", types.NoneType: "none"}[annotation]


def ranges_of(annotation: Any) -> list[str]:
    """The ranges that an annotation declares."""
    found = [
        str(extra) for extra in getattr(annotation, "__metadata__", ()) if extra != Range() and isinstance(extra, Range)
    ]
    return found + [each for member in typing.get_args(annotation) for each in ranges_of(member)]


def field_help(config_class: type) -> dict[str, str]:
    """The text under each field of a settings dataclass, inherited ones included, as one paragraph."""
    texts: dict[str, str] = {}
    for owner in reversed(config_class.__mro__[:-1]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in itertools.pairwise(definition.body):
            is_field = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if is_field and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                texts[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[attr-defined]
    return {name: texts[name] for name in field_types(config_class) if name in texts}


def read_flags(argv: Sequence[str], annotations: Mapping[str, Any], prog: str) -> dict[str, Any]:
    """The values of flags by the names of their settings, each as its annotation wants it and within its range.

    Underscores stand for hyphens, ``--flag=value`` for ``--flag value``, ``--no-flag`` for ``--flag false``, and of a
    flag that is given twice the last one holds.

    :param prog: the command, whose ``--help`` lists them
    :raises rlopt.errors.ConfigError: for the first mistake, in one line
    """
    values: dict[str, Any] = {}
    position = 0
    while position < len(argv):
        token = argv[position]
        position += 1
        if not token.startswith("--"):
            raise ConfigError(f"unexpected argument {token!r}: options are written --name value")
        name, equals, attached = token[2:].partition("=")
        words = [attached] if equals else []
        while not equals and position < len(argv) and not is_flag(argv[position]):
            words.append(argv[position])
            position += 1
        name = name.replace("-", "_")
        negated = name not in annotations and annotations.get(name.removeprefix("no_")) is bool
        name = name.removeprefix("no_") if negated else name
        value = _read_flag(name, words, annotations, prog)
        values[name] = value != negated if negated else value
    return values


def is_flag(token: str) -> bool:
    """Whether a token starts an option; negative numbers do not."""
    return token.startswith("--") or (
        token.startswith("-") and len(token) > 1 and token[1].isalpha() and token != "-inf"
    )


def _read_flag(name: str, words: list[str], annotations: Mapping[str, Any], prog: str) -> Any:
    flag = f"--{name}".replace("_", "-")
    if name not in annotations:
        known = [f"--{each}".replace("_", "-") for each in annotations]
        negated = name.removeprefix("no_")
        if name != negated and "off" in typing.get_args(annotations.get(negated)):
            raise ConfigError(f"unknown option {flag!r}: write --{negated.replace('_', '-')} off")
        refuse_option(flag, known, prog)
    annotation = annotations[name]
    if _is_sequence(annotation):
        return read_setting(name, words, annotation)
    if not words and annotation is bool:
        return True
    if not words:
        raise ConfigError(f"{flag}: a value is missing")
    if len(words) > 1:
        raise ConfigError(f"{flag}: one value expected, got {' '.join(words)!r}")
    return read_setting(name, words[0], annotation)


def _is_sequence(annotation: Any) -> bool:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _is_sequence(args[0])
    if origin in (Union, types.UnionType):
        return any(_is_sequence(member) for member in args)
    return origin in (tuple, list)
