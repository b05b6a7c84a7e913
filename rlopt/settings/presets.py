"""Presets: YAML files of settings that are known to work, ``configs/<agent>/<suite>/<task>.yaml``. Imports no torch."""

import dataclasses
from collections.abc import Iterable, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from rlopt.errors import ConfigError, unknown_name
from rlopt.registry import agent_names, agent_spec, former_agent, refuse_import, resolve
from rlopt.settings.fields import check_settings, field_types, from_mapping, read_settings, without_former
from rlopt.settings.run import RunConfig
from rlopt.settings.wandb import check_wandb
from rlopt.settings.yaml_files import parse_yaml, read_yaml


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

    :param name: a preset's name, the path of a YAML file that ends in .yaml or .yml, or a run's config.json
    :raises rlopt.errors.ConfigError: for an unknown name or a file that is not a flat mapping
    """
    if name.endswith((".yaml", ".yml", ".json")):
        path = Path(name)
        if not path.exists():
            raise ConfigError(f"preset file {name!r} does not exist")
        content = read_yaml(path, f"preset {name}")  # JSON is YAML
        return _of_run(agent, content, name) if name.endswith(".json") else _settings(content, name)
    entries = dict(_walk(files("rlopt.configs").joinpath(agent), ""))
    if name not in entries:
        raise unknown_name("preset", name, entries, hint="" if entries else f"{agent} has no presets")
    return _settings(parse_yaml(entries[name].read_text(encoding="utf-8")), name)


def _of_run(agent: str, content: Any, name: str) -> dict[str, Any]:
    """The settings of a run folder's config.json, but for its folder and what it was made from."""
    content = content if isinstance(content, dict) else {}
    run, own = content.get("run"), content.get("agent_config")
    if not isinstance(run, dict) or not isinstance(own, dict):
        raise ConfigError(f"preset {name}: it is not a config.json of a run")
    trained, settings = former_agent(str(content.get("agent")), own)
    if trained != agent:
        raise ConfigError(f"preset {name}: it is of {trained}: write rlopt train {trained} --preset {name}")
    settings = without_former(resolve(agent_spec(agent).config), settings, f"preset {name}")
    return settings | {key: value for key, value in run.items() if key not in ("run_dir", "preset", "seeds")}


def _settings(values: Any, name: str) -> dict[str, Any]:
    values = {} if values is None else values
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"preset {name}: expected lines of the form 'setting: value'")
    return values


def split_settings(values: Mapping[str, Any], agent_config: type, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divides flat settings into those of the run and those of the agent.

    Raises :class:`rlopt.errors.ConfigError` with the nearest name for a setting that neither has, or for one that is
    given under both its names.
    """
    run_fields, agent_fields = field_types(RunConfig), field_types(agent_config)
    other_names: Mapping[str, str] = getattr(agent_config, "other_names", {})
    if twice := [name for name, own in other_names.items() if name in values and own in values]:
        raise ConfigError(f"{where}: {twice[0]} and {other_names[twice[0]]} are one setting: leave one of them out")
    values = {other_names.get(name, name): value for name, value in values.items()}
    for name in values:
        if name not in run_fields and name not in agent_fields:
            raise ConfigError(f"{where}: {unknown_name('setting', name, [*run_fields, *agent_fields])}")
    run = {name: value for name, value in values.items() if name in run_fields}
    return run, {name: value for name, value in values.items() if name in agent_fields}


def default_settings(agent: str, agent_config: type, preset: str | None) -> tuple[RunConfig, Any]:
    """The settings of a run before any flag: dataclass defaults <- the agent's ``run_defaults`` <- ``preset``.

    :raises rlopt.errors.ConfigError: for a preset that does not exist or does not fit the agent
    """
    values: dict[str, Any] = dict(getattr(agent_config, "run_defaults", {}))
    where = f"preset {preset}" if preset else f"defaults of {agent}"
    if preset:
        values |= load_preset(agent, preset)
    run_values, agent_values = split_settings(values, agent_config, where)
    # What contradicts itself is told once the flags are known too.
    run = RunConfig(**read_settings(RunConfig, run_values, where))
    return run, agent_config(**read_settings(agent_config, agent_values, where))


def complete_settings(agent: str, run: RunConfig, settings: Any) -> tuple[RunConfig, Any]:
    """What is done once all settings of a run were read: the checks of them all, then the agent's completer.

    :raises rlopt.errors.ConfigError: for the first setting that is missing, contradictory or out of range
    """
    check_settings(run)
    check_settings(settings)
    completer = agent_spec(agent).completer if agent in agent_names() else ""
    if completer:
        run, settings = resolve(completer)(run, settings)
    if not run.env:
        raise ConfigError(
            "no environment given: add --env, such as --env HalfCheetah-v5 or --env dm_control/cheetah-run"
        )
    check_wandb(run)
    return run, settings


def resolved_settings(agent: str, values: Mapping[str, Any], preset: str | None, where: str) -> tuple[RunConfig, Any]:
    """The settings of a run from names and values, as :func:`rlopt.cli.flags.parse_training` has them from flags.

    :param values: settings of the run and of the agent, over the defaults and the ``preset``
    :param where: what the values come from, for error messages
    :raises rlopt.errors.ConfigError: for the first mistake, with the nearest name
    """
    agent_config = resolve(agent_spec(agent).config)
    run, settings = default_settings(agent, agent_config, preset)
    run_values, agent_values = split_settings(values, agent_config, where)
    if "env" not in run_values:
        refuse_import(run.env, f"preset {preset}")
    run = from_mapping(RunConfig, {**dataclasses.asdict(run), **run_values}, where)
    settings = from_mapping(agent_config, {**dataclasses.asdict(settings), **agent_values}, where)
    return complete_settings(agent, run, settings)
