"""Search of settings with Optuna (extra ``tune``), its trials as jobs of an engine.

A trial is a training run for each seed; its value is the mean over them of the last evaluation. Evaluations while
training are compared between trials at the same step, and trials that fall behind are pruned.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlopt.console.progress import say
from rlopt.engine.display import Display
from rlopt.engine.jobs import DONE, FAILED, PRUNED, STOPPED, Job, JobResult
from rlopt.errors import ConfigError, RunError, one_line
from rlopt.run_folder import shell_quote
from rlopt.settings.presets import load_preset
from rlopt.settings.run import parse_seeds
from rlopt.sweeps.spec import training_job
from rlopt.sweeps.sweep import EngineOptions
from rlopt.sweeps.tune_spec import TuneFolder, TuneSpec, parse_axes

if TYPE_CHECKING:
    import optuna

BEST_FILE = "best.yaml"
"""The best settings found so far, a preset for ``rlopt train``."""
_ROWS = 5
_STUDY = "rlopt"


def run_tune(spec: TuneSpec, path: Path, options: EngineOptions | None = None) -> int:
    """Searches until ``spec.trials`` trials have ended; called again, also after a kill, it continues.

    :returns: 0 when that is so, 2 if no trial was done, 130 or 143 when a signal stopped it
    :raises rlopt.errors.ConfigError: if Optuna is not installed, or for mistakes in the settings
    :raises rlopt.errors.RunError: if the folder holds another search, or another process works on it
    """
    optuna = _import_optuna()
    options = options or EngineOptions()
    spec.check()
    folder = TuneFolder(path)
    folder.require_same(spec)
    threads = max(spec.resolved({})[0].num_threads, 1)
    with options.make(threads) as engine, folder.locked():
        folder.write_spec(spec, options)
        say(f"search folder: {path}")
        study = open_study(spec, path)
        engine.ahead = False  # a later trial is chosen by the results of those before
        trials = Trials(optuna, study, spec, path, engine.describe())
        try:
            code = engine.map(trials.jobs(), folder=path, retries=options.retries, observer=trials).exit_code
        finally:
            trials.finish()
    return _end(optuna, study, spec, folder, code)


def open_study(spec: TuneSpec, path: Path) -> optuna.Study:
    """The search's study, from its file of JSON lines if there is one.

    :raises rlopt.errors.RunError: if the file is damaged
    """
    optuna = _import_optuna()
    from optuna.storages import JournalStorage, journal

    file = path / "study.journal"
    _mend(file)
    lock = journal.JournalFileOpenLock(str(file)) if sys.platform == "win32" else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = JournalStorage(journal.JournalFileBackend(str(file), lock_obj=lock))
            study = optuna.create_study(
                storage=storage,
                study_name=_STUDY,
                direction="maximize",
                load_if_exists=True,
                pruner=_pruner(optuna, spec),
            )
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file} is damaged ({one_line(error)}): start the search anew in another --tune-dir") from None
    return study


def _mend(file: Path) -> None:
    """Cuts off a last line that a kill left half written, to which Optuna would append."""
    if not file.is_file():
        return
    content = file.read_bytes()
    if content and not content.endswith(b"\n"):
        with file.open("r+b") as opened:
            opened.truncate(content.rfind(b"\n") + 1)


def _pruner(optuna: Any, spec: TuneSpec) -> optuna.pruners.BasePruner:
    if spec.pruner == "none":
        return optuna.pruners.NopPruner()
    if spec.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5)
    run, _ = spec.resolved({})
    least = min(run.eval_every, run.total_timesteps)
    return optuna.pruners.HyperbandPruner(min_resource=least, max_resource=run.total_timesteps)


@dataclass
class _Trial:
    """A trial that has not ended."""

    trial: optuna.trial.Trial
    names: list[str]
    """Its jobs."""
    reported: set[int]
    """Steps at which its value is known."""
    seen: dict[int, dict[str, float]] = field(default_factory=dict)
    """The evaluations of its jobs by step, until all have one."""
    results: dict[str, JobResult] = field(default_factory=dict)
    pruned: bool = False


class Trials(Display):
    """The trials of a search as jobs, a run for each seed, and what becomes of them.

    :param where: what runs them
    """

    def __init__(self, optuna: Any, study: optuna.Study, spec: TuneSpec, path: Path, where: str) -> None:
        self._states = optuna.trial.TrialState
        self._trial_class, self._sampler_class = optuna.trial.Trial, optuna.samplers.TPESampler
        self._study, self._spec, self._path = study, spec, path
        self._seeds = parse_seeds(spec.base.seeds)
        self._axes = parse_axes(spec.search)
        self._open: dict[str, _Trial] = {}
        """By the name that the jobs of the trial share."""
        before = study.get_trials(deepcopy=False)
        self._begun = [trial for trial in before if trial.state == self._states.RUNNING]
        self._new = max(spec.trials - len(before), 0)
        jobs = (len(self._begun) + self._new) * len(self._seeds)
        super().__init__(jobs, where, "env steps")

    def jobs(self) -> Iterator[Job | None]:
        """The runs of the trials that an earlier process began, then those of new ones."""
        for frozen in self._begun:
            yield from self._begin(self._trial_class(self._study, frozen._trial_id), set(frozen.intermediate_values))
        for _ in range(self._new):
            yield from self._begin(self._study.ask(), set())

    def _begin(self, trial: optuna.trial.Trial, reported: set[int]) -> Iterator[Job]:
        # A sampler's state is not in the study's file: with one of its own, a trial is the same in a search continued.
        seed = np.random.SeedSequence([self._spec.sampler_seed, trial.number]).generate_state(1)
        self._study.sampler = self._sampler_class(seed=int(seed[0]), constant_liar=True)
        values = {axis.name: axis.suggest(trial) for axis in self._axes}
        group = f"trial{trial.number:04d}"
        try:
            run, settings = self._spec.resolved(values)
        except ConfigError as error:  # a combination that no run can take
            self.say(f"{group}: cannot be run: {error}")
            self._study.tell(trial, state=self._states.FAIL)
            return
        agent = self._spec.base.agent[0]
        runs = [training_job(agent, run, settings, "", group, seed, self._path) for seed in self._seeds]
        state = self._open[group] = _Trial(trial, [each.job.name for each in runs], reported)
        self.say(f"{group}: {_show(values)}")
        for each in runs:
            if state.pruned:  # before its other seeds began
                self._settle(JobResult(each.job.name, PRUNED))
            else:
                yield each.job

    def known(self, result: JobResult) -> None:
        super().known(result)
        self._settle(result)

    def ended(self, result: JobResult) -> None:
        super().ended(result)
        if result.status != STOPPED:
            self._settle(result)

    def evaluated(self, name: str, step: int, value: float) -> Sequence[str]:
        state = self._open[_group(name)]
        seen = state.seen.setdefault(step, {})
        seen[name] = value
        # A trial is judged at a step when all its seeds are there.
        if len(seen) < len(state.names) or state.pruned or step in state.reported:
            return ()
        mean = sum(seen.values()) / len(seen)
        state.reported.add(step)
        del state.seen[step]
        if math.isfinite(mean):
            state.trial.report(mean, step)
            state.pruned = state.trial.should_prune()
        return state.names if state.pruned else ()

    def _settle(self, result: JobResult) -> None:
        """Tells Optuna about a trial once all its runs have ended."""
        state = self._open[_group(result.name)]
        state.results[result.name] = result
        if len(state.results) < len(state.names):
            return
        del self._open[_group(result.name)]
        statuses = {each.status for each in state.results.values()}
        returns = [each.value.get("return") for each in state.results.values() if each.status == DONE]
        if PRUNED in statuses or state.pruned:
            self._study.tell(state.trial, state=self._states.PRUNED)
        elif FAILED in statuses or None in returns or not all(math.isfinite(value) for value in returns):
            self._study.tell(state.trial, state=self._states.FAIL)
        else:
            self._study.tell(state.trial, sum(returns) / len(returns))


def _group(name: str) -> str:
    return name.rpartition("/")[0]


def _show(values: dict[str, Any]) -> str:
    return " ".join(f"{name}={f'{value:.4g}' if isinstance(value, float) else value}" for name, value in values.items())


def _end(optuna: Any, study: optuna.Study, spec: TuneSpec, folder: TuneFolder, code: int) -> int:
    trials = study.get_trials(deepcopy=False)
    counts = Counter(trial.state.name.lower() for trial in trials)
    say(f"{len(trials)} trials: {', '.join(f'{count} {state}' for state, count in counts.items()) or 'none'}")
    complete = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    complete.sort(key=lambda trial: -(trial.value or 0.0))
    if complete:
        say(f"{'trial':<10} {'mean return':>12}  settings")
    for trial in complete[:_ROWS]:
        say(f"{trial.number:<10} {trial.value:>12.1f}  {_show(trial.params)}")
    if complete:
        best = folder.path / BEST_FILE
        _write_best(best, spec, complete[0])
        say(f"train with the best: rlopt train {shell_quote(spec.base.agent[0])} --preset {shell_quote(str(best))}")
    if code:
        say(f"stopped, checkpoints written; continue with: {folder.command}")
    elif not complete:
        say(f"no trial was done: see {folder.path / 'logs'}")
    say(f"search folder: {folder.path}")
    return code or (0 if complete else 2)


def _write_best(path: Path, spec: TuneSpec, best: optuna.trial.FrozenTrial) -> None:
    import yaml

    base = spec.base
    values: dict[str, Any] = load_preset(base.agent[0], base.preset[0]) if base.preset else {}
    values |= dict(base.settings) | best.params | ({"env": base.env[0]} if base.env else {})
    source = f"# Trial {best.number} of rlopt tune, mean return {best.value:.6g} over seeds {base.seeds}.\n"
    path.write_text(source + yaml.safe_dump(values, sort_keys=True), encoding="utf-8")


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError("rlopt tune needs Optuna: pip install 'rlopt[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
