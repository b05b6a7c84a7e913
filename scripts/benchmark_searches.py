"""The searches of ``--search`` on functions, with exact rankings and with simulated people, at a person's budget.

Every search shows 300 points in queries of m = 6 of which k = 3 are ranked, from first points x0 ~ N(0, I), with the
defaults of ``rlopt train zo_ranksgd``. A search whose row is in the table is not run again.

    python scripts/benchmark_searches.py run      # some minutes
    python scripts/benchmark_searches.py table    # prints the table from the kept searches
    python scripts/benchmark_searches.py write    # puts it into docs/results/searches.md
"""

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_rankings import quadratic, rosenbrock
from matplotlib.figure import Figure
from reproduction import script_parser, show

from rlopt.analysis.plotting import line_style, save_figure
from rlopt.feedback.oracles import Oracle, PlackettLuceOracle, ReturnOracle, person

POINTS, SEEDS = 300, 10
DIMENSIONS = (5, 20, 50, 100)
SEARCHES = {
    "zo_ranksgd": "ZO-RankSGD",
    "cmaes": "CMA-ES",
    "one_plus_lambda": "(1 + 5)-ES",
    "mirrored_cmaes": "mirrored CMA-ES",
    "elitist_cmaes": "elitist mirrored CMA-ES",
}
ORACLES: dict[str, Oracle] = {"exact": ReturnOracle(), "Plackett-Luce .2": PlackettLuceOracle(0.2), "person": person()}


def ellipsoid(points: np.ndarray) -> np.ndarray:
    """sum_i 100^(i / (d - 1)) x_i^2."""
    d = points.shape[-1]
    return np.asarray((points**2 * 10.0 ** (2 * np.arange(d) / (d - 1))).sum(-1))


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "quadratic": quadratic,
    "ellipsoid": ellipsoid,
    "rosenbrock": rosenbrock,
}


def searched(name: str, function: str, dimension: int, oracle: str, seed: int) -> float:
    """f at the last point over f at the first."""
    from rlopt.agents.zo_ranksgd.config import LINE_SEARCH_SETTINGS, ZORankSGDConfig
    from rlopt.agents.zo_ranksgd.methods import make_search

    settings: dict[str, Any] = {key: getattr(ZORankSGDConfig, key) for key in LINE_SEARCH_SETTINGS}
    settings |= {"m": 6, "k": 3, "smoothing": ZORankSGDConfig.smoothing, "subspace": None}
    rng = np.random.default_rng(seed)
    first = rng.normal(size=dimension)
    search, _ = make_search(name, first, settings, seed=seed)
    f = FUNCTIONS[function]
    while search.oracle_points < POINTS:
        query = search.ask()
        search.tell(ORACLES[oracle].rank(-f(query.candidates), query.k, rng))
    return float(f(search.point) / f(first))


def run_all(args: argparse.Namespace) -> None:
    for dimension in DIMENSIONS:
        for function in FUNCTIONS:
            for oracle in ORACLES:
                for name in SEARCHES:
                    for seed in range(SEEDS):
                        cell = {
                            "search": name,
                            "function": function,
                            "dimension": dimension,
                            "oracle": oracle,
                            "seed": seed,
                        }
                        if not args.results.find(**cell):
                            args.results.add(cell | {"ratio": searched(name, function, dimension, oracle, seed)})


def median(args: argparse.Namespace, name: str, function: str, dimension: int, oracle: str) -> float | None:
    """Of the seeds of a cell; None where none has run."""
    rows = args.results.find(search=name, function=function, dimension=dimension, oracle=oracle)
    return float(np.median([row["ratio"] for row in rows])) if rows else None


def table_text(args: argparse.Namespace) -> str:
    lines = [
        f"f at the last point over f at the first after {POINTS} points in queries of m = 6, k = 3: medians of {SEEDS} "
        "seeds, the best of a row in bold. The person errs as `--oracle noisy` does.",
        "",
        f"| d | function | answers | {' | '.join(SEARCHES.values())} |",
        "|---" * (3 + len(SEARCHES)) + "|",
    ]
    for dimension in DIMENSIONS:
        for function in FUNCTIONS:
            for oracle in ORACLES:
                found = [median(args, name, function, dimension, oracle) for name in SEARCHES]
                if None in found:
                    continue
                medians = [each for each in found if each is not None]
                cells = [f"**{each:.2g}**" if each == min(medians) else f"{each:.2g}" for each in medians]
                lines.append(f"| {dimension} | {function} | {oracle} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "`python scripts/benchmark_searches.py run`"])


def draw(args: argparse.Namespace, out: Path) -> None:
    """Medians over dimensions: a row of panels for each kind of answer, a column for each function."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    panels = figure.subplots(len(ORACLES), len(FUNCTIONS), sharex=True, sharey=True)
    for panel, (oracle, function) in zip(panels.flat, itertools.product(ORACLES, FUNCTIONS), strict=True):
        for index, (name, title) in enumerate(SEARCHES.items()):
            color, dash = line_style(index)
            medians = [median(args, name, function, dimension, oracle) or np.nan for dimension in DIMENSIONS]
            panel.plot(DIMENSIONS, medians, color=color, linestyle=dash, marker="o", markersize=4, label=title)
        panel.set(xscale="log", yscale="log", xticks=DIMENSIONS, xticklabels=DIMENSIONS)
        panel.minorticks_off()
        panel.grid(True, color="#e3e3e3", linewidth=0.8)
        panel.set_title(f"{function}, {oracle}", loc="left", fontsize=10)
    figure.supxlabel("dimension")
    figure.supylabel("f at the last point over f at the first")
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    save_figure(figure, out)


def main() -> None:
    key = ("search", "function", "dimension", "oracle", "seed")
    args = script_parser(__doc__ or "", "searches", key, runs=False).parse_args()
    if args.action == "run":
        run_all(args)
    show(args, "results searches", table_text(args))
    if args.action == "write":
        draw(args, args.page.with_suffix(".svg"))


if __name__ == "__main__":
    main()
