"""Groups of runs compared by their last scores, with intervals: what ``rlopt compare`` computes. No torch."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.analysis.compatibility import MIXES, action_repeat, check_comparable, simulator_notes, step_unit, task_of
from rlopt.analysis.curves import GRID_POINTS, GroupCurve, RunCurve, aggregate_runs, run_label
from rlopt.analysis.logs.read import read_curves
from rlopt.analysis.score_scales import Scale, read_scales
from rlopt.errors import ConfigError, unknown_name
from rlopt.statistics.aggregates import (
    Floats,
    Interval,
    bootstrap_band,
    bootstrap_interval,
    check_confidence,
    improvement_interval,
    iqm,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    profile_band,
    stacked,
)
from rlopt.statistics.sample_size import fewest_seeds, seeds_needed

AGGREGATES: dict[str, Callable[..., Any]] = {
    "iqm": iqm,
    "median": median,
    "mean": mean,
    "optimality_gap": optimality_gap,
}
ALL_TASKS = "all tasks, normalised"
PROFILE_POINTS = 200
ENOUGH_SEEDS = 5
"""With fewer of them in a task, a note says that bootstrap intervals are too narrow."""
POWER = 0.8
"""Probability with which the number of seeds of a claim finds the difference that was seen."""


@dataclass(frozen=True)
class Estimate:
    """A number and its bootstrap interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Profile:
    """The share of a group's runs above each threshold, with its band; all ``[points]``."""

    thresholds: Floats
    share: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed and their task, and what their last scores say."""

    label: str
    runs: dict[str, tuple[RunCurve, ...]]
    """By task, cut where the scores are taken."""
    scores: dict[str, Floats]
    """The last score of each run, by task, normalised if the comparison is."""
    aggregates: dict[str, Estimate]
    """By the names of :data:`AGGREGATES`; the optimality gap only where scores are normalised."""
    improvement: Estimate | None
    """Probability that a run is better than one of the reference; None for the reference itself."""
    seeds_needed: int | None
    """Seeds for each group and task to claim the difference from the reference; None where nothing can be said."""
    profile: Profile

    @property
    def seeds(self) -> tuple[int, int]:
        """Least and greatest number of runs of a task."""
        counts = [len(runs) for runs in self.runs.values()]
        return min(counts), max(counts)

    @property
    def steps(self) -> tuple[float, float]:
        """Least and greatest step of which a score is."""
        ends = [float(run.x[-1]) for runs in self.runs.values() for run in runs]
        return min(ends), max(ends)


@dataclass(frozen=True)
class Comparison:
    """All groups, the reference first, then by falling interquartile mean."""

    groups: tuple[Group, ...]
    tasks: tuple[str, ...]
    key: str
    confidence: float
    scales: dict[str, Scale] | None
    scale_source: str
    """What the scores were normalised with, in words; empty if they are as they were logged."""
    step_unit: str
    """What steps count; "simulator steps" are environment steps times the action repeat."""
    notes: tuple[str, ...]
    """What a reader of the numbers should know, a line each."""

    @property
    def reference(self) -> Group:
        """The group that the others are compared with: the first."""
        return self.groups[0]

    def curves(self) -> list[GroupCurve]:
        """Learning curves with bands over seeds: of each task as logged and, of several tasks, of all, normalised."""
        found = [
            aggregate_runs(task, group.label, group.runs[task], iqm, self.confidence)
            for task in self.tasks
            for group in self.groups
        ]
        if self.scales is not None and len(self.tasks) > 1:
            found += _over_tasks(self.groups, self.scales, self.confidence)
        return found


def compare_runs(
    runs: Sequence[str | Path],
    *,
    by: str = "agent",
    reference: str | None = None,
    key: str | None = None,
    normalise: str | None = None,
    mix: Collection[str] = (),
    env: str | None = None,
    confidence: float = 0.95,
) -> Comparison:
    """Compares groups of runs by the last score of each run, not its best.

    :param runs: run folders, and logs of other libraries as in :func:`rlopt.analysis.logs.read.read_curves`
    :param by: what tells groups apart: ``agent``, a setting, or several with commas between
    :param reference: label of the group that the others are compared with; default the first run's
    :param key: ``evaluation`` (mean return of the last evaluation) or a column of progress.csv; None takes
        :func:`rlopt.analysis.curves.default_key`
    :param normalise: see :func:`rlopt.analysis.score_scales.read_scales`; needed for several tasks
    :param mix: keys of :data:`rlopt.analysis.compatibility.MIXES`: differences that would be refused
    :param env: the environment of other libraries' logs that do not name theirs
    :param confidence: confidence level of all intervals, between 0 and 1
    :raises RunError: if a folder is not a run or has no score
    :raises ConfigError: if runs cannot be compared, or an argument is out of range
    """
    check_confidence(confidence)
    for name in mix:
        if name not in MIXES:
            raise unknown_name("mix", name, MIXES)
    notes: list[str] = []
    key, curves = read_curves(_once(runs), key, env=env, report=notes.append)
    labelled: dict[str, list[RunCurve]] = defaultdict(list)
    for curve in curves:
        labelled[run_label(curve, by)].append(curve)
    check_comparable(labelled, mix)
    first = next(iter(labelled)) if reference is None else reference
    if first not in labelled:
        raise unknown_name("group", first, labelled)
    grouped = {label: _by_task(members, mix) for label, members in labelled.items()}
    tasks = sorted({task for by_task in grouped.values() for task in by_task})
    notes += [note for task in tasks if (note := _cut(grouped, task))] if "budgets" in mix else []
    last = {
        label: {task: np.array([run.y[-1] for run in by_task[task]]) for task in tasks}
        for label, by_task in grouped.items()
    }
    last, scales, source = _normalised(last, tasks, normalise)
    everything = np.concatenate([values for scores in last.values() for values in scores.values()])
    groups = [
        _group(
            label, grouped[label], last[label], last[first], label == first, everything, scales is not None, confidence
        )
        for label in grouped
    ]
    groups.sort(key=lambda group: (group.label != first, -group.aggregates["iqm"].value))
    notes += [*simulator_notes(curves), *_few_seeds(groups, len(tasks), confidence)]
    return Comparison(
        tuple(groups), tuple(tasks), key, confidence, scales, source, step_unit(curves[0], mix), tuple(notes)
    )


def _once(runs: Sequence[str | Path]) -> Sequence[str | Path]:
    """The runs, none of which may be given twice."""
    if not runs:
        raise ConfigError("no run folders given")
    seen: set[Path] = set()
    for run in map(Path, runs):
        if run.resolve() in seen:
            raise ConfigError(f"run {run} is given twice: seeds would be counted twice")
        seen.add(run.resolve())
    return runs


def _normalised(
    last: dict[str, dict[str, Floats]], tasks: Sequence[str], normalise: str | None
) -> tuple[dict[str, dict[str, Floats]], dict[str, Scale] | None, str]:
    """The scores on their scale, the scale of each task, and what it was taken from; unchanged without one."""
    if normalise is None:
        if len(tasks) > 1:
            raise ConfigError(
                f"the scores of {len(tasks)} tasks have no common scale: give --normalise min-max, dm_control or a "
                "file with references"
            )
        return last, None, ""
    pooled = {task: [value for scores in last.values() for value in scores[task]] for task in tasks}
    scales, source = read_scales(normalise, tasks, pooled)
    scaled = {
        label: {task: scales[task].apply(values) for task, values in scores.items()} for label, scores in last.items()
    }
    return scaled, scales, source


def _cut(grouped: dict[str, dict[str, tuple[RunCurve, ...]]], task: str) -> str:
    """Cuts the curves of a task at the step that all have reached; a line that says so, empty if all end together."""
    runs = [run for by_task in grouped.values() for run in by_task[task]]
    shortest, end = min(((run, run.x[-1]) for run in runs), key=lambda pair: pair[1])
    longest = max(run.x[-1] for run in runs)
    for run in runs:
        if run.x[0] > end:
            where = f"step {end:,.0f}, where {shortest.path} ends"
            raise ConfigError(f"{run.path} has no score up to {where}: leave one out")
    for by_task in grouped.values():
        by_task[task] = tuple(
            dataclasses.replace(run, x=run.x[run.x <= end], y=run.y[run.x <= end]) for run in by_task[task]
        )
    if longest == end:
        return ""
    return (
        f"scores of {task} are the last ones up to step {end:,.0f}, where {shortest.path} ends; longer runs, up "
        f"to {longest:,.0f}, have not finished their schedules there"
    )


def _by_task(members: Sequence[RunCurve], mix: Collection[str]) -> dict[str, tuple[RunCurve, ...]]:
    """The runs of each task; with "repeats", their steps are counted in the simulator."""
    found: dict[str, list[RunCurve]] = defaultdict(list)
    for run in members:
        steps = run.x * action_repeat(run) if "repeats" in mix else run.x
        found[task_of(run, mix)].append(dataclasses.replace(run, x=steps))
    return {task: tuple(runs) for task, runs in found.items()}


def _group(
    label: str,
    runs: dict[str, tuple[RunCurve, ...]],
    scores: dict[str, Floats],
    reference: dict[str, Floats],
    is_reference: bool,
    everything: Floats,
    normalised: bool,
    confidence: float,
) -> Group:
    ours, theirs = _as_one(scores), _as_one(reference)
    point = stacked(ours) if isinstance(ours, dict) else ours
    aggregates = {
        name: Estimate(float(statistic(point)), bootstrap_interval(ours, statistic, confidence))
        for name, statistic in AGGREGATES.items()
        if normalised or name != "optimality_gap"
    }
    low, high = float(everything.min()), float(everything.max())
    margin = 0.03 * (high - low) or 0.03 * abs(high) or 1.0  # so that every profile is seen to begin at 1 and end at 0
    thresholds = np.linspace(low - margin, high + margin, PROFILE_POINTS)
    improvement, needed = None, None
    if not is_reference:
        interval = improvement_interval(ours, theirs, confidence)
        improvement = Estimate(probability_of_improvement(ours, theirs), interval)
        needed = seeds_needed(ours, theirs, confidence=confidence, power=POWER)
    profile = Profile(thresholds, performance_profile(ours, thresholds), *profile_band(ours, thresholds, confidence))
    return Group(label, runs, scores, aggregates, improvement, needed, profile)


def _as_one(scores: dict[str, Floats]) -> Any:
    """Scores as the statistics take them: ``[n]`` of one task, else by task."""
    return next(iter(scores.values())) if len(scores) == 1 else scores


def _over_tasks(groups: Sequence[Group], scales: Mapping[str, Scale], confidence: float) -> list[GroupCurve]:
    """Each group's interquartile mean over seeds and tasks of normalised scores, on a grid common to its runs."""
    found = []
    for group in groups:
        runs = [run for of_task in group.runs.values() for run in of_task]
        start, end = max(run.x[0] for run in runs), min(run.x[-1] for run in runs)
        if start > end:
            raise ConfigError(f"the runs of {group.label} do not overlap: compare tasks one by one")
        grid = np.linspace(start, end, GRID_POINTS) if end > start else np.array([start])
        curves = {
            task: np.stack([scales[task].apply(np.interp(grid, run.x, run.y)) for run in of_task])
            for task, of_task in group.runs.items()
        }
        low, high = bootstrap_band(curves, iqm, confidence)
        center = np.asarray(iqm(stacked(curves), axis=(0, 1)))
        found.append(GroupCurve(ALL_TASKS, group.label, tuple(runs), grid, center, low, high))
    return found


def _few_seeds(groups: Sequence[Group], n_tasks: int, confidence: float) -> list[str]:
    fewest = min(group.seeds[0] for group in groups)
    wanted = fewest_seeds(n_tasks, confidence)
    if fewest >= max(wanted, ENOUGH_SEEDS):
        return []
    note = f"{'one seed' if fewest == 1 else f'{fewest} seeds'} of a task: intervals are narrower than they say"
    if fewest < wanted and len(groups) > 1:
        level = f"{1 - confidence:.2g}"
        note += f", and with fewer than {wanted} no test free of assumptions tells groups apart at level {level}"
    return [note]
