"""ZO-RankSGD and its peers on functions of 100 variables, at equal numbers of points shown to the oracle.

All candidates of all queries count, those of line searches too. Settings with a grid are chosen for each task by the
mean over seeds of their own (1000, 1001, ...) and reported on others (0, 1, ...), from first points x0 ~ N(0, I).
A search whose row is in the table is not run again, so the script can be stopped and called again at any time.

    python scripts/benchmark_rankings.py run                     # everything: about half an hour on one busy core
    python scripts/benchmark_rankings.py run --task quadratic --method rank-15-15
    python scripts/benchmark_rankings.py table                   # prints the tables from the kept searches
    python scripts/benchmark_rankings.py write                   # puts them into docs/results/zo_ranksgd.md, draws
"""

import argparse
import importlib.metadata
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from reproduction import add_filters, script_parser, show, wanted

KEY = ("task", "method", "budget", "config", "seed")
FIRST_TUNING_SEED = 1000
CURVE_POINTS = 50


def quadratic(points: np.ndarray) -> np.ndarray:
    """|x|^2."""
    return np.asarray((points**2).sum(-1))


def rosenbrock(points: np.ndarray) -> np.ndarray:
    """sum_i 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2."""
    here, there = points[..., :-1], points[..., 1:]
    return np.asarray((100 * (there - here**2) ** 2 + (1 - here) ** 2).sum(-1))


@dataclass(frozen=True)
class Task:
    title: str
    function: Callable[[np.ndarray], np.ndarray]
    budget: int
    """Points shown to the oracle."""
    dimension: int = 100


TASKS = {
    "quadratic": Task("Quadratic, d = 100", quadratic, 15_000),
    "rosenbrock": Task("Rosenbrock, d = 100", rosenbrock, 30_000),
}


@dataclass(frozen=True)
class Method:
    title: str
    search: str
    """A name of ``rlopt`` or of the comparators."""
    sees: str
    settings: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """All combinations of these are tried."""


RANK = {"m": 15, "smoothing": 0.01}
RATES = (2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2, 5e-2)
SMOOTHINGS = (1e-2, 1e-4, 1e-6, 1e-8)
METHODS = {
    "rank-15-15": Method("ZO-RankSGD, k = m = 15", "ZORankSGD", "ranks", {**RANK, "k": 15}),
    "rank-15-5": Method("ZO-RankSGD, k = m / 3", "ZORankSGD", "ranks", {**RANK, "k": 5}),
    "rank-15-1": Method("ZO-RankSGD, k = 1", "ZORankSGD", "ranks", {**RANK, "k": 1}),
    "rank-100-100": Method("ZO-RankSGD, k = m = 100", "ZORankSGD", "ranks", {**RANK, "m": 100, "k": 100}),
    "rank-best-query": Method(
        "k = m = 15, best query in the line search",
        "ZORankSGD",
        "ranks",
        {**RANK, "k": 15, "best_query_in_line_search": True},
    ),
    "rank-no-average": Method(
        "k = m = 15, no averaging over failed rounds", "ZORankSGD", "ranks", {**RANK, "k": 15, "accumulate": False}
    ),
    "rank-short": Method(
        "k = m = 15, line search of 5 points and .9 decades",
        "ZORankSGD",
        "ranks",
        {**RANK, "k": 15, "line_search_points": 5, "line_search_decay": 0.5},
    ),
    "rank-no-search": Method(
        "k = m = 15, no line search",
        "ZORankSGD",
        "ranks",
        {**RANK, "k": 15, "line_search_points": 0},
        {"learning_rate": (0.003, 0.01, 0.03, 0.1, 0.3)},
    ),
    "rank-tuned": Method(
        "ZO-RankSGD, smoothing and span tuned",
        "ZORankSGD",
        "ranks",
        {"m": 15, "k": 15},
        {"smoothing": SMOOTHINGS, "line_search_decay": (0.4, 0.2, 0.1)},
    ),
    "zo-sgd": Method(
        "ZO-SGD, forward differences",
        "ZOSGD",
        "values",
        {"smoothing": 0.01},
        {"learning_rate": RATES, "directions": (1, 4, 14)},
    ),
    "zo-sgd-tuned": Method(
        "ZO-SGD, forward differences, smoothing tuned",
        "ZOSGD",
        "values",
        {"directions": 14},
        {"learning_rate": RATES, "smoothing": SMOOTHINGS},
    ),
    "zo-sgd-central": Method(
        "ZO-SGD, central differences",
        "ZOSGD",
        "values",
        {"smoothing": 0.01, "central": True},
        {"learning_rate": RATES, "directions": (1, 2, 7)},
    ),
    "ars": Method(
        "ARS V1-t",
        "ARS",
        "values",
        {"smoothing": 0.01},
        {"learning_rate": (0.001, 0.002, 0.005, 0.01, 0.02, 0.05), "top": (4, 8)},
    ),
    "openai-es": Method(
        "OpenAI-ES, antithetic, Adam",
        "OpenAIES",
        "ranks",
        {"smoothing": 0.01, "population": 16},
        {"learning_rate": (0.001, 0.003, 0.01, 0.03, 0.1)},
    ),
    "gld": Method(
        "GLD-search",
        "GLD",
        "ranks",
        {},
        {"radius": (0.3, 1.0, 3.0, 10.0), "smallest_radius": (1e-1, 1e-2, 1e-3, 1e-4, 1e-6)},
    ),
    "cbo": Method(
        "CBO, noise by coordinates",
        "CBO",
        "values",
        {"particles": 30},
        {"alpha": (0.1, 1.0, 100.0), "noise": (1.0, 2.0, 4.0), "step": (0.02, 0.1, 0.2, 0.4)},
    ),
    "cma-es": Method("CMA-ES, ranks as fitness", "CMAES", "ranks", {}, {"smoothing": (0.1, 0.3, 1.0)}),
}
DRAWN = ("rank-15-15", "rank-15-5", "rank-15-1", "rank-tuned", "zo-sgd", "zo-sgd-central", "gld", "openai-es", "cma-es")


def make(method: Method, initial: np.ndarray, seed: int, settings: dict[str, Any]) -> Any:
    import rlopt
    from rlopt.agents.zo_ranksgd import comparators

    kind = rlopt.ZORankSGD if method.search == "ZORankSGD" else getattr(comparators, method.search)
    return kind(initial, seed=seed, **settings)


def play(task: Task, method: Method, seed: int, settings: dict[str, Any], budget: int) -> dict[str, Any]:
    """One search, until its next query would pass the budget; a value of None where it left the range of numbers."""
    from rlopt.agents.zo_ranksgd import Ranking
    from rlopt.errors import AnswerError, NonFiniteError

    initial = np.random.default_rng(seed).standard_normal(task.dimension)
    search = make(method, initial, seed, settings)
    points, values = [0], [float(task.function(initial))]
    due, start = budget / CURVE_POINTS, time.perf_counter()
    try:
        with np.errstate(all="ignore"):
            while search.oracle_points + len(search.ask().candidates) <= budget:
                query = search.ask()
                found = task.function(query.candidates)
                search.tell(found if method.sees == "values" else Ranking.from_values(found, query.k))
                if search.oracle_points >= due * len(points):
                    points.append(search.oracle_points)
                    values.append(float(task.function(search.point)))
            final = float(task.function(search.point))
    except (AnswerError, NonFiniteError):
        final = np.inf
    return {
        "seed": seed,
        "final": final if np.isfinite(final) else None,
        "oracle_points": search.oracle_points,
        "seconds": round(time.perf_counter() - start, 2),
        "points": points,
        "values": [float(f"{value:.6g}") if np.isfinite(value) else None for value in values],
    }


def combinations(method: Method) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*method.grid.values()):
        yield {**method.settings, **dict(zip(method.grid, values, strict=True))}


def finals(runs: list[dict[str, Any]]) -> np.ndarray:
    return np.array([np.inf if run["final"] is None else run["final"] for run in runs])


def searches(task: str, method: str, args: argparse.Namespace, **cell: Any) -> list[dict[str, Any]]:
    """The kept searches of a method on a task."""
    return args.results.find(task=task, method=method, budget=args.budget or TASKS[task].budget, **cell)


def run_cell(task_name: str, name: str, args: argparse.Namespace) -> None:
    """Tunes what has a grid, then runs the reported seeds; continues what is there."""
    method = METHODS[name]
    for config in combinations(method) if method.grid else ():
        for index in range(args.tuning_seeds):
            run_search(task_name, name, config, FIRST_TUNING_SEED + index, args)
    best, _ = best_config(task_name, name, args)
    assert best is not None
    for seed in range(args.seeds):
        run_search(task_name, name, best, seed, args)
    values = finals(searches(task_name, name, args, config=best))
    print(f"{task_name} {name} median {np.median(values):.3g} with {best}", flush=True)


def run_search(task_name: str, name: str, config: dict[str, Any], seed: int, args: argparse.Namespace) -> None:
    """Plays one search and keeps it, without its curve if it tunes."""
    if searches(task_name, name, args, config=config, seed=seed):
        return
    budget = args.budget or TASKS[task_name].budget
    found = play(TASKS[task_name], METHODS[name], seed, config, budget)
    if seed >= FIRST_TUNING_SEED:
        found = {column: found[column] for column in ("seed", "final")}
    versions = {package: importlib.metadata.version(package) for package in ("numpy", "cma")}
    cell = {"task": task_name, "method": name, "budget": budget, "config": config}
    args.results.add(cell | found, {"versions": versions})


def best_config(task: str, name: str, args: argparse.Namespace) -> tuple[dict[str, Any] | None, int]:
    """The settings with the least mean, which a search that diverges once spoils; of equals the first.

    None while the grid is incomplete. Beside them the number of settings that were tried.
    """
    configs = list(combinations(METHODS[name]))
    if len(configs) == 1:
        return configs[0], 0
    means = []
    for config in configs:
        tried = [row for row in searches(task, name, args, config=config) if row["seed"] >= FIRST_TUNING_SEED]
        if len(tried) < args.tuning_seeds:
            return None, len(means)
        means.append(np.mean(finals(tried[: args.tuning_seeds])))
    return configs[int(np.argmin(means))], len(means)


def reported(task: str, name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The searches of the reported seeds with the chosen settings."""
    best, _ = best_config(task, name, args)
    return [row for row in searches(task, name, args, config=best) if row["seed"] < FIRST_TUNING_SEED]


def number(value: float) -> str:
    return "diverged" if not value < 1e12 else f"{value:.1f}" if 1 <= value < 1e4 else f"{value:.1e}"


def table_text(args: argparse.Namespace) -> str:
    lines = [
        f"f at the current point once the budget is spent: median over {args.seeds} seeds [least, largest]. Settings "
        f"in bold were chosen from a grid on {args.tuning_seeds} other seeds. Points of line searches count."
    ]
    for task_name, task in TASKS.items():
        rows = []
        for name, method in METHODS.items():
            runs = reported(task_name, name, args)
            if not runs:
                rows.append(f"| {method.title} | {method.sees} | not run | | |")
                continue
            values = finals(runs)
            _, n_tried = best_config(task_name, name, args)
            missing = "" if len(values) == args.seeds else f" ({len(values)} of {args.seeds} seeds)"
            settings = ", ".join(
                f"**{key} {value:g}**" if key in method.grid else f"{key} {value}"
                for key, value in runs[0]["config"].items()
            )
            seconds = np.median([run["seconds"] for run in runs])
            span = f"[{number(values.min())}, {number(values.max())}]"
            tried = f" of {n_tried}" if method.grid else ""
            rows.append(
                f"| {method.title} | {method.sees} | {number(float(np.median(values)))} {span}{missing} | "
                f"{settings}{tried} | {seconds:.1f} |"
            )
        budget = args.budget or task.budget
        head = "| method | sees | f | settings | s/run |"
        lines += ["", f"**{task.title}**, {budget:,} points", "", head, "|---" * 5 + "|", *rows]
    return "\n".join([*lines, "", "`python scripts/benchmark_rankings.py run`"])


def draw(args: argparse.Namespace, out: Path) -> None:
    """Median curves over seeds, a panel for each task."""
    from matplotlib.figure import Figure

    from rlopt.analysis.plotting import COLORS, save_figure

    figure = Figure(figsize=(12, 5), dpi=150, layout="constrained")
    handles: dict[str, Any] = {}
    for panel, (task_name, task) in zip(figure.subplots(1, 2), TASKS.items(), strict=True):
        for index, name in enumerate(DRAWN):
            curves = [run for run in reported(task_name, name, args) if None not in run["values"]]
            if not curves:
                continue
            length = min(len(run["points"]) for run in curves)
            median = np.median([run["values"][:length] for run in curves], axis=0)
            style = {"color": COLORS[index % len(COLORS)], "linestyle": "--" if index >= len(COLORS) else "-"}
            (line,) = panel.plot(curves[0]["points"][:length], median, linewidth=1.6, **style)
            handles[f"{METHODS[name].title} ({METHODS[name].sees})"] = line
        panel.set_yscale("log")
        panel.set_title(task.title, loc="left", fontsize=11)
        panel.set_xlabel("points shown to the oracle")
        panel.set_ylabel("f")
        panel.grid(True, color="#e3e3e3", linewidth=0.8)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3, frameon=False)
    save_figure(figure, out)


def main() -> None:
    parser = script_parser(__doc__, "zo_ranksgd", KEY, runs=False)
    add_filters(parser, task=sorted(TASKS), method=sorted(METHODS))
    parser.add_argument("--budget", type=int, help="points shown to the oracle, in place of the task's")
    parser.add_argument("--seeds", type=int, default=5, help="that are reported")
    parser.add_argument("--tuning-seeds", type=int, default=5, help="that each combination of a grid is tried on")
    args = parser.parse_args()

    if args.action == "run":
        for task in TASKS:
            for name in METHODS:
                if wanted(args, task=task, method=name):
                    run_cell(task, name, args)
    show(args, "results functions", table_text(args))
    if args.action == "write":
        draw(args, args.page.with_suffix(".svg"))


if __name__ == "__main__":
    main()
