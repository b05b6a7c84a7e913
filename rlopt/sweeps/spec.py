"""The runs of a sweep: agents x tasks x presets x settings x seeds, each an ordinary run. Imports no torch."""

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlopt.engine.jobs import Job
from rlopt.errors import ConfigError, unknown_name
from rlopt.registry import agent_spec, import_agent, refuse_import
from rlopt.settings.presets import resolved_settings
from rlopt.settings.run import RunConfig, parse_seeds
from rlopt.settings.wandb import in_wandb_group
from rlopt.settings.yaml_files import read_yaml
from rlopt.sweeps.job import TRAINING

MOST_JOBS = 100_000
_LONGEST_NAME = 100
_RESERVED = {
    "env": "--env",
    "preset": "--preset",
    "seed": "--seeds",
    "seeds": "--seeds",
    "run_dir": "--sweep-dir",
    "profile": "rlopt train --profile, which measures one run",
}
"""Settings of a run that are a sweep's own, and what to give instead."""


@dataclass(frozen=True)
class SweepSpec:
    """The axes of a sweep, as its YAML file and its flags give them."""

    agent: tuple[str, ...]
    env: tuple[str, ...] = ()
    """Empty: that of the preset, or of the data set."""
    preset: tuple[str, ...] = ()
    seeds: str = "0"
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the runs and the agents that all have in common."""
    set: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Settings with several values, every combination of which is run."""

    def __post_init__(self) -> None:
        if not self.agent:
            raise ConfigError("the sweep is empty: name an agent, --agent mdpo")
        for name in [*self.settings, *self.set]:
            if name in _RESERVED:
                raise ConfigError(f"a sweep has its own {name}: use {_RESERVED[name]}")
        for name, values in self.set.items():
            if not values:
                raise ConfigError(f"the sweep is empty: {name} has no values")
            if name in self.settings:
                raise ConfigError(f"{name} is given once and for all, and with several values: give one of them")
        for kind in ("agent", "env", "preset"):
            values = getattr(self, kind)
            if len(set(values)) < len(values):
                raise ConfigError(f"{kind}: {next(v for v in values if values.count(v) > 1)} is named twice")

    @property
    def digest(self) -> str:
        """Eight characters that tell this sweep from others."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep."""

    agent: str
    env: str
    setting: str
    """What tells it from runs of the same agent and task, such as "learning_rate=0.0003"; empty if nothing does."""
    seed: int
    group: str
    """The name that the runs of all seeds share."""
    threads: int
    """Threads that it computes with."""
    job: Job


def spec_from(values: Mapping[str, Any], where: str) -> SweepSpec:
    """Reads a sweep from what YAML, JSON or the flags hold.

    :raises rlopt.errors.ConfigError: for an unknown key, with the nearest one, or a value of another kind
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: the sweep is not a mapping: it holds agent:, env:, seeds:, settings:, set:")
    known = [each.name for each in dataclasses.fields(SweepSpec)]
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: {unknown_name('key', str(key), known)}")
    for key in ("settings", "set"):
        if not isinstance(values.get(key) or {}, Mapping):
            raise ConfigError(f"{where}: {key} must hold lines of the form 'setting: value'")
    axes = {key: _texts(values.get(key), f"{where}: {key}") for key in ("agent", "env", "preset")}
    for agent in axes["agent"]:
        agent_spec(agent)  # refuses a class, which a file may not name
    for env in axes["env"]:
        refuse_import(env, where)
    seeds = values.get("seeds", "0")
    seeds = ",".join(str(seed) for seed in seeds) if isinstance(seeds, list | tuple) else str(seeds)
    grid = {str(name): _values(each) for name, each in (values.get("set") or {}).items()}
    return SweepSpec(**axes, seeds=seeds, settings=dict(values.get("settings") or {}), set=grid)


def read_spec(path: Path) -> dict[str, Any]:
    """The keys of a sweep's YAML file, untyped.

    :raises rlopt.errors.ConfigError: if it does not exist or is not a YAML mapping
    """
    content = read_yaml(path, f"sweep file {path}")
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"the sweep is empty: {path} must hold agent:, env:, seeds:, settings:, set:")
    return content


def parse_grid(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """``learning_rate=1e-4,3e-4`` to its name and values; values of several numbers are written ``net_arch=64 64,256``.

    :raises rlopt.errors.ConfigError: for a text of another form, or a setting given twice
    """
    grid: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        parts = tuple(part.strip() for part in values.split(","))
        if not equals or not name or not all(parts):
            raise ConfigError(f"--set {text!r}: write name=value,value, such as learning_rate=1e-4,3e-4")
        if name in grid:
            raise ConfigError(f"--set {name} is given twice: write all its values in one")
        grid[name] = parts
    return grid


def expand(spec: SweepSpec, folder: Path) -> list[SweepRun]:
    """The runs of a sweep, seeds of a setting beside each other, each in a folder of its own below ``folder``.

    :raises rlopt.errors.ConfigError: for the first mistake in any of them, such as an unknown setting, with the nearest
        name, or a sweep of more than 100,000 runs
    """
    seeds = parse_seeds(spec.seeds)
    for agent in spec.agent:
        import_agent(agent)
    axes: list[list[Any]] = [list(spec.agent), list(spec.preset or (None,)), list(spec.env or (None,))]
    points = [dict(zip(spec.set, values, strict=True)) for values in itertools.product(*spec.set.values())]
    count = len(seeds) * len(points) * len(axes[0]) * len(axes[1]) * len(axes[2])
    if count > MOST_JOBS:
        raise ConfigError(f"the sweep has {count:,} runs: give at most {MOST_JOBS:,}")
    runs: list[SweepRun] = []
    for agent, preset, env, point in itertools.product(*axes, points):
        values = {**spec.settings, **point, **({} if env is None else {"env": env})}
        if preset is not None:
            values["preset"] = preset
        run, settings = resolved_settings(agent, values, preset, "sweep")
        both = {**dataclasses.asdict(settings), **dataclasses.asdict(run)}
        varied = {"preset": preset} if len(spec.preset) > 1 else {}
        varied |= {name: both[name] for name in point if len(spec.set[name]) > 1}
        setting = " ".join(f"{name}={_show(value)}" for name, value in varied.items())
        group = group_name([agent, run.env, *(f"{name}={_show(value)}" for name, value in varied.items())])
        runs += [training_job(agent, run, settings, setting, group, seed, folder) for seed in seeds]
    _require_different(runs)
    return runs


def training_job(
    agent: str, run: RunConfig, settings: Any, setting: str, group: str, seed: int, folder: Path
) -> SweepRun:
    """The run of one seed, in ``folder/group/seed<seed>``."""
    name = f"{group}/seed{seed}"
    # Absolute, as the processes of a cluster work in other folders.
    own = dataclasses.replace(
        in_wandb_group(run, folder.name), seed=seed, seeds=None, run_dir=str(folder.absolute() / name)
    )
    arguments = {"agent": agent, "run": dataclasses.asdict(own), "agent_config": dataclasses.asdict(settings)}
    return SweepRun(agent, run.env, setting, seed, group, max(run.num_threads, 1), Job(name, TRAINING, arguments))


def group_name(parts: Iterable[str]) -> str:
    """A folder's name from what it is about: no character that is awkward in paths, never longer than 110."""
    whole = "-".join(parts)
    name = re.sub(r"[^A-Za-z0-9._=+,-]+", "_", whole).lstrip(".-") or "runs"
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
    return name


def _require_different(runs: list[SweepRun]) -> None:
    seen: dict[str, SweepRun] = {}
    for run in runs:
        other = seen.setdefault(run.job.name, run)
        if other is not run:
            what = run.setting or f"{run.agent} on {run.env}"
            raise ConfigError(f"two runs of the sweep are the same ({what}, seed {run.seed}): leave one out")


def _show(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(_show(item) for item in value)
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _texts(value: Any, where: str) -> tuple[str, ...]:
    items = value if isinstance(value, list | tuple) else [] if value is None else [value]
    if not all(isinstance(item, str) for item in items):
        raise ConfigError(f"{where} must be a name or a list of names")
    return tuple(items)


def _values(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)
