"""Which runs may be compared: the same tasks, action repeat, budget, environment version and settings. No torch."""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from rlopt.analysis.curves import RunCurve
from rlopt.errors import ConfigError, RloptError
from rlopt.registry import agent_spec
from rlopt.run_folder import RunFolder, read_json

MIXES: dict[str, str] = {
    "tasks": "several tasks in one comparison; their scores must be normalised, see --normalise",
    "versions": "versions of an environment, such as Hopper-v4 and Hopper-v5, as one task",
    "repeats": "action repeats; steps are then counted in the simulator",
    "budgets": "numbers of training steps, and runs that are not complete; the last scores that all runs have reached "
    "are compared",
    "settings": "settings within a group, as if they were seeds",
}
"""What can be mixed in a comparison if it is said, and what then happens."""

_NO_MATTER = frozenset(
    {
        "seed", "seeds", "run_dir", "preset", "device", "num_threads", "backend", "compile", "profile",
        "checkpoint_every", "keep_checkpoints", "eval_every", "log_every", "env_timeout",
        "wandb", "wandb_entity", "wandb_group", "wandb_mode",
        # looked at one by one below
        "env", "max_episode_steps", "action_repeat", "total_timesteps",
    }
)  # fmt: skip
"""Settings in which the runs of a group may differ."""
_WHOLE = 0.98
"""Share of its budget that a log of another library must reach: the last episode seldom ends with the last step."""

_SIMULATORS = ("gymnasium", "mujoco", "dm-control", "envpool")


def task_of(run: RunCurve, mix: Collection[str] = ()) -> str:
    """The name of the task that a run was trained on: its environment and, where it was set, the time limit.

    :param mix: with "versions", the environment's version is left out
    """
    name = _unversioned(run.env) if "versions" in mix else run.env
    limit = run.settings.get("max_episode_steps")
    return name if limit is None else f"{name}, {limit} steps an episode"


def check_comparable(groups: Mapping[str, Sequence[RunCurve]], mix: Collection[str] = ()) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for runs that cannot be compared as they are, naming two and the flag.

    :param groups: the runs of each group, by its label
    :param mix: keys of :data:`MIXES` that are allowed
    """
    runs = [run for members in groups.values() for run in members]
    if "versions" not in mix:
        for name in dict.fromkeys(_unversioned(run.env) for run in runs):
            same = [run for run in runs if _unversioned(run.env) == name]
            _refuse(_kinds(same, lambda run: run.env), "versions", "versions of an environment")
    if "tasks" not in mix:
        _refuse(_kinds(runs, lambda run: task_of(run, mix)), "tasks", "tasks")
    tasks = {task_of(run, mix): run for run in runs}
    for label, members in groups.items():
        for task in tasks.keys() - {task_of(run, mix) for run in members}:
            raise ConfigError(f"{label} has no run of {task}, which {tasks[task].path} is of: compare the same tasks")
    if "repeats" not in mix:
        _refuse(_kinds(runs, action_repeat), "repeats", "action repeats")
    _check_steps(runs, mix)
    for label, members in groups.items():
        _check_group(label, members, mix)


def step_unit(run: RunCurve, mix: Collection[str] = ()) -> str:
    """What the steps of a run count: "environment steps", "gradient steps" or, with "repeats", "simulator steps"."""
    unit = run.unit
    if unit is None:
        try:
            unit = agent_spec(run.agent).step_unit
        except ConfigError:  # an agent that is not installed here, whose runs can be compared all the same
            unit = "environment steps"
    return "simulator steps" if "repeats" in mix and unit == "environment steps" else unit


def _check_steps(runs: Sequence[RunCurve], mix: Collection[str]) -> None:
    units = {step_unit(run): run for run in runs}
    if len(units) > 1:
        (one, first), (other, second) = units.items()
        raise ConfigError(
            f"{first.path} counts {one} and {second.path} {other}: the budgets cannot be compared; compare offline "
            f"learners only with each other"
        )
    if "budgets" in mix:
        return
    scaled = "repeats" in mix
    unknown = next((run for run in runs if not _budget(run)), None)
    ends = [float(run.x[-1]) for run in runs]
    if unknown is not None and (any(map(_budget, runs)) or min(ends) < _WHOLE * max(ends)):
        raise ConfigError(
            f"{unknown.path} does not say how many steps it was to take: give --mix-budgets to compare the last scores "
            "that all runs have reached"
        )
    _refuse(_kinds(runs, lambda run: _budget(run, scaled)), "budgets", "numbers of training steps")
    for run in runs:
        budget, ours = _budget(run), run.unit is None
        if run.x[-1] < (budget if ours else _WHOLE * budget):
            complete = f"complete it with {RunFolder(run.path).command}, or " if ours else ""
            raise ConfigError(
                f"the last score of {run.path} is of step {run.x[-1]:,.0f} of {budget:,}: {complete}give --mix-budgets "
                "to compare up to there"
            )


def _check_group(label: str, members: Sequence[RunCurve], mix: Collection[str]) -> None:
    """Refuses runs of a task that differ in more than their seed, and a seed that counts twice."""
    by_task: dict[str, list[RunCurve]] = defaultdict(list)
    for run in members:
        by_task[task_of(run, mix)].append(run)
    for runs in by_task.values():
        first, *others = runs
        for run in others if "settings" not in mix else ():
            name = _difference(first, run)
            if name is not None:
                ours, theirs = ({"agent": one.agent, **one.settings}[name] for one in (first, run))
                raise ConfigError(
                    f"the runs of {label} differ in {name} ({ours} in {first.path}, {theirs} in {run.path}): group by "
                    f"it too, --by ...,{name}, or give --mix-settings to count them as seeds of one group"
                )
        seen: list[RunCurve] = []
        for run in runs:
            for other in seen:
                if run.settings.get("seed") == other.settings.get("seed") and _difference(run, other) is None:
                    raise ConfigError(
                        f"{other.path} and {run.path} have the same settings and the same seed "
                        f"{run.settings.get('seed')}: it would count twice, leave one out"
                    )
            seen.append(run)


def _difference(first: RunCurve, second: RunCurve) -> str | None:
    """The first setting, by name, that makes two runs more than seeds of one group; what one has not is passed over."""
    if first.agent != second.agent:
        return "agent"
    names = sorted((first.settings.keys() & second.settings.keys()) - _NO_MATTER)
    return next((name for name in names if first.settings[name] != second.settings[name]), None)


def simulator_notes(runs: Sequence[RunCurve]) -> list[str]:
    """A line for each simulator package, and for what steps the environments, in which runs differ."""
    found: dict[str, dict[str, RunCurve]] = defaultdict(dict)
    for run in runs:
        try:
            record = read_json(RunFolder(run.path).versions)
        except RloptError:
            continue
        packages = record.get("packages") if isinstance(record, dict) else None
        packages = packages if isinstance(packages, dict) else {}
        for name in _SIMULATORS:
            if packages.get(name):
                found[name].setdefault(str(packages[name]), run)
        found["the backend"].setdefault(str(run.settings.get("backend", "auto")), run)
    return [
        f"{name} is " + ", ".join(f"{version} in {run.path}" for version, run in versions.items())
        for name, versions in found.items()
        if len(versions) > 1
    ]


def _kinds(runs: Sequence[RunCurve], kind: Callable[[RunCurve], Any]) -> dict[Any, RunCurve]:
    """The first run of each kind."""
    first: dict[Any, RunCurve] = {}
    for run in runs:
        first.setdefault(kind(run), run)
    return first


def _refuse(kinds: Mapping[Any, RunCurve], mix: str, what: str) -> None:
    if len(kinds) < 2:
        return
    (one, first), (other, second) = list(kinds.items())[:2]
    further = "" if mix != "tasks" else " and --normalise"
    shown = [f"{value:,}" if isinstance(value, int) else value for value in (one, other)]
    raise ConfigError(
        f"different {what}: {shown[0]} in {first.path}, {shown[1]} in {second.path}; give --mix-{mix}{further} to "
        f"compare them anyway"
    )


def action_repeat(run: RunCurve) -> int:
    """Simulator steps of one environment step of a run."""
    repeat = run.settings.get("action_repeat", 1)
    return repeat if isinstance(repeat, int) and repeat >= 1 else 1


def _budget(run: RunCurve, in_simulator_steps: bool = False) -> int:
    """Steps that the run is to take, 0 if its settings do not say."""
    steps = run.settings.get("total_timesteps")
    return steps * (action_repeat(run) if in_simulator_steps else 1) if isinstance(steps, int) else 0


def _unversioned(env: str) -> str:
    return re.sub(r"-v\d+$", "", env)
