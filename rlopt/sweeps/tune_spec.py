"""The settings that a search varies, and their bounds. Imports neither Optuna nor torch."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlopt.errors import ConfigError, RunError, one_line, unknown_name
from rlopt.registry import refuse_import
from rlopt.run_folder import TUNE_FILE, RunFolder, read_json, write_json
from rlopt.settings.fields import from_mapping
from rlopt.settings.presets import resolved_settings
from rlopt.storage.json import dump_json
from rlopt.sweeps.spec import SweepSpec, spec_from
from rlopt.sweeps.sweep import EngineOptions

if TYPE_CHECKING:
    import optuna

PRUNERS = ("median", "hyperband", "none")
_SPAN = re.compile(r"(log:)?([^:]+?)\.\.([^:]+)")


@dataclass(frozen=True)
class Axis:
    """One setting of a search: a span of numbers, or a list of choices."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    """Whether only whole numbers are tried."""
    choices: tuple[str, ...] = ()
    """Not empty: one of these instead."""

    def suggest(self, trial: optuna.trial.Trial) -> Any:
        """A value for ``trial``; the same as before if it has one already."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def examples(self) -> list[Any]:
        """The values that show whether the setting exists and takes the whole axis."""
        if self.choices:
            return list(self.choices)
        return [int(self.low), int(self.high)] if self.whole else [self.low, self.high]


def parse_axes(texts: Iterable[str]) -> tuple[Axis, ...]:
    """The axes of ``--search``: ``learning_rate=log:1e-5..1e-3``, ``gamma=0.9..0.999``, ``n_steps=64,128,256``.

    Both ends of a span written as whole numbers without a point or an exponent make it one of whole numbers.

    :raises rlopt.errors.ConfigError: for a text of another form, bounds in the wrong order, or a setting given twice
    """
    axes = tuple(_parse_axis(text) for text in texts)
    names = [axis.name for axis in axes]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--search {name} is given twice")
    if not axes:
        raise ConfigError("nothing to search: add --search, such as --search learning_rate=log:1e-5..1e-3")
    return axes


def _parse_axis(text: str) -> Axis:
    name, _, values = text.partition("=")
    name = name.strip().removeprefix("--").replace("-", "_")
    span = _SPAN.fullmatch(values.strip())
    if not name or not values:
        raise _malformed(text)
    if span is None:
        choices = tuple(part.strip() for part in values.split(","))
        if len(choices) < 2 or not all(choices) or len(set(choices)) < len(choices):
            raise _malformed(text)
        return Axis(name, choices=choices)
    try:
        low, high = float(span[2]), float(span[3])
    except ValueError:
        raise _malformed(text) from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"--search {text!r}: the lower end comes first, and both are finite")
    if span[1] and low <= 0:
        raise ConfigError(f"--search {text!r}: a logarithmic span begins above 0")
    whole = all(re.fullmatch(r"[+-]?\d+", end.strip()) for end in (span[2], span[3]))
    return Axis(name, low, high, bool(span[1]), whole)


def _malformed(text: str) -> ConfigError:
    return ConfigError(
        f"--search {text[:80]!r}: write name=low..high, name=log:low..high or name=choice,choice, such as "
        "learning_rate=log:1e-5..1e-3"
    )


@dataclass(frozen=True)
class TuneSpec:
    """What is searched, and how."""

    base: SweepSpec
    """One agent and one task, the seeds of a trial, and the settings that all trials share."""
    search: tuple[str, ...]
    """Axes as :func:`rlopt.sweeps.tune_spec.parse_axes` reads them."""
    trials: int = 50
    """Trials to have ended, at least 1; pruned and failed ones count."""
    pruner: str = "median"
    """What stops trials early: median, hyperband or none."""
    sampler_seed: int = 0

    def __post_init__(self) -> None:
        if len(self.base.agent) != 1 or len(self.base.env) > 1 or len(self.base.preset) > 1 or self.base.set:
            raise ConfigError(
                "a search is of one agent on one task: give one --agent, --env and --preset, and no --set"
            )
        if type(self.trials) is not int or self.trials < 1:
            raise ConfigError(f"trials must be a whole number from 1 on, not {self.trials!r}")
        if self.pruner not in PRUNERS:
            raise unknown_name("pruner", self.pruner, PRUNERS)
        if not all(isinstance(text, str) for text in self.search):
            raise ConfigError("search must be texts, such as learning_rate=log:1e-5..1e-3")
        for axis in parse_axes(self.search):
            if axis.name in self.base.settings:
                raise ConfigError(f"{axis.name} is both searched and given: leave one out")

    @property
    def digest(self) -> str:
        """Eight characters that tell this search from others; the number of trials is not among what they tell."""
        searched = {**self.base.settings, "search": self.search, "pruner": self.pruner, "seed": self.sampler_seed}
        return dataclasses.replace(self.base, settings={"all": searched}).digest

    def resolved(self, values: dict[str, Any]) -> tuple[Any, Any]:
        """The settings of a trial's runs.

        :raises rlopt.errors.ConfigError: for a setting that does not exist, or a value that it cannot take
        """
        values = {**self.base.settings, **values}
        if self.base.env:
            values["env"] = self.base.env[0]
        preset = self.base.preset[0] if self.base.preset else None
        if preset is not None:
            values["preset"] = preset
        return resolved_settings(self.base.agent[0], values, preset, "search")

    def check(self) -> None:
        """Tries both ends of every axis; raises :class:`rlopt.errors.ConfigError` for what no run can take."""
        run, _ = self.resolved({})
        if not run.eval_every:
            raise ConfigError("a search needs evaluations: leave --eval-every 0 out")
        for axis in parse_axes(self.search):
            for value in axis.examples():
                SweepSpec(self.base.agent, settings={axis.name: value})  # refuses env, seed and the like
                self.resolved({axis.name: value})


class TuneFolder(RunFolder):
    """The folder of a search: tune.json, study.journal, results/, logs/, and the folders of its trials' runs."""

    @property
    def config(self) -> Path:
        """The file that says what the search tries."""
        return self.path / TUNE_FILE

    def require_same(self, spec: TuneSpec) -> None:
        """Raises :class:`rlopt.errors.RunError` if the folder holds another search; more trials make no other one."""
        if not self.config.is_file():
            self.require_new()
            return
        before, _ = self.read_spec()
        # As JSON, in which a tuple of widths is the list that the file gives back.
        if dump_json(dataclasses.asdict(dataclasses.replace(before, trials=spec.trials))) != dump_json(
            dataclasses.asdict(spec)
        ):
            raise RunError(
                f"{self.path} holds another search: choose another --tune-dir, or continue it with {self.command}"
            )

    def write_spec(self, spec: TuneSpec, options: EngineOptions) -> None:
        """Writes what ``rlopt resume`` needs."""
        write_json(self.config, {"tune": dataclasses.asdict(spec), "engine": dataclasses.asdict(options)})

    def read_spec(self) -> tuple[TuneSpec, EngineOptions]:
        """The search in this folder.

        :raises rlopt.errors.RunError: if there is none, or its file is damaged
        """
        cure = "start the search anew in another --tune-dir"
        content = read_json(self.config, cure)
        try:
            values = dict(content["tune"])
            base = spec_from(values.pop("base"), str(self.config))
            values["search"] = tuple(values["search"])
            spec = TuneSpec(base, **values)
            for axis in parse_axes(spec.search):
                for choice in axis.choices if axis.name == "env" else ():
                    refuse_import(choice, str(self.config))
            return spec, from_mapping(EngineOptions, content["engine"], str(self.config))
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{self.config} is damaged ({one_line(error)}): {cure}") from None
