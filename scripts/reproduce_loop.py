"""Regret of the paper's LOOP and its peers against the exact gain, each at its best of three constants. Cell by cell.

Beside the regret T g - sum r there is what the actions cost, the sum of their gaps to the best one: in expectation the
same up to the span, without the noise of the process. The constant of an algorithm is chosen for each environment by
the mean final cost over seeds of their own (1000, 1001, ...), and reported over others (0, 1, ...), so that choosing
does not flatter. Each cell is one run of one seed; a cell whose row is in the table is not run again, so the script can
be stopped and called again at any time.

    python scripts/reproduce_loop.py run                       # T = 100,000, 20 seeds
    python scripts/reproduce_loop.py run --env RiverSwim-6 --algorithm loop-bonus
    python scripts/reproduce_loop.py table                     # prints the tables from the kept runs
    python scripts/reproduce_loop.py write                     # puts them and the figure into docs/results/loop.md
"""

import argparse
import functools
import inspect
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from reproduction import script_parser, show, wanted

from rlopt.average_reward import log_log_slope, noise_band
from rlopt.statistics.aggregates import bootstrap_band, bootstrap_interval, mean

FIRST_TUNING_SEED = 1000
POINTS = 100
"""Of a regret curve."""


@dataclass(frozen=True)
class Task:
    env: str
    kwargs: dict[str, Any]
    linear: bool = False
    """Whether the process has features."""


TASKS = {
    "RiverSwim-6": Task("rlopt/RiverSwim-v0", {"n_states": 6}),
    "RiverSwim-12": Task("rlopt/RiverSwim-v0", {"n_states": 12}),
    "AccessControl": Task("rlopt/AccessControl-v0", {}),
    "AggregatedRiverSwim": Task("rlopt/AggregatedRiverSwim-v0", {}, linear=True),
}


@dataclass(frozen=True)
class Algorithm:
    title: str
    agent: str
    """Of ``rlopt train``."""
    constant: str
    """The setting that is chosen."""
    values: tuple[float, float, float]
    settings: tuple[tuple[str, Any], ...] = ()
    linear: bool = False
    one_hot: bool = False
    """Whether a linear algorithm is given one feature for each state and action where the process has no features."""


SCALES = (1e-4, 3e-4, 1e-3)
PAPER = (("procedure", "paper"),)
ELLIPSOID = (("planner", "ellipsoid"),)
ALGORITHMS = {
    "loop-bonus": Algorithm("LOOP, bonus", "loop", "beta_scale", SCALES, PAPER),
    "loop-ellipsoid": Algorithm("LOOP, ellipsoid", "loop", "beta_scale", SCALES, (*PAPER, *ELLIPSOID)),
    "mle": Algorithm("MLE-LOOP", "mle_loop", "beta_scale", (1e-3, 2e-3, 5e-3), (("model", "tabular"),)),
    "linear-bonus": Algorithm("LOOP, linear, bonus", "linear_loop", "beta_scale", SCALES, linear=True),
    "linear-ellipsoid": Algorithm(
        "LOOP, linear, ellipsoid", "linear_loop", "beta_scale", SCALES, ELLIPSOID, linear=True
    ),
    "fopo": Algorithm("FOPO, bonus", "fopo", "beta_scale", SCALES, linear=True),
    "olsvi_fh": Algorithm("OLSVI.FH", "olsvi_fh", "bonus_scale", (1e-4, 1e-3, 1e-2), linear=True, one_hot=True),
    "tsde": Algorithm("posterior sampling (TSDE)", "tsde", "prior", (0.03, 0.1, 0.3)),
    "ucrl2": Algorithm("UCRL2", "ucrl2", "transition_scale", (0.001, 0.005, 0.02)),
    "optimistic_q": Algorithm("optimistic Q", "optimistic_q", "bonus_scale", (0.001, 0.005, 0.02)),
    "differential_q": Algorithm("differential Q", "differential_q", "epsilon", (0.05, 0.1, 0.3)),
    "rvi_q": Algorithm("RVI Q", "rvi_q", "epsilon", (0.05, 0.1, 0.3)),
}


@dataclass(frozen=True)
class Cell:
    task: str
    algorithm: str
    value: float
    seed: int

    steps: int


def fits(task: str, name: str) -> bool:
    return TASKS[task].linear or not ALGORITHMS[name].linear or ALGORITHMS[name].one_hot


def chosen(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Pairs of environment and algorithm that fit each other and the options."""
    for task_name in TASKS:
        for name in ALGORITHMS:
            if fits(task_name, name) and wanted(args, env=task_name, algorithm=name):
                yield task_name, name


def run_all(args: argparse.Namespace) -> None:
    """Tunes, then reports, one pair after the other."""
    for task, name in chosen(args):
        for value in ALGORITHMS[name].values:
            for index in range(args.tuning_seeds):
                run_cell(Cell(task, name, value, FIRST_TUNING_SEED + index, args.steps), args)
        value = best_value(task, name, args)
        assert value is not None
        for seed in range(args.seeds):
            run_cell(Cell(task, name, value, seed, args.steps), args)


def best_value(task: str, name: str, args: argparse.Namespace) -> float | None:
    """The constant with the least mean final cost over the tuning seeds; None while runs are missing."""
    means: dict[float, float] = {}
    for value in ALGORITHMS[name].values:
        seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + args.tuning_seeds)
        rows = args.results.find(task=task, algorithm=name, value=value, steps=args.steps)
        costs = {row["seed"]: row["cost"] for row in rows}
        if any(seed not in costs for seed in seeds):
            return None
        means[value] = float(np.mean([costs[seed] for seed in seeds]))
    return min(means, key=lambda value: means[value])


def run_cell(cell: Cell, args: argparse.Namespace) -> None:
    if args.results.find(**vars(cell)):
        return
    result, settings = played(cell)
    args.results.add(result, settings)
    name = f"{cell.task}, {cell.algorithm} {cell.value:g}, seed {cell.seed}"
    print(f"{name}: cost {result['cost']:.1f}, {result['seconds']:.1f} s", flush=True)


def played(cell: Cell) -> tuple[dict[str, Any], dict[str, Any]]:
    """One run, from scratch: its row, and its settings with the versions; runs that tune keep no curve."""
    import gymnasium

    import rlopt.envs.tasks.own_tasks  # noqa: F401 registers them
    from rlopt import __version__
    from rlopt.average_reward import optimism_gaps, switch_times
    from rlopt.average_reward.callbacks import RewardRateCallback
    from rlopt.envs.average_reward.gap_recorder import GapRecorder
    from rlopt.registry import agent_spec, resolve

    task, algorithm = TASKS[cell.task], ALGORITHMS[cell.algorithm]
    env: Any = GapRecorder(gymnasium.make(task.env, **task.kwargs).unwrapped)
    settings = {**dict(algorithm.settings), algorithm.constant: cell.value}
    mdp = env.unwrapped.mdp
    if algorithm.linear and not task.linear:
        one_hot = np.eye(mdp.n_states * mdp.n_actions).reshape(mdp.n_states, mdp.n_actions, -1)
        settings["feature_map"] = lambda state: one_hot[int(state)]
    agent_class = resolve(agent_spec(algorithm.agent).algorithm)
    if "span" in inspect.signature(agent_class).parameters:
        settings["span"] = mdp.span
    agent = agent_class(env, seed=cell.seed, **settings)
    callback = RewardRateCallback(every=every(cell.steps))
    start = time.perf_counter()
    agent.learn(cell.steps, callback=callback, log_interval=None)
    seconds = time.perf_counter() - start
    gaps = optimism_gaps(agent, mdp)
    costs = np.cumsum(env.losses)[callback.steps - 1].round(3).tolist()
    row = {
        **vars(cell),
        "cost": costs[-1],
        "regret": float((mdp.gain * callback.steps - callback.reward_sums).round(3)[-1]),
        "switches": len(switch_times(agent)),
        "least_optimism_gap": float(gaps.min()) if len(gaps) else None,
        "seconds": seconds,
    }
    if cell.seed < FIRST_TUNING_SEED:
        row["cost_curve"] = [float(f"{cost:.5g}") for cost in costs]
    return row, {"config": dict(vars(agent.config)), "versions": {"rlopt": __version__, "numpy": np.__version__}}


def every(steps: int) -> int:
    """Steps between two points of a curve."""
    return max(steps // POINTS, 1)


@functools.cache
def process(task: str) -> Any:
    import gymnasium

    import rlopt.envs.tasks.own_tasks  # noqa: F401 registers them

    env: Any = gymnasium.make(TASKS[task].env, **TASKS[task].kwargs).unwrapped
    return env.mdp


def found(task: str, name: str, args: argparse.Namespace) -> tuple[float, list[dict[str, Any]]] | None:
    value = best_value(task, name, args)
    if value is None:
        return None
    rows = args.results.find(task=task, algorithm=name, value=value, steps=args.steps)
    kept = [row for row in rows if row["seed"] < args.seeds]
    return (value, kept) if kept else None


def table_text(args: argparse.Namespace) -> str:
    lines = [
        f"After {args.steps:,} steps, means over {args.seeds} seeds [95 % bootstrap interval]: the cost of the "
        "actions (the regret without the noise of the process), the slope of log cost over log steps in the last "
        "nine tenths, the regret, policy switches, and the share of seeds whose plans were all optimistic. The "
        f"constant was chosen among three by its cost on {args.tuning_seeds} other seeds."
    ]
    for task in TASKS:
        here = {name: found(task, name, args) for name in ALGORITHMS if fits(task, name)}
        known = ""
        if any(here.values()):
            noise = noise_band(process(task), [args.steps])[0]
            known = f": the optimal policy's own regret is within +-{noise:.0f} in 95%"
        head = "| algorithm | constant | cost | slope | regret | switches | optimistic | s/run |"
        rows = [row_text(task, name, results, args) for name, results in here.items()]
        lines += ["", f"**{task}**{known}", "", head, "|---" * 8 + "|", *rows]
    options = f" --steps {args.steps} --seeds {args.seeds} --tuning-seeds {args.tuning_seeds}"
    return "\n".join([*lines, "", f"`python scripts/reproduce_loop.py run{options}`"])


def row_text(task: str, name: str, here: tuple[float, list[dict[str, Any]]] | None, args: argparse.Namespace) -> str:
    algorithm = ALGORITHMS[name]
    if here is None:
        return f"| {algorithm.title} | not run | | | | | | |"
    value, results = here
    curves = np.array([result["cost_curve"] for result in results])
    costs, regrets = (np.array([result[name] for result in results]) for name in ("cost", "regret"))
    low, high = bootstrap_interval(costs, statistic=mean, seed=0)
    ((regret_low,), (regret_high,)) = bootstrap_band(regrets[:, None], statistic=mean, seed=0)
    missing = "" if len(results) == args.seeds else f" ({len(results)} of {args.seeds} seeds)"
    slope = log_log_slope(steps_of(curves, args), curves.mean(axis=0))
    gaps = [result["least_optimism_gap"] for result in results]
    plans = gaps[0] is not None
    switches = f"{np.mean([result['switches'] for result in results]):.0f}" if plans else "-"
    optimistic = f"{np.mean([gap >= -1e-6 for gap in gaps]):.0%}" if plans else "-"
    seconds = float(np.median([result["seconds"] for result in results]))
    return (
        f"| {algorithm.title} | `{algorithm.constant}` {value:g} | {costs.mean():.0f} [{low:.0f}, {high:.0f}]"
        f"{missing} | {slope:z.2f} | {regrets.mean():.0f} [{regret_low:.0f}, {regret_high:.0f}] | {switches} | "
        f"{optimistic} | {seconds:.1f} |"
    )


def steps_of(curves: np.ndarray, args: argparse.Namespace) -> np.ndarray:
    """The steps of the points of curves."""
    return every(args.steps) * np.arange(1, curves.shape[1] + 1)


def draw(args: argparse.Namespace, out: Path) -> bool:
    """Curves of the cost with bands, a panel for each environment; False without results."""
    from matplotlib.figure import Figure

    from rlopt.analysis.plotting import COLORS, save_figure

    figure = Figure(figsize=(12, 8), dpi=150, layout="constrained")
    panels = figure.subplots(2, 2)
    handles: dict[str, Any] = {}
    for panel, task in zip(panels.flat, TASKS, strict=True):
        for index, (name, algorithm) in enumerate(ALGORITHMS.items()):
            here = found(task, name, args) if fits(task, name) else None
            if here is None:
                continue
            costs = np.array([result["cost_curve"] for result in here[1]])
            steps = steps_of(costs, args)
            low, high = bootstrap_band(costs, statistic=mean, seed=0)
            look = {"color": COLORS[index % len(COLORS)], "linestyle": "--" if index >= len(COLORS) else "-"}
            (line,) = panel.plot(steps, costs.mean(axis=0), linewidth=1.6, **look)
            panel.fill_between(steps, low, high, color=look["color"], alpha=0.15, linewidth=0)
            handles[algorithm.title] = line
        panel.set(xscale="log", yscale="log", xlabel="steps", ylabel="regret without noise")
        panel.set_title(task, loc="left", fontsize=11)
        panel.grid(True, color="#e3e3e3", linewidth=0.8)
    if not handles:
        return False
    title = "mean and 95% bootstrap band over seeds"
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False, title=title
    )
    save_figure(figure, out)
    return True


def main() -> None:
    parser = script_parser(__doc__, "loop", ("task", "algorithm", "value", "steps", "seed"), runs=False)
    parser.add_argument("--env", choices=sorted(TASKS), help="run only this environment")
    parser.add_argument("--algorithm", choices=sorted(ALGORITHMS), help="run only this algorithm")
    parser.add_argument("--steps", type=int, default=100_000, help="of a run")
    parser.add_argument("--seeds", type=int, default=20, help="that are reported")
    parser.add_argument("--tuning-seeds", type=int, default=5, help="that each of the three constants is tried on")
    args = parser.parse_args()

    if args.action == "run":
        run_all(args)
    show(args, "results loop", table_text(args))
    if args.action == "write":
        draw(args, args.page.with_suffix(".svg"))


if __name__ == "__main__":
    main()
