"""Command-line flags from settings dataclasses. Imports no torch.

tyro writes the help and builds the dataclasses. Its reports of errors are boxes of several lines, so the flags are
checked here first and a mistake becomes one line that names the nearest valid flag or choice.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import textwrap
import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Union

from rlopt.config import RunConfig, field_types, from_mapping, read_setting
from rlopt.errors import ConfigError, unknown_name
from rlopt.presets import complete_settings, default_settings, split_settings


def parse_training(agent: str, agent_config: type, argv: Sequence[str]) -> tuple[RunConfig, Any]:
    """Merges dataclass defaults <- the agent's ``run_defaults`` <- preset <- flags.

    :returns: the run's settings and the agent's settings, within their ranges
    :raises rlopt.errors.ConfigError: for the first mistake, in one line
    """
    annotations = field_types(RunConfig) | field_types(agent_config)
    asks_help = any(token in ("-h", "--help") for token in argv)
    tokens = list(argv) if asks_help else normalise(argv, annotations)
    defaults = default_settings(agent, agent_config, _value_of("--preset", tokens))
    return complete_settings(agent, *_parse_with_tyro(agent, defaults, tokens))


def parse_settings(prog: str, config_class: type, argv: Sequence[str]) -> Any:
    """Reads flags into ``config_class``; ``--help`` prints and exits.

    :param prog: the command before the flags, for the help: "rlopt data augment IN OUT"
    :raises rlopt.errors.ConfigError: for the first mistake, in one line
    """
    asks_help = any(token in ("-h", "--help") for token in argv)
    tokens = list(argv) if asks_help else normalise(argv, field_types(config_class))
    return from_mapping(config_class, _values_by_tyro(prog, _summary(config_class), (config_class(),), tokens), prog)


def _parse_with_tyro(agent: str, defaults: tuple[RunConfig, Any], tokens: Sequence[str]) -> tuple[RunConfig, Any]:
    run, settings = defaults
    values = _values_by_tyro(f"rlopt train {agent}", _summary(type(settings)) or agent, defaults, tokens)
    run_values, agent_values = split_settings(values, type(settings), "flags")
    return dataclasses.replace(run, **run_values), dataclasses.replace(settings, **agent_values)


def _summary(config_class: type) -> str:
    return " ".join((config_class.__doc__ or "").split("\n\n")[0].split())


def _values_by_tyro(prog: str, summary: str, defaults: Sequence[Any], tokens: Sequence[str]) -> dict[str, Any]:
    """What the flags say, by field name, for the fields of all ``defaults`` together."""
    import tyro

    fields: list[tuple[str, Any, Any]] = []
    for config in defaults:
        texts = field_help(type(config))
        for name, annotation in field_types(type(config)).items():
            described = Annotated[annotation, tyro.conf.arg(help=texts.get(name, ""))]  # type: ignore[valid-type]
            fields.append((name, described, dataclasses.field(default=getattr(config, name))))
    flat = dataclasses.make_dataclass("Settings", fields, frozen=True, kw_only=True)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed: Any = tyro.cli(flat, prog=prog, description=summary, args=list(tokens))
    except SystemExit as stop:
        if stop.code:
            raise ConfigError(f"{_one_line(complaint.getvalue())} (see {prog} --help)") from None
        raise
    return {name: getattr(parsed, name) for name, _, _ in fields}


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
    return texts


def _one_line(box: str) -> str:
    """The first paragraph of tyro's boxed message, without the box."""
    lines = [line.strip("│ ") for line in box.splitlines() if line.startswith("│")]
    message: list[str] = []
    for line in lines:
        if line.startswith("─"):
            break
        message.append(line)
    return " ".join(message) or " ".join(box.split()) or "the options are not understood"


def _value_of(flag: str, tokens: Sequence[str]) -> str | None:
    """The value that follows the last ``flag``, or None."""
    values = [tokens[i + 1] for i, token in enumerate(tokens[:-1]) if token == flag]
    values += [token.partition("=")[2] for token in tokens if token.startswith(flag + "=")]
    return values[-1] if values else None


def normalise(argv: Sequence[str], annotations: dict[str, Any]) -> list[str]:
    """Checks flags and values and returns them in the one form that tyro reads.

    Underscores become hyphens, ``--flag=value`` becomes two tokens, ``1e6`` becomes 1000000 where a whole number is
    wanted, and ``--flag true`` becomes ``--flag``. Raises :class:`rlopt.errors.ConfigError` for the first mistake.
    """
    tokens: list[str] = []
    position = 0
    while position < len(argv):
        token = argv[position]
        position += 1
        if not token.startswith("--"):
            raise ConfigError(f"unexpected argument {token!r}: options are written --name value")
        name, equals, attached = token[2:].partition("=")
        values = [attached] if equals else []
        while not equals and position < len(argv) and not is_flag(argv[position]):
            values.append(argv[position])
            position += 1
        tokens += _normalise_flag(name.replace("-", "_"), values, annotations)
    return tokens


def is_flag(token: str) -> bool:
    """Whether a token starts an option; negative numbers do not."""
    return token.startswith("--") or (
        token.startswith("-") and len(token) > 1 and token[1].isalpha() and token != "-inf"
    )


def _normalise_flag(name: str, values: list[str], annotations: dict[str, Any]) -> list[str]:
    negated = name.startswith("no_") and name not in annotations and annotations.get(name[3:]) is bool
    name = name[3:] if negated else name
    if name not in annotations:
        raise unknown_name("option", f"--{name}".replace("_", "-"), [f"--{n}".replace("_", "-") for n in annotations])
    flag, annotation = f"--{name}".replace("_", "-"), annotations[name]
    if annotation is bool:
        _require_count(flag, values, 1, optional=True)
        wanted = read_setting(name, values[0], bool) if values else True
        return [flag if wanted != negated else flag.replace("--", "--no-", 1)]
    if _is_sequence(annotation):
        found = read_setting(name, list(values), annotation)
        return [flag, *(str(item) for item in found)] if found is not None else [flag, "None"]
    _require_count(flag, values, 1)
    return [flag, str(read_setting(name, values[0], annotation))]


def _require_count(flag: str, values: Sequence[str], count: int, *, optional: bool = False) -> None:
    if len(values) > count:
        raise ConfigError(f"{flag}: one value expected, got {' '.join(values)!r}")
    if len(values) < count and not optional:
        raise ConfigError(f"{flag}: a value is missing")


def _is_sequence(annotation: Any) -> bool:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _is_sequence(args[0])
    if origin in (Union, types.UnionType):
        return any(_is_sequence(member) for member in args)
    return origin in (tuple, list)
