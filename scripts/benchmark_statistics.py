"""Time of the statistics behind ``rlopt compare``, and of rliable's where it is installed; medians over rounds.

python scripts/benchmark_statistics.py
python scripts/benchmark_statistics.py --seeds 10 --tasks 6 --replicates 5000 --rounds 20 --rliable
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rlopt.statistics.aggregates import (
    bootstrap_band,
    bootstrap_interval,
    improvement_interval,
    mean,
    median,
    optimality_gap,
    profile_band,
)
from rlopt.statistics.sample_size import seeds_needed


def milliseconds(call: Callable[[], Any], rounds: int) -> tuple[float, float, float]:
    """Median, least and greatest time of ``call``, which is called once before."""
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times), min(times), max(times)


def peers(scores: np.ndarray, other: np.ndarray, replicates: int) -> dict[str, Callable[[], Any]]:
    """The same intervals by rliable."""
    from rliable import library, metrics

    def interval(data: Any, function: Callable[..., Any]) -> Any:
        return library.get_interval_estimates({"a": data}, lambda *x: np.array([function(*x)]), reps=replicates)

    return {
        "rliable: IQM, interval": lambda: interval(scores, metrics.aggregate_iqm),
        "rliable: probability of improvement, interval": lambda: interval(
            [scores, other], metrics.probability_of_improvement
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tasks", type=int, default=6)
    parser.add_argument("--replicates", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rliable", action="store_true", help="time rliable, once each")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    scores, other = rng.normal(size=(2, args.seeds, args.tasks))
    curves = rng.normal(size=(args.seeds, args.tasks, 100))
    ragged = {str(task): column[: args.seeds - task % 2] for task, column in enumerate(scores.T)}
    thresholds, count = np.linspace(-2, 2, 200), args.replicates
    calls: dict[str, Callable[[], Any]] = {
        "IQM, interval": lambda: bootstrap_interval(scores, n_resamples=count),
        "mean, interval": lambda: bootstrap_interval(scores, mean, n_resamples=count),
        "median, interval": lambda: bootstrap_interval(scores, median, n_resamples=count),
        "optimality gap, interval": lambda: bootstrap_interval(scores, optimality_gap, n_resamples=count),
        "IQM, interval, unequal numbers of seeds": lambda: bootstrap_interval(ragged, n_resamples=count),
        "probability of improvement, interval": lambda: improvement_interval(scores, other, n_resamples=count),
        "profile, band of 200 thresholds, 2000 replicates": lambda: profile_band(scores, thresholds),
        "curve, band of 100 points, 2000 replicates": lambda: bootstrap_band(curves),
        "seeds that a claim needs": lambda: seeds_needed(scores, scores + 0.5),
    }
    print(f"{count} replicates of {args.seeds} seeds x {args.tasks} tasks, ms: median (least to greatest)")
    for name, call in calls.items():
        middle, least, greatest = milliseconds(call, args.rounds)
        print(f"{name:<50}{middle:9.1f} ({least:.1f} to {greatest:.1f})", flush=True)
    for name, call in peers(scores, other, count).items() if args.rliable else ():
        start = time.perf_counter()
        call()
        print(f"{name:<50}{1e3 * (time.perf_counter() - start):9.1f}", flush=True)


if __name__ == "__main__":
    main()
