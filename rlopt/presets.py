"""Presets: YAML files of settings that are known to work, ``configs/<agent>/<suite>/<task>.yaml``. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from rlopt.config import RunConfig, field_types
from rlopt.errors import ConfigError, unknown_name


def preset_names(agent: str) -> list[str]:
    """The names of an agent's presets, such as ``dmc/cheetah-run``, in alphabetical order."""
    return sorted(name for name, _ in _walk(files("rlopt.configs").joinpath(agent), ""))


def _walk(folder: Traversable, prefix: str) -> Iterable[tuple[str, Traversable]]:
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            yield prefix + entry.name.removesuffix(".yaml"), entry


def load_preset(agent: str, name: str) -> dict[str, Any]:
    """Reads the settings of a preset, untyped as YAML gives them.

    :param name: a preset's name, or the path of a YAML file that ends in .yaml or .yml
    :raises rlopt.errors.ConfigError: for an unknown name or a file that is not a flat mapping
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"preset file {name!r} does not exist")
        return _parse(path.read_text(), name)
    entries = dict(_walk(files("rlopt.configs").joinpath(agent), ""))
    if name not in entries:
        raise unknown_name("preset", name, entries, hint="" if entries else f"{agent} has no presets")
    return _parse(entries[name].read_text(), name)


def _parse(text: str, name: str) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"preset {name}: not valid YAML: {' '.join(str(error).split())}") from None
    values = {} if values is None else values
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"preset {name}: expected lines of the form 'setting: value'")
    return values


def split_settings(values: Mapping[str, Any], agent_config: type, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divides flat settings into those of the run and those of the agent.

    Raises :class:`rlopt.errors.ConfigError` with the nearest name for a setting that neither has.
    """
    run_fields, agent_fields = field_types(RunConfig), field_types(agent_config)
    for name in values:
        if name not in run_fields and name not in agent_fields:
            raise ConfigError(f"{where}: {unknown_name('setting', name, [*run_fields, *agent_fields])}")
    run = {name: value for name, value in values.items() if name in run_fields}
    return run, {name: value for name, value in values.items() if name in agent_fields}
